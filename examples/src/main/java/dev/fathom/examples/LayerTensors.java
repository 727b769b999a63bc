package dev.fathom.examples;

import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

import dev.fathom.Part;

/** Finds the tensors of a stage's layers, one for all tied copies; remembers copies that differ. */
final class LayerTensors {
    static final Map<Part, String> NORMS = new EnumMap<>(Map.of(
            Part.ATTENTION_PRE_NORM, "input_layernorm", Part.MLP_PRE_NORM, "post_attention_layernorm"));

    private final ModelConfig config;
    private final Checkpoint checkpoint;
    private final Map<Part, Linear> linears = new EnumMap<>(Part.class);
    private final Set<String> untied = new TreeSet<>();
    private long largestRank;

    LayerTensors(ModelConfig config, Checkpoint checkpoint) {
        this.config = config;
        this.checkpoint = checkpoint;
        for (Linear linear : Linear.of(config)) linears.put(linear.part(), linear);
    }

    /** Those of a layer. */
    Iterable<Linear> linears() {
        return linears.values();
    }

    Linear linear(Part part) {
        return linears.get(part);
    }

    Tensor weight(StagePlan plan, int layer, Linear linear) {
        return tied(plan, names(plan, layer, linear.name() + ".weight"), linear.out(), linear.in());
    }

    /** Null without. */
    Tensor bias(StagePlan plan, int layer, Linear linear) {
        List<String> names = names(plan, layer, linear.name() + ".bias");
        return names.stream().anyMatch(checkpoint::has) ? tied(plan, names, linear.out()) : null;
    }

    boolean hasBias(StagePlan plan) {
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (Linear linear : linears.values()) {
                if (names(plan, layer, linear.name() + ".bias").stream().anyMatch(checkpoint::has)) return true;
            }
        }
        return false;
    }

    /** The rank that all pairs of this linear have; 0 without any. */
    int loraRank(StagePlan plan, Linear linear) {
        long rank = 0;
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (String name : names(plan, layer, linear.name() + ".lora_A.weight")) {
                Tensor a = checkpoint.peek(name);
                if (a == null) continue;
                long own = a.shape().length == 0 ? 0 : a.shape()[0];
                if (own < 1 || rank != 0 && own != rank) {
                    throw new UserException("Tensor " + a.name() + " has rank " + own + ", expected "
                            + (rank == 0 ? "at least 1" : rank + " as in the other layers") + ".");
                }
                rank = own;
            }
        }
        largestRank = Math.max(largestRank, rank);
        return (int) Math.min(rank, Integer.MAX_VALUE);
    }

    /** Refuses a rank that is not the largest one found: the scale of all pairs is alpha by it. */
    void requireRank(int told) {
        if (largestRank == told) return;
        throw new UserException("config.json: relaxation.lora.r is " + told + ", but "
                + (largestRank == 0 ? "the checkpoint has no LoRA pairs"
                        : "the largest rank of the checkpoint's LoRA pairs is " + largestRank) + ".");
    }

    /** A of a pass, [rank, in]; null: the pass has no pair. */
    Tensor loraA(StagePlan plan, int layer, int depth, Linear linear, int rank) {
        return checkpoint.find(plan.prefix().of(layer, depth) + linear.name() + ".lora_A.weight", rank, linear.in());
    }

    /** B of a pass that has an A, [out, rank]. */
    Tensor loraB(StagePlan plan, int layer, int depth, Linear linear, int rank) {
        return checkpoint.get(plan.prefix().of(layer, depth) + linear.name() + ".lora_B.weight", linear.out(), rank);
    }

    /** The gain of all passes. */
    Tensor gain(StagePlan plan, int layer, Part norm) {
        return tied(plan, names(plan, layer, NORMS.get(norm) + ".weight"), config.hiddenSize());
    }

    /** The gain of one pass. A pass that stores none has that of the first that does. */
    Tensor gain(StagePlan plan, int layer, int depth, Part norm) {
        String name = NORMS.get(norm) + ".weight";
        Tensor own = checkpoint.find(plan.prefix().of(layer, depth) + name, config.hiddenSize());
        return own != null ? own : checkpoint.copies(names(plan, layer, name), config.hiddenSize()).getFirst();
    }

    private static List<String> names(StagePlan plan, int layer, String name) {
        return plan.copies(layer).stream().map(prefix -> prefix + name).toList();
    }

    /** The one weight that all stored copies are. Routed models whose passes differ are another kind of model. */
    private Tensor tied(StagePlan plan, List<String> names, long... shape) {
        List<Tensor> copies = checkpoint.copies(names, shape);
        Tensor first = copies.getFirst();
        for (Tensor copy : copies.subList(1, copies.size())) {
            if (copy.sameAs(first)) continue;
            if (plan.routed()) {
                throw new UserException("Tensor " + copy.name() + " differs from " + first.name()
                        + ": a router over weights that are not shared is not supported.");
            }
            untied.add(copy.name());
        }
        return first;
    }

    /** {@code copy} should be the same as {@code original}. */
    void compare(Tensor copy, Tensor original) {
        if (copy != null && !copy.sameAs(original)) untied.add(copy.name());
    }

    /** Names of tied copies that differ from the first one. */
    Set<String> untied() {
        return untied;
    }
}
