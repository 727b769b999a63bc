package dev.fathom.depth;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.GateFunction;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.HeadShape;
import dev.fathom.Kind;
import dev.fathom.NormKind;
import dev.fathom.Part;
import dev.fathom.RouterKind;

/** A small model of random weights, kept as plain arrays: packed for a context, or read by {@link ReferenceModel}. */
final class RandomModel {
    static final int VOCAB = 96;
    static final int HIDDEN = 48;
    static final float EPS = 1e-5f;

    private static final int INTERMEDIATE = 72;
    private static final int HEADS = 3;
    private static final int HEAD_DIM = 16;

    /** The systems under test. Blocks of one or two layers, three depths at most. */
    enum System {
        VANILLA, RECURSIVE, RECURSIVE_SEQUENCE, RELAXED, EXPERT, EXPERT_MLP_TANH, EXPERT_ADDITIVE, EXPERT_SHARED_KV,
        TOKEN_SOFTMAX, TOKEN_SIGMOID_BIAS, TOKEN_ADDITIVE, EXPERT_UPDATED_KV, EXPERT_LATEST_KV,
        SHALLOW_DEEP, CYCLE, CYCLE_RELAXED
    }

    /** One tensor of a block. */
    record Key(int layer, int depth, Part part, Kind kind) {}

    /**
     * @param matrices per depth, the parts of its router
     * @param bias     per output, or null
     */
    record Routing(GateShape shape, float[][][] matrices, float[] bias, Router.Gating gating) {}

    /** @param routing null: none */
    record Weights(BlockShape shape, Map<Key, float[]> tensors, Routing routing, KvPolicy kv) {}

    final List<Weights> stages = new ArrayList<>();
    final float[] table;
    final float[] headGain;

    private final DType type;
    private final DType kvType;
    private final SplittableRandom random;

    private RandomModel(DType type, DType kvType, long seed) {
        this.type = type;
        this.kvType = kvType;
        random = new SplittableRandom(seed);
        table = normal(VOCAB * HIDDEN, 0, 0.5);
        headGain = normal(HIDDEN, 1, 0.2);
    }

    static RandomModel of(System system, DType type, long seed) {
        return of(system, type, type, seed);
    }

    static RandomModel of(System system, DType type, DType kvType, long seed) {
        RandomModel model = new RandomModel(type, kvType, seed);
        switch (system) {
            case VANILLA -> model.plain(block(3, 1));
            case RECURSIVE -> model.middle(block(2, 3), null, KvPolicy.PER_DEPTH);
            case RECURSIVE_SEQUENCE -> model.plain(block(1, 2)).plain(block(1, 2));
            case RELAXED -> model.plain(block(2, 2).normPerDepth(true).loraRank(Part.Q, 4).loraRank(Part.K, 3)
                    .loraRank(Part.V, 4).loraRank(Part.O, 5).loraRank(Part.GATE, 4).loraRank(Part.UP, 4)
                    .loraRank(Part.DOWN, 2));
            case EXPERT -> model.middle(block(2, 3), model.expert(3, 0), KvPolicy.PER_DEPTH);
            case EXPERT_MLP_TANH -> model.middle(block(1, 3), model.expertMlp(3), KvPolicy.PER_DEPTH);
            case EXPERT_ADDITIVE -> model.middle(block(1, 3), additive(model.expert(3, 0)), KvPolicy.PER_DEPTH);
            case EXPERT_SHARED_KV -> model.middle(block(2, 3), model.expert(3, 0), KvPolicy.FIRST_DEPTH);
            case TOKEN_SOFTMAX ->
                model.middle(block(2, 3), model.token(GateFunction.SOFTMAX, 1, false), KvPolicy.PER_DEPTH);
            case TOKEN_SIGMOID_BIAS ->
                model.middle(block(1, 3), model.token(GateFunction.SIGMOID, 0.5f, true), KvPolicy.PER_DEPTH);
            case EXPERT_UPDATED_KV -> model.middle(block(2, 3), model.expert(3, 0), KvPolicy.FIRST_UPDATED);
            case EXPERT_LATEST_KV -> model.middle(block(1, 3), model.expert(3, 0), KvPolicy.LATEST);
            case SHALLOW_DEEP -> model.plain(block(1, 1)).plain(block(2, 1)).plain(block(1, 1));
            case CYCLE -> model.plain(block(2, 3));
            case CYCLE_RELAXED -> model.plain(block(2, 3).normPerDepth(true).loraRank(Part.Q, 4)
                    .loraRank(Part.DOWN, 3));
            case TOKEN_ADDITIVE -> model.stage(block(1, 3), additive(model.token(GateFunction.SIGMOID, 1, false)),
                    KvPolicy.FIRST_DEPTH);
        }
        return model;
    }

