package dev.fathom.depth;

/**
 * Learns from which confidence on an early answer is likely that of the full model: the threshold of FREE (arXiv
 * 2310.05424, as its code computes it), in a form that keeps sums instead of the history.
 *
 * <p>Component 0 is a Beta distribution of the confidence of tokens whose answers disagree, component 1 of those that
 * agree, both fitted by moments: a token weighs {@code 0.2 / 0.2001} in its own class and {@code 0.0001 / 0.2001} in
 * the other. The threshold is the lowest of ten values from 0.3 to 0.9 from which on the posterior of the component
 * with the larger mean, with equal priors, exceeds {@code confidence}.
 *
 * <p>Without enough to go by (fewer than 20 tokens of a class, or a class without spread) it stays as it was. FREE's
 * code has no such guard and falls to 0.3 when all answers so far disagree.
 */
public final class BetaMixture {
    private static final int FEWEST = 20;
    private static final int GRID = 10;
    private static final double LOWEST = 0.3;
    private static final double HIGHEST = 0.9;
    private static final double EDGE = 1e-4;
    private static final double OWN = 0.2 / (0.2 + EDGE);
    private static final double OTHER = EDGE / (0.2 + EDGE);
    private static final double LEAST_VARIANCE = 1e-8;

    private final double confidence;
    private final long[] count = new long[2];
    private final double[] sum = new double[2];
    private final double[] squares = new double[2];
    private float threshold;

    /**
     * @param initial    threshold until there is enough to fit
     * @param confidence least posterior of agreement
     */
    public BetaMixture(float initial, float confidence) {
        this.threshold = initial;
        this.confidence = confidence;
    }

    /** A token's confidence at the exit, and whether full depth gave the same answer. */
    public void record(float value, boolean agrees) {
        double x = Math.clamp((double) value, EDGE, 1 - EDGE);
        int k = agrees ? 1 : 0;
        count[k]++;
        sum[k] += x;
        squares[k] += x * x;
    }

    /** The threshold of the last {@link #fit}. */
    public float threshold() {
        return threshold;
    }

    /** Fits the mixture to what was recorded so far. */
    public float fit() {
        if (count[0] < FEWEST || count[1] < FEWEST) return threshold;
        double[] alpha = new double[2];
        double[] beta = new double[2];
        for (int k = 0; k < 2; k++) {
            double n = OWN * count[k] + OTHER * count[1 - k];
            double mean = (OWN * sum[k] + OTHER * sum[1 - k]) / n;
            double variance = (OWN * squares[k] + OTHER * squares[1 - k]) / n - mean * mean;
            if (!(variance > LEAST_VARIANCE)) return threshold;
            alpha[k] = mean * (mean * (1 - mean) / variance - 1);
            beta[k] = alpha[k] * (1 - mean) / mean;
            if (!(alpha[k] > 0 && beta[k] > 0)) return threshold;
        }
        int good = alpha[1] / (alpha[1] + beta[1]) >= alpha[0] / (alpha[0] + beta[0]) ? 1 : 0;
        int passing = 0;
        for (int g = 0; g < GRID; g++) {
            double x = point(g);
            double odds = logDensity(x, alpha[1 - good], beta[1 - good]) - logDensity(x, alpha[good], beta[good]);
            if (1 / (1 + Math.exp(odds)) > confidence) passing++;
        }
        threshold = (float) point(Math.clamp(GRID - passing, 0, GRID - 1));
        return threshold;
    }

    private static double point(int g) {
        return LOWEST + g * (HIGHEST - LOWEST) / (GRID - 1);
    }

    private static double logDensity(double x, double alpha, double beta) {
        return (alpha - 1) * Math.log(x) + (beta - 1) * Math.log1p(-x)
                - (logGamma(alpha) + logGamma(beta) - logGamma(alpha + beta));
    }

    /** Stirling's series from 10 on, reached by the recurrence: a relative error below 1e-12 for x > 0. */
    static double logGamma(double x) {
        double shift = 0;
        for (; x < 10; x++) shift += Math.log(x);
        double z = 1 / (x * x);
        double series = (1.0 / 12 - z * (1.0 / 360 - z * (1.0 / 1260 - z * (1.0 / 1680 - z / 1188)))) / x;
        return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series - shift;
    }
}
