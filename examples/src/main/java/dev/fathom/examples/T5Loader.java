package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;

import dev.fathom.BackfillShape;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.HeadShape;
import dev.fathom.Kind;
import dev.fathom.KvShape;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.Encoder;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.Head;
import dev.fathom.depth.KvCache;
import dev.fathom.depth.KvPolicy;
import dev.fathom.depth.KvProjection;
import dev.fathom.depth.Router;
import dev.fathom.depth.Stage;

/**
 * Packs a T5 checkpoint with the tensor names of transformers. Attention has no scale, its bias is that of the first
 * layer, and a tied head scales by {@code hiddenSize^-0.5}.
 */
final class T5Loader {
    private final Context context;
    private final T5Config config;
    private final Checkpoint checkpoint;
    private final WeightTypes types;
    private final boolean propagates;
    private final Packing packing;

    private T5Loader(Context context, T5Config config, Checkpoint checkpoint, WeightTypes types, boolean propagates) {
        this.context = context;
        this.config = config;
        this.checkpoint = checkpoint;
        this.types = types;
        this.propagates = propagates;
        packing = new Packing(context);
    }

    /** As {@link ModelLoader#load}. */
    static ModelLoader.Loaded load(Context context, T5Config config, Checkpoint checkpoint, WeightTypes types,
            boolean propagates) {
        return new T5Loader(context, config, checkpoint, types, propagates).load();
    }

    private ModelLoader.Loaded load() {
        int hidden = config.hiddenSize();
        int words = config.vocabSize();
        float scale = config.tiedEmbeddings() ? (float) (1 / Math.sqrt(hidden)) : 1;
        HeadShape head = new HeadShape(hidden, words, types.head(), NormKind.RMS, config.normEps(), scale, 0, 0);
        Buffer table = packing.linear(head.weights(), checkpoint.get("shared.weight", words, hidden));
        for (String copy : List.of("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")) {
            checkpoint.find(copy, words, hidden); // the shared table again
        }
        Tensor own = config.tiedEmbeddings() ? null : checkpoint.get("lm_head.weight", words, hidden);
        if (own == null) checkpoint.find("lm_head.weight", words, hidden);
        Buffer headWeights = own == null ? table : packing.linear(head.weights(), own);

        EmbedShape embedding = new EmbedShape(words, hidden, types.head(), true, 1);
        Encoder encoder = new Encoder(embedding, table, List.of(stage(new Stack("encoder", 0, config.encoderLayers()))),
                new NormShape(NormKind.RMS, hidden, 1, config.normEps()),
                packing.vector(checkpoint.get("encoder.final_layer_norm.weight", hidden)), null, config.localRadius());
        List<Stage> stages = new ArrayList<>();
        List<ExitPoint> exits = new ArrayList<>();
        int begin = 0;
        for (int exit : config.exits()) {
            if (exit >= config.decoderLayers()) {
                throw new UserException("An exit behind layer " + exit + " of " + config.decoderLayers()
                        + " skips nothing.");
            }
            exits.add(new ExitPoint(stages.size(), 0));
            stages.add(stage(new Stack("decoder", begin, exit)));
            begin = exit;
        }
        stages.add(stage(new Stack("decoder", begin, config.decoderLayers())));
        Buffer gain = packing.vector(checkpoint.get("decoder.final_layer_norm.weight", hidden));
        ExitHeads heads = ExitHeads.load(packing, hidden, checkpoint, exits);
        checkpoint.requireAllRead();
        return new ModelLoader.Loaded(new DepthModel(embedding, table, stages, new Head(head, gain, null, headWeights),
                encoder), heads);
    }

    /** Layers {@code begin .. end)} of the encoder or the decoder. */
    private record Stack(String name, int begin, int end) {
        boolean isDecoder() {
            return name.equals("decoder");
        }

        String layer(int layer) {
            return name + ".block." + (begin + layer) + ".layer.";
        }
    }

    private String selfAttention(Stack stack) {
        return !stack.isDecoder() && config.localRadius() > 0 ? "LocalSelfAttention" : "SelfAttention";
    }

