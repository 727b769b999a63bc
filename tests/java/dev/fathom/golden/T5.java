package dev.fathom.golden;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.EnumMap;
import java.util.Locale;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;
import dev.fathom.Activation;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.HeadShape;
import dev.fathom.HeadStats;
import dev.fathom.Kind;
import dev.fathom.KvShape;
import dev.fathom.LinearShape;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.Rows;

/** A T5 of the golden models on the kernels: its encoder is a block, its decoder two, with an exit between them. */
final class T5 {
    static final int ENTRIES = 512;

    /** Layers of a decoder, with the pool that holds their K,V and, in other entries, the encoder's. */
    record Stage(BlockShape shape, Buffer weights, Buffer pool) {}

    final JsonNode config;
    final int width;
    final Stage shallow;
    final Stage deep;

    private final Context context;
    private final Arena arena;
    private final Map<String, Tensor> tensors;
    private final HeadShape headShape;
    private final Buffer head;

    T5(Context context, Arena arena, Path directory, int shallowLayers) throws IOException {
        this.context = context;
        this.arena = arena;
        config = Golden.json(directory.resolve("config.json"));
        tensors = Golden.model(directory);
        width = integer("d_model");
        shallow = stage("decoder", 0, shallowLayers);
        deep = stage("decoder", shallowLayers, integer("num_decoder_layers"));
        boolean tied = config.get("tie_word_embeddings").booleanValue();
        headShape = new HeadShape(width, integer("vocab_size"), DType.F32, NormKind.RMS, eps(),
                tied ? (float) (1 / Math.sqrt(width)) : 1, 0, 1);
        head = packed(new LinearShape(width, integer("vocab_size"), DType.F32), tied ? "shared" : "lm_head");
    }

    int integer(String name) {
        return config.get(name).intValue();
    }

    private float eps() {
        return config.get("layer_norm_epsilon").floatValue();
    }

    // ---- weights

    private Buffer source(String name) {
        Tensor tensor = tensors.get(name + ".weight");
        return context.allocate(arena, tensor.bytes().length).write(tensor.bytes());
    }

    private DType type(String name) {
        return DType.valueOf(tensors.get(name + ".weight").type());
    }

    private Buffer packed(LinearShape shape, String name) {
        Buffer packed = context.allocate(arena, context.linearBytes(shape));
        context.linearPack(shape, 0, shape.outFeatures(), type(name), source(name), packed);
        return packed;
    }

    private boolean local() {
        return config.has("encoder_attention_type");
    }

    /** Layers {@code from .. to)} of the encoder or the decoder. */
    private Stage stage(String stack, int from, int to) {
        boolean cross = stack.equals("decoder"), gated = config.get("feed_forward_proj").asText().startsWith("gated");
        int reach = integer("relative_attention_max_distance");
        BlockShape shape = BlockShape.builder(to - from, width, integer("d_ff"), integer("num_heads"))
                .headDim(integer("d_kv")).norm(NormKind.RMS, eps()).rope(RopeStyle.NONE).attentionScale(1)
                .activation(gated ? Activation.GELU_TANH : Activation.RELU, gated).cross(cross)
                .relativeBias(cross ? reach + 1 : 2 * reach + 1, reach).build();
        Buffer weights = context.allocate(arena, context.blockBytes(shape));
        String attention = !cross && local() ? "LocalSelfAttention" : "SelfAttention";
        for (int layer = from; layer < to; layer++) {
            int l = layer - from;
            names(stack + ".block." + layer + ".layer.", attention, cross, gated).forEach((part, name) ->
                    context.blockPack(shape, l, 0, part, Kind.WEIGHT, 1, type(name), source(name), weights));
        }
        String bias = stack + ".block.0.layer.0." + attention + ".relative_attention_bias.weight";
        context.blockPack(shape, 0, 0, Part.RELATIVE_BIAS, Kind.WEIGHT, 1, DType.F32,
                relativeBias(tensors.get(bias), shape, !cross), weights);
        return new Stage(shape, weights, context.allocate(arena, context.kvBytes(shape.kv(ENTRIES))));
    }

    private static Map<Part, String> names(String layer, String attention, boolean cross, boolean gated) {
        Map<Part, String> names = new EnumMap<>(Part.class);
        for (Part part : new Part[] {Part.Q, Part.K, Part.V, Part.O}) {
            names.put(part, layer + "0." + attention + "." + part.name().toLowerCase(Locale.ROOT));
        }
        names.put(Part.ATTENTION_PRE_NORM, layer + "0.layer_norm");
        if (cross) {
            names.put(Part.CROSS_Q, layer + "1.EncDecAttention.q");
            names.put(Part.CROSS_O, layer + "1.EncDecAttention.o");
            names.put(Part.CROSS_PRE_NORM, layer + "1.layer_norm");
        }
        String last = layer + (cross ? 2 : 1);
        if (gated) names.put(Part.GATE, last + ".DenseReluDense.wi_0");
        names.put(Part.UP, last + (gated ? ".DenseReluDense.wi_1" : ".DenseReluDense.wi"));
        names.put(Part.DOWN, last + ".DenseReluDense.wo");
        names.put(Part.MLP_PRE_NORM, last + ".layer_norm");
        return names;
    }