    /** A block of two layers in expert choice and nothing else; the threshold decides who passes. */
    static RandomModel expertOnly(int depths, float threshold, KvPolicy kv, long seed) {
        RandomModel model = new RandomModel(DType.F32, DType.F32, seed);
        Routing routing = model.expert(3, threshold); // the same weights whatever the depths
        Map<Key, float[]> tensors = model.tensors(block(2, 3).build());
        GateShape gate = gate(0, 1, depths, RouterKind.LINEAR, GateFunction.SIGMOID, 0.1f, threshold);
        model.stages.add(new Weights(block(2, depths).build(), tensors,
                new Routing(gate, routing.matrices, null, routing.gating), kv));
        return model;
    }

    // ---- making --------------------------------------------------------------------------------------------------

    private static BlockShape.Builder block(int layers, int depths) {
        return BlockShape.builder(layers, HIDDEN, INTERMEDIATE, HEADS).kvHeads(1).headDim(HEAD_DIM).depths(depths)
                .norm(NormKind.RMS, EPS);
    }

    private static GateShape gate(int inner, int outputs, int depths, RouterKind router, GateFunction function,
                                  float alpha, float threshold) {
        return new GateShape(HIDDEN, inner, outputs, depths, router, function, inner > 0 ? 2 : 1, alpha, threshold);
    }

    private RandomModel plain(BlockShape.Builder block) {
        return stage(block, null, KvPolicy.PER_DEPTH);
    }

    /** The stage between a first and a last layer of their own. */
    private RandomModel middle(BlockShape.Builder block, Routing routing, KvPolicy kv) {
        return plain(block(1, 1)).stage(block, routing, kv).plain(block(1, 1));
    }

    private RandomModel stage(BlockShape.Builder block, Routing routing, KvPolicy kv) {
        BlockShape shape = block.weightType(type).kvType(kvType).build();
        stages.add(new Weights(shape, tensors(shape), routing, kv));
        return this;
    }

    private Map<Key, float[]> tensors(BlockShape shape) {
        Map<Key, float[]> tensors = new LinkedHashMap<>();
        for (int layer = 0; layer < shape.layers(); layer++) {
            for (Part part : Part.values()) {
                if (part.isLinear() && shape.has(part)) {
                    add(tensors, shape, new Key(layer, 0, part, Kind.WEIGHT), 0, 1.2 / Math.sqrt(HIDDEN));
                    for (int depth = 0; depth < shape.depths() && shape.loraRank(part) > 0; depth++) {
                        add(tensors, shape, new Key(layer, depth, part, Kind.LORA_A), 0, 1 / Math.sqrt(HIDDEN));
                        add(tensors, shape, new Key(layer, depth, part, Kind.LORA_B), 0, 0.3);
                    }
                }
            }
            for (int depth = 0; depth < (shape.normPerDepth() ? shape.depths() : 1); depth++) {
                add(tensors, shape, new Key(layer, depth, Part.ATTENTION_PRE_NORM, Kind.WEIGHT), 1, 0.2);
                add(tensors, shape, new Key(layer, depth, Part.MLP_PRE_NORM, Kind.WEIGHT), 1, 0.2);
            }
        }
        float[] frequency = new float[HEAD_DIM / 2];
        for (int i = 0; i < frequency.length; i++) frequency[i] = (float) Math.pow(10000, -2.0 * i / HEAD_DIM);
        tensors.put(new Key(0, 0, Part.ROPE_FREQUENCY, Kind.WEIGHT), frequency);
        return tensors;
    }

