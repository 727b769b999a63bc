package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.DType;

/**
 * Whether plain Java and a kernel computed the same, as far as a benchmark must know: a wrong index or a missing row is
 * off by the size of the numbers, other orders of summation and roundings by far less. The tests have exact bounds.
 */
final class Agreement {
    /** Of the largest number: sums of some thousand products in another order. */
    static final double F32 = 1e-4;
    /** Operands that are rounded to bf16 on the way. */
    static final double BF16 = 1e-2;
    /** To integers of 8 bits, of 4; to FP8, whose largest numbers have 4 bits. */
    static final double EIGHT_BITS = 3e-2, FOUR_BITS = 0.2;

    private Agreement() {}

    static double of(DType type) {
        return switch (type) {
            case F32 -> F32;
            case BF16, F16 -> BF16;
            case I8, Q8_0 -> EIGHT_BITS;
            case Q4_0, F8_E4M3 -> FOUR_BITS;
        };
    }

    /** @param ours the rows one after another */
    static void require(float[][] plain, Buffer ours, double tolerance) {
        double largest = 0;
        for (float[] row : plain) {
            for (float value : row) largest = Math.max(largest, Math.abs(value));
        }
        if (!(largest > 0)) throw new AssertionError("plain Java computed nothing but " + largest);
        long at = 0;
        for (float[] row : plain) {
            for (float value : row) {
                float other = ours.getFloat(at++);
                if (!(Math.abs(value - other) <= tolerance * largest)) {
                    throw new AssertionError("element " + (at - 1) + ": plain Java has " + value + ", fathom " + other
                            + "; the largest is " + largest);
                }
            }
        }
    }
}