    private Stage stage(Stack stack) {
        RelativeBuckets relative = new RelativeBuckets(!stack.isDecoder(), config.buckets(), config.mostDistance());
        BlockShape shape = BlockShape
                .builder(stack.end - stack.begin, config.hiddenSize(), config.intermediateSize(), config.heads())
                .headDim(config.headDim()).weightType(types.layers()).kvType(types.kv())
                .norm(NormKind.RMS, config.normEps()).rope(RopeStyle.NONE).attentionScale(1)
                .activation(config.activation(), config.gated())
                .cross(stack.isDecoder()).relativeBias(relative.width(), relative.center()).build();
        Buffer weights = packing.allocate("the weights of the " + stack.name, context.blockBytes(shape));
        for (int layer = 0; layer < shape.layers(); layer++) {
            int at = layer;
            tensors(stack, layer).forEach((part, tensor) ->
                    packing.block(shape, at, 0, part, Kind.WEIGHT, 1, tensor, weights));
        }
        Tensor bias = checkpoint.get(stack.name + ".block.0.layer.0." + selfAttention(stack)
                + ".relative_attention_bias.weight", config.buckets(), config.heads());
        try (Arena scratch = Arena.ofConfined()) {
            Buffer table = packing.vector(scratch, relative.table(bias.toFloats(), config.heads()));
            context.blockPack(shape, 0, 0, Part.RELATIVE_BIAS, Kind.WEIGHT, 1, DType.F32, table, weights);
        }
        if (!stack.isDecoder()) return new Stage(shape, weights);
        return new Stage(shape, weights, new Router.Always(), KvPolicy.PER_DEPTH,
                propagates ? projection(stack, shape, "0.SelfAttention", true) : null,
                projection(stack, shape, "1.EncDecAttention", false));
    }

    private Map<Part, Tensor> tensors(Stack stack, int layer) {
        int hidden = config.hiddenSize();
        int inner = config.heads() * config.headDim();
        int wide = config.intermediateSize();
        String prefix = stack.layer(layer);
        String attention = prefix + "0." + selfAttention(stack) + ".";
        Map<Part, Tensor> tensors = new EnumMap<>(Part.class);
        tensors.put(Part.ATTENTION_PRE_NORM, checkpoint.get(prefix + "0.layer_norm.weight", hidden));
        tensors.put(Part.Q, checkpoint.get(attention + "q.weight", inner, hidden));
        tensors.put(Part.K, checkpoint.get(attention + "k.weight", inner, hidden));
        tensors.put(Part.V, checkpoint.get(attention + "v.weight", inner, hidden));
        tensors.put(Part.O, checkpoint.get(attention + "o.weight", hidden, inner));
        String last = prefix + "1.";
        if (stack.isDecoder()) {
            tensors.put(Part.CROSS_PRE_NORM, checkpoint.get(prefix + "1.layer_norm.weight", hidden));
            tensors.put(Part.CROSS_Q, checkpoint.get(prefix + "1.EncDecAttention.q.weight", inner, hidden));
            tensors.put(Part.CROSS_O, checkpoint.get(prefix + "1.EncDecAttention.o.weight", hidden, inner));
            // Some files keep a bias table here, which no model reads.
            checkpoint.find(prefix + "1.EncDecAttention.relative_attention_bias.weight", config.buckets(),
                    config.heads());
            last = prefix + "2.";
        }
        tensors.put(Part.MLP_PRE_NORM, checkpoint.get(last + "layer_norm.weight", hidden));
        if (config.gated()) tensors.put(Part.GATE, checkpoint.get(last + "DenseReluDense.wi_0.weight", wide, hidden));
        tensors.put(Part.UP, checkpoint.get(last + (config.gated() ? "DenseReluDense.wi_1.weight"
                : "DenseReluDense.wi.weight"), wide, hidden));
        tensors.put(Part.DOWN, checkpoint.get(last + "DenseReluDense.wo.weight", hidden, wide));
        return tensors;
    }

    /** K and V of all layers of a stack by the attention of that name, from normed states or from them as they are. */
    private KvProjection projection(Stack stack, BlockShape shape, String attention, boolean normed) {
        int hidden = config.hiddenSize();
        int inner = config.heads() * config.headDim();
        BackfillShape backfill = new BackfillShape(hidden, 1, types.layers(), normed ? NormKind.RMS : null,
                RopeStyle.NONE, 0, normed ? config.normEps() : 0);
        KvShape kv = shape.kv(KvCache.PAGE);
        Buffer packed = packing.allocate("the projections of the " + stack.name, context.backfillBytes(backfill, kv));
        for (int layer = 0; layer < shape.layers(); layer++) {
            String prefix = stack.layer(layer) + attention + ".";
            Tensor k = checkpoint.get(prefix + "k.weight", inner, hidden);
            Tensor v = checkpoint.get(prefix + "v.weight", inner, hidden);
            try (Arena scratch = Arena.ofConfined()) {
                Buffer gain = normed ? packing.vector(scratch,
                        checkpoint.get(stack.layer(layer) + "0.layer_norm.weight", hidden).toFloats()) : null;
                context.backfillPack(backfill, kv, 0, layer, DType.F32, packing.vector(scratch, k.toFloats()),
                        packing.vector(scratch, v.toFloats()), null, null, gain, null, packed);
            }
        }
        return new KvProjection(backfill, List.of(packed), null);
    }
}
