package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

import dev.fathom.BackfillShape;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KvShape;
import dev.fathom.NormKind;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.depth.KvCache;
import dev.fathom.depth.KvProjection;

/** Packs the key and value weights of a stage once more, to make K and V of all its layers from one state. */
final class PropagationLoader {
    private final Packing packing;
    private final Context context;
    private final ModelConfig config;
    private final LayerTensors tensors;

    PropagationLoader(Packing packing, ModelConfig config, LayerTensors tensors) {
        this.packing = packing;
        this.config = config;
        this.tensors = tensors;
        context = packing.context();
    }

    KvProjection load(StagePlan plan, BlockShape shape) {
        boolean lora = shape.loraRank(Part.K) > 0 || shape.loraRank(Part.V) > 0;
        int sets = shape.normPerDepth() || lora ? plan.depths() : 1;
        BackfillShape backfill = new BackfillShape(config.hiddenSize(), 1, shape.weightType(), NormKind.RMS,
                RopeStyle.HALF, 2 * config.ropeFrequency().length, config.normEps());
        KvShape kv = shape.kv(KvCache.PAGE);
        List<Buffer> weights = new ArrayList<>();
        for (int depth = 0; depth < sets; depth++) {
            Buffer packed = packing.allocate("the weights of state propagation", context.backfillBytes(backfill, kv));
            for (int layer = 0; layer < plan.layers(); layer++) {
                try (Arena scratch = Arena.ofConfined()) {
                    Tensor gain = tensors.gain(plan, layer, depth, Part.ATTENTION_PRE_NORM);
                    context.backfillPack(backfill, kv, 0, layer, DType.F32,
                            weight(scratch, plan, shape, layer, depth, Part.K),
                            weight(scratch, plan, shape, layer, depth, Part.V), bias(scratch, plan, layer, Part.K),
                            bias(scratch, plan, layer, Part.V), packing.vector(scratch, gain.toFloats()), null, packed);
                }
            }
            weights.add(packed);
        }
        return new KvProjection(backfill, weights, packing.vector(config.ropeFrequency()));
    }

    /** W + scale B A of a pass. */
    private Buffer weight(Arena arena, StagePlan plan, BlockShape shape, int layer, int depth, Part part) {
        Linear linear = tensors.linear(part);
        float[] w = tensors.weight(plan, layer, linear).toFloats();
        int rank = shape.loraRank(part);
        Tensor lowered = rank == 0 ? null : tensors.loraA(plan, layer, depth, linear, rank);
        if (lowered == null) return packing.vector(arena, w);
        float[] a = lowered.toFloats();
        float[] b = tensors.loraB(plan, layer, depth, linear, rank).toFloats();
        for (int o = 0; o < linear.out(); o++) {
            for (int r = 0; r < rank; r++) {
                float factor = config.lora().scale() * b[o * rank + r];
                for (int i = 0; i < linear.in(); i++) w[o * linear.in() + i] += factor * a[r * linear.in() + i];
            }
        }
        return packing.vector(arena, w);
    }

    private Buffer bias(Arena arena, StagePlan plan, int layer, Part part) {
        Tensor bias = tensors.bias(plan, layer, tensors.linear(part));
        return bias == null ? null : packing.vector(arena, bias.toFloats());
    }
}
