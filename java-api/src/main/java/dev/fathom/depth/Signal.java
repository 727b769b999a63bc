package dev.fathom.depth;

import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.GateFunction;
import dev.fathom.GateShape;

/**
 * What tells at an exit whether a token is done. A {@link Threshold} turns it into a decision. All are computed in fp32
 * from the token's own state, so a decision does not depend on what else is in the batch.
 */
public sealed interface Signal {
    /** Whether a larger value means more confidence. */
    default boolean rises() {
        return true;
    }

    /** Whether it is read from the logits, so that the exit's answer comes with it. */
    default boolean usesHead() {
        return false;
    }

    /** Whether it compares the states before and after the pass that leads to the exit. */
    default boolean usesStep() {
        return false;
    }

    /** {@code p1 - p2}, the two largest probabilities of the next token (CALM, FREE: softmax response). */
    record Margin() implements Signal {
        @Override
        public boolean usesHead() {
            return true;
        }
    }

    /** The largest probability of the next token (EE-LLM). */
    record MaxProbability() implements Signal {
        @Override
        public boolean usesHead() {
            return true;
        }
    }

    /** Entropy of the next token, in nats; low is confident (DeeBERT, DSSD). */
    record Entropy() implements Signal {
        @Override
        public boolean rises() {
            return false;
        }

        @Override
        public boolean usesHead() {
            return true;
        }
    }

    /** Cosine of the states before and after the pass: hidden-state saturation (CALM). */
    record Saturation() implements Signal {
        @Override
        public boolean usesStep() {
            return true;
        }
    }

    /** {@code |h - h'| / |h|}, h the state after the pass and h' before it; low is confident (Huginn: latent-diff). */
    record RelativeStep() implements Signal {
        @Override
        public boolean rises() {
            return false;
        }

        @Override
        public boolean usesStep() {
            return true;
        }
    }

    /**
     * Probability of "agrees with the full model" by a trained head on the normed state (CALM and FREE: meta): linear
     * or MLP, with one output and a sigmoid, or with a softmax over two classes of which the second agrees.
     *
     * @param shape   of the heads; its depths are the heads
     * @param weights packed heads
     * @param points  the exit of each head; empty: there is one for all
     */
    record Classifier(GateShape shape, Buffer weights, List<ExitPoint> points) implements Signal {
        public Classifier {
            points = List.copyOf(Require.notNull("points", points));
            Require.equal("depths of the heads", Require.notNull("shape", shape).depths(), "number of exits",
                    Math.max(1, points.size()));
            Require.notNull("weights", weights);
            boolean fits = shape.outputs() == 1 && shape.function() == GateFunction.SIGMOID
                    || shape.outputs() == 2 && shape.function() == GateFunction.SOFTMAX;
            Require.that(fits, "a classifier has 1 output and SIGMOID or 2 and SOFTMAX, got " + shape.outputs()
                    + " and " + shape.function());
        }

        int head(ExitPoint point) {
            return points.isEmpty() ? 0 : points.indexOf(point);
        }
    }

    /** Always 1: every token leaves at the first exit. Drafts of a fixed depth (LayerSkip, depth caps). */
    record Always() implements Signal {}

    /**
     * 1 for a given share of the positions, 0 for the others, whatever the model thinks: for measurements of speed.
     *
     * @param rate     share of the positions, 0..1
     * @param seed     chooses them; a position's value depends on nothing else
     * @param usesHead whether every exit reads the logits first, as a confidence would
     */
    record Forced(double rate, long seed, boolean usesHead) implements Signal {
        public Forced {
            Require.that(rate >= 0 && rate <= 1, "rate must be in 0..1, got " + rate);
        }

        float at(int position) {
            long z = seed + (position + 1) * 0x9E3779B97F4A7C15L; // SplitMix64
            z = (z ^ z >>> 30) * 0xBF58476D1CE4E5B9L;
            z = (z ^ z >>> 27) * 0x94D049BB133111EBL;
            return ((z ^ z >>> 31) >>> 11) * 0x1p-53 < rate ? 1 : 0;
        }
    }
}