    /** [buckets, heads] of a checkpoint as [heads, differences]. */
    private Buffer relativeBias(Tensor buckets, BlockShape shape, boolean bidirectional) {
        int columns = shape.relativeWidth(), heads = shape.heads();
        Buffer table = context.allocate(arena, shape.elements(Part.RELATIVE_BIAS, Kind.WEIGHT) * 4);
        for (int i = 0; i < columns; i++) {
            int bucket = bucket(i - shape.relativeCenter(), bidirectional, buckets.elements() / heads,
                    integer("relative_attention_max_distance"));
            for (int h = 0; h < heads; h++) {
                table.setFloat((long) h * columns + i, (float) buckets.get(bucket * heads + h));
            }
        }
        return table;
    }

    /** T5's bucket of a key at query position + difference; 1e-9 keeps exact powers on their side. */
    private static int bucket(int difference, boolean bidirectional, int buckets, int mostDistance) {
        int half = bidirectional ? buckets / 2 : buckets, exact = half / 2;
        int first = bidirectional && difference > 0 ? half : 0;
        int distance = bidirectional ? Math.abs(difference) : Math.max(0, -difference);
        if (distance < exact) return first + distance;
        double scale = Math.log((double) distance / exact) / Math.log((double) mostDistance / exact);
        return first + Math.min(half - 1, exact + (int) (scale * (half - exact) + 1e-9));
    }

    // ---- running

    Buffer floats(int count) {
        return context.allocate(arena, count * 4L);
    }

    Rows rows(int count) {
        return Rows.allocate(context, arena, count);
    }

    /** Embeddings of tokens, [ids, d_model]. */
    Buffer embed(int... ids) {
        Tensor shared = tensors.get("shared.weight");
        Buffer out = floats(ids.length * width);
        for (int i = 0; i < ids.length * width; i++) {
            out.setFloat(i, (float) shared.get(ids[i / width] * width + i % width));
        }
        return out;
    }

    /** The encoder's output of several sources in one call, one after the other. */
    Buffer encode(int[][] sources) {
        Stage encoder = stage("encoder", 0, integer("num_layers"));
        int count = 0;
        for (int[] source : sources) count += source.length;
        Rows rows = rows(count);
        Buffer entries = floats(count), hidden = floats(count * width);
        int at = 0;
        for (int[] source : sources) {
            hidden.segment().asSlice(at * width * 4L).copyFrom(embed(source).segment());
            for (int i = 0, begin = at; i < source.length; i++, at++) {
                entries.setInt(at, at);
                int start = local() ? Math.max(0, i - integer("local_radius")) : 0;
                int end = local() ? Math.min(source.length, i + integer("local_radius") + 1) : source.length;
                rows.set(at, begin, end, i, 0, at).start(at, start);
            }
        }
        context.block(encoder.shape(), count, rows, null, encoder.weights(), entries, null, ENTRIES, encoder.pool(),
                hidden);
        context.norm(new NormShape(NormKind.RMS, width, eps()), count, null, hidden,
                floats("encoder.final_layer_norm"), null, hidden);
        return hidden;
    }

    private Buffer floats(String name) {
        double[] values = tensors.get(name + ".weight").values();
        Buffer buffer = floats(values.length);
        for (int i = 0; i < values.length; i++) buffer.setFloat(i, (float) values[i]);
        return buffer;
    }

    /** Stores what the cross-attention of every decoder layer reads of an encoder's tokens, from an entry on. */
    void remember(Buffer memory, int count, int firstEntry) {
        Rows rows = rows(count);
        for (int i = 0; i < count; i++) rows.entry(i, firstEntry + i);
        int inner = integer("num_heads") * integer("d_kv"), layer = 0;
        LinearShape shape = new LinearShape(width, inner, DType.F32);
        for (Stage stage : new Stage[] {shallow, deep}) {
            KvShape kv = stage.shape().kv(ENTRIES);
            for (int l = 0; l < stage.shape().layers(); l++, layer++) {
                String name = "decoder.block." + layer + ".layer.1.EncDecAttention.";
                Buffer k = floats(count * inner), v = floats(count * inner);
                context.linear(shape, count, null, memory, packed(shape, name + "k"), null, null, null, null, k);
                context.linear(shape, count, null, memory, packed(shape, name + "v"), null, null, null, null, v);
                context.kvWrite(kv, l, count, rows, k, v, stage.pool());
            }
        }
    }

    void run(Stage stage, int count, Rows rows, Rows cross, Buffer entries, Buffer hidden) {
        context.block(stage.shape(), count, rows, cross, stage.weights(), entries, null, ENTRIES, stage.pool(), hidden);
    }

    /** Final norm and head on states behind any layer; the logit of one id per row too. */
    HeadStats head(Buffer states, int count, Buffer ids, Buffer logit) {
        HeadStats stats = HeadStats.allocate(context, arena, count);
        context.head(headShape, count, states, floats("decoder.final_layer_norm"), null, head, ids, stats, logit, null);
        return stats;
    }
}
