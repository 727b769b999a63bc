package dev.fathom.depth;

import java.util.List;
import java.util.stream.IntStream;

import dev.fathom.Buffer;
import dev.fathom.GateFunction;
import dev.fathom.GateShape;

/**
 * Decides how many times a token passes a stage's block f (which includes the residual stream), and how the passes
 * combine. H is the token's hidden row.
 */
public sealed interface Router {
    /** What a pass adds to H. */
    enum Gating {
        /** The router's gate times the output of the block. */
        WEIGHTED,
        /** The output of the block. */
        ADDITIVE
    }

    /**
     * Routers of which only the choice counts.
     *
     * @param shape   one output
     * @param weights packed routers
     */
    record Selector(GateShape shape, Buffer weights) {
        public Selector {
            Require.notNull("shape", shape);
            Require.notNull("weights", weights);
            Require.that(shape.outputs() == 1, "a selector has 1 output, got " + shape.outputs());
        }
    }

    /** Every token takes every depth, {@code H <- f(H)}: plain layers and plain recursion. */
    record Always() implements Router {}

    /**
     * Expert choice by a causal threshold (Mixture-of-Recursions, arXiv 2507.10524): a token passes depth r if it
     * passed r - 1 and {@code z_r(H) >= threshold}, then {@code H <- H + g_r f(H)}. Depth 0 is passed by all, and gated
     * like the others. Rows that do not pass keep their bits.
     *
     * @param shape     one output; as many routers as the block has depths
     * @param weights   packed routers
     * @param auxiliary routers that decide instead, while the main ones gate; or null
     * @param capacity  null: the rule above. Else the rule of the released evaluation, which looks ahead and is for
     *                  comparison only: of the tokens that passed r - 1 those {@code max(1, capacity[r] T)} of a
     *                  sequence of T tokens pass that have the largest gates
     */
    record ExpertChoice(GateShape shape, Buffer weights, Gating gating, Selector auxiliary, List<Double> capacity)
            implements Router {
        public ExpertChoice {
            Require.notNull("shape", shape);
            Require.notNull("weights", weights);
            Require.notNull("gating", gating);
            Require.that(shape.outputs() == 1, "expert choice needs a router with 1 output, got " + shape.outputs());
            Require.that(shape.function() != GateFunction.SOFTMAX,
                    "expert choice has no softmax: its router has 1 output");
            if (auxiliary != null) {
                Require.equal("depths of the auxiliary router", auxiliary.shape.depths(), "depths of the router",
                        shape.depths());
                Require.equal("hiddenSize of the auxiliary router", auxiliary.shape.hiddenSize(),
                        "hiddenSize of the router", shape.hiddenSize());
            }
            if (capacity != null) {
                capacity = List.copyOf(capacity);
                Require.equal("number of capacities", capacity.size(), "routers", shape.depths());
                for (double share : capacity) {
                    Require.that(share > 0 && share <= 1, "capacity must be above 0 and at most 1, got " + share);
                }
            }
        }

        /** The main routers decide, token by token. */
        public ExpertChoice(GateShape shape, Buffer weights, Gating gating) {
            this(shape, weights, gating, null, null);
        }

        /** Tokens go on from another logit on. The higher, the fewer do: less work, and a higher loss. */
        public ExpertChoice withThreshold(float threshold) {
            if (auxiliary == null) {
                return new ExpertChoice(shape.withThreshold(threshold), weights, gating, null, capacity);
            }
            Selector moved = new Selector(auxiliary.shape.withThreshold(threshold), auxiliary.weights);
            return new ExpertChoice(shape, weights, gating, moved, capacity);
        }

        /** The released evaluation with its capacities: {@code (depths - r) / depths}. */
        public ExpertChoice wholeSequence() {
            int depths = shape.depths();
            List<Double> shares = IntStream.range(0, depths).mapToObj(r -> (double) (depths - r) / depths).toList();
            return new ExpertChoice(shape, weights, gating, auxiliary, shares);
        }
    }

    /**
     * Token choice (Mixture-of-Recursions, arXiv 2507.10524, as its code has it): one router before the block picks
     * {@code i = argmax_j p_j + bias_j}; the token takes depths 0..i, and {@code H <- H + p_i f(f(..f(H)))}.
     *
     * @param shape   one router; as many outputs as the block has depths, at least 2
     * @param weights packed router
     * @param bias    loss-free balancing, fp32 [outputs], for the choice only; or null
     */
    record TokenChoice(GateShape shape, Buffer weights, Buffer bias, Gating gating) implements Router {
        public TokenChoice {
            Require.notNull("shape", shape);
            Require.notNull("weights", weights);
            Require.notNull("gating", gating);
            Require.that(shape.depths() == 1, "token choice needs 1 router, got " + shape.depths());
            Require.that(shape.outputs() > 1,
                    "token choice needs a router with at least 2 outputs, got " + shape.outputs());
        }
    }
}
