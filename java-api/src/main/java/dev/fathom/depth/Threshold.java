package dev.fathom.depth;

/** Turns a {@link Signal} into a decision to exit. Values are compared as fp32. */
public sealed interface Threshold {
    /** Whether a signal of 0..1 is assumed. */
    default boolean needsProbability() {
        return false;
    }

    /** Exit if the signal is above the value, or below it for signals that fall; never if it equals it. */
    record Fixed(float value) implements Threshold {
        public Fixed {
            Require.that(!Float.isNaN(value), "value must be a number, got NaN");
        }
    }

    /**
     * Decays over a generation as in the CALM paper (arXiv 2207.07061):
     * {@code clip(0.9 value + 0.1 exp(-tau t / length))} to 0..1, exit if the signal is at least that. t is the number
     * of tokens generated before.
     */
    record Decaying(float value, float tau, int length) implements Threshold {
        public Decaying {
            checkDecay(value, tau, length);
        }

        @Override
        public boolean needsProbability() {
            return true;
        }

        float at(int t) {
            return (float) Math.clamp(0.9 * value + 0.1 * Math.exp(-(double) tau * t / length), 0, 1);
        }
    }

    /**
     * Decays as in FREE's code: {@code value (0.9 + 0.1 exp(-tau t / length))}, exit if the signal is above that. The
     * decaying part is scaled by the value too, nothing is clipped, and t counts the token itself.
     */
    record DecayingScaled(float value, float tau, int length) implements Threshold {
        public DecayingScaled {
            checkDecay(value, tau, length);
        }

        @Override
        public boolean needsProbability() {
            return true;
        }

        float at(int t) {
            return (float) (value * (0.9 + 0.1 * Math.exp(-(double) tau * (t + 1) / length)));
        }
    }

    /**
     * FREE's adaptive threshold (arXiv 2310.05424): a Beta mixture fitted to (signal, did exit and full depth agree) of
     * the tokens that went deep, see {@link BetaMixture}; exit if the signal is above what the last fit gave. It is
     * fitted when a sequence begins. The one policy under which what a sequence gets depends on the sequences before
     * it: they teach the threshold.
     *
     * @param initial    until the first fit
     * @param confidence the posterior of agreement that the threshold must exceed; 0.4 in FREE
     */
    record Adaptive(float initial, float confidence) implements Threshold {
        public Adaptive {
            Require.that(!Float.isNaN(initial), "initial must be a number, got NaN");
            Require.that(confidence > 0 && confidence < 1, "confidence must be in 0..1, got " + confidence);
        }

        @Override
        public boolean needsProbability() {
            return true;
        }
    }

    private static void checkDecay(float value, float tau, int length) {
        Require.that(!Float.isNaN(value), "value must be a number, got NaN");
        Require.that(tau >= 0 && tau < Float.POSITIVE_INFINITY, "tau must be a finite number >= 0, got " + tau);
        Require.atLeast("length", length, 1);
    }
}
