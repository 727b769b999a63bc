package dev.fathom.examples;

import java.math.BigInteger;

/**
 * T5's relative attention bias: buckets of position differences, expanded to the table by difference that kernels read.
 *
 * @param bidirectional keys ahead have half of the buckets; else they share bucket 0
 * @param buckets       how many there are
 * @param mostDistance  all distances from here on share the last bucket
 */
record RelativeBuckets(boolean bidirectional, int buckets, int mostDistance) {
    /** Differences from {@code -mostDistance} to 0, or to {@code mostDistance}; those beyond count as the last one. */
    int width() {
        return (bidirectional ? 2 : 1) * mostDistance + 1;
    }

    /** Index of difference 0. */
    int center() {
        return mostDistance;
    }

    /** [buckets, heads] of a checkpoint as [heads, width]. */
    float[] table(float[] bias, int heads) {
        float[] table = new float[heads * width()];
        for (int i = 0; i < width(); i++) {
            int bucket = bucket(i - center());
            for (int head = 0; head < heads; head++) table[head * width() + i] = bias[bucket * heads + head];
        }
        return table;
    }

    /**
     * The bucket of a key at the query's position plus {@code difference}. Half of the buckets hold one distance each;
     * of the other n, bucket k begins at distance {@code exact (mostDistance / exact)^(k / n)}.
     */
    int bucket(int difference) {
        int half = bidirectional ? buckets / 2 : buckets;
        int first = bidirectional && difference > 0 ? half : 0;
        int distance = bidirectional ? Math.abs(difference) : Math.max(0, -difference);
        int exact = half / 2;
        if (distance < exact) return first + distance;
        int steps = half - exact;
        int step = 0;
        while (step + 1 < steps && reaches(distance, exact, step + 1, steps)) step++;
        return first + exact + step;
    }

    /** distance >= exact (mostDistance / exact)^(step / steps), in whole numbers, so that no rounding decides. */
    private boolean reaches(int distance, int exact, int step, int steps) {
        BigInteger left = BigInteger.valueOf(distance).pow(steps).multiply(BigInteger.valueOf(exact).pow(step));
        BigInteger right = BigInteger.valueOf(exact).pow(steps).multiply(BigInteger.valueOf(mostDistance).pow(step));
        return left.compareTo(right) >= 0;
    }
}