    private void add(Map<Key, float[]> tensors, BlockShape shape, Key key, double mean, double deviation) {
        tensors.put(key, normal((int) shape.elements(key.part, key.kind), mean, deviation));
    }

    private Routing expert(int depths, float threshold) {
        GateShape shape = gate(0, 1, depths, RouterKind.LINEAR, GateFunction.SIGMOID, 0.3f, threshold);
        float[][][] matrices = new float[depths][1][];
        for (float[][] router : matrices) router[0] = normal(HIDDEN, 0, 0.4);
        return new Routing(shape, matrices, null, Router.Gating.WEIGHTED);
    }

    private Routing expertMlp(int depths) {
        int inner = 2 * HIDDEN;
        GateShape shape = gate(inner, 1, depths, RouterKind.MLP, GateFunction.TANH, 0.2f, 0);
        float[][][] matrices = new float[depths][2][];
        for (float[][] router : matrices) {
            router[0] = normal(inner * HIDDEN, 0, 0.4);
            router[1] = normal(inner, 0, 0.3);
        }
        return new Routing(shape, matrices, null, Router.Gating.WEIGHTED);
    }

    private Routing token(GateFunction function, float alpha, boolean biased) {
        GateShape shape = gate(0, 3, 1, RouterKind.LINEAR, function, alpha, 0);
        float[][][] matrices = {{normal(3 * HIDDEN, 0, 0.5)}};
        return new Routing(shape, matrices, biased ? normal(3, 0, 0.2) : null, Router.Gating.WEIGHTED);
    }

    private static Routing additive(Routing routing) {
        return new Routing(routing.shape, routing.matrices, routing.bias, Router.Gating.ADDITIVE);
    }

    private float[] normal(int count, double mean, double deviation) {
        float[] values = new float[count];
        for (int i = 0; i < count; i++) values[i] = (float) (mean + deviation * random.nextGaussian());
        return values;
    }

    // ---- packing -------------------------------------------------------------------------------------------------

    DepthModel pack(Context context) {
        List<Stage> packed = new ArrayList<>();
        for (Weights stage : stages) {
            Buffer weights = context.allocate(context.blockBytes(stage.shape));
            stage.tensors.forEach((key, values) -> context.blockPack(stage.shape, key.layer, key.depth, key.part,
                    key.kind, 1, DType.F32, buffer(context, values), weights));
            packed.add(new Stage(stage.shape, weights, router(context, stage.routing), stage.kv));
        }
        HeadShape head = new HeadShape(HIDDEN, VOCAB, type, NormKind.RMS, EPS);
        Buffer tied = context.allocate(context.linearBytes(head.weights()));
        context.linearPack(head.weights(), 0, VOCAB, DType.F32, buffer(context, table), tied);
        return new DepthModel(new EmbedShape(VOCAB, HIDDEN, type, true, 1), tied, packed,
                new Head(head, buffer(context, headGain), null, tied));
    }

    private static Router router(Context context, Routing routing) {
        if (routing == null) return new Router.Always();
        Buffer packed = context.allocate(context.gateBytes(routing.shape));
        for (int depth = 0; depth < routing.shape.depths(); depth++) {
            for (int layer = 0; layer < routing.matrices[depth].length; layer++) {
                Buffer source = buffer(context, routing.matrices[depth][layer]);
                context.gatePack(routing.shape, depth, layer == 0 ? GatePart.W1 : GatePart.W2, DType.F32, source,
                        packed);
            }
        }
        if (routing.shape.outputs() == 1) return new Router.ExpertChoice(routing.shape, packed, routing.gating);
        Buffer bias = routing.bias == null ? null : buffer(context, routing.bias);
        return new Router.TokenChoice(routing.shape, packed, bias, routing.gating);
    }

    private static Buffer buffer(Context context, float[] values) {
        return context.allocate(4L * values.length).write(values);
    }
}
