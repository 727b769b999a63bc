package dev.fathom.bench.depth;

import java.util.Arrays;

/** Of repeated measurements; of an even number the median is the larger of the two in the middle. */
record Spread(double median, double least, double most) {
    static Spread of(double... values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return new Spread(sorted[sorted.length / 2], sorted[0], sorted[sorted.length - 1]);
    }
}
