package dev.fathom.golden;

import dev.fathom.NormKind;

/**
 * How far a correct fp32 kernel may be from the exact value. Every rounding errs by at most U of its result, so a sum
 * of n products, in whatever order, errs by at most (n + 2) U of the sum of their magnitudes.
 */
final class Bounds {
    /** Half a unit in the last place of fp32, relative. */
    static final double U = 0x1p-24;
    /** The same of bf16. */
    static final double BF16 = 0x1p-8;
    /** Functions (exp, erf, tanh) are good to this part of their argument or of 1, whichever is larger. */
    static final double FUNCTION = 8 * U;

    private Bounds() {}

    /** Rounds to bf16, to nearest even. */
    static double bf16(double x) {
        int bits = Float.floatToRawIntBits((float) x);
        return Float.intBitsToFloat(bits + 0x7fff + (bits >>> 16 & 1) & 0xffff0000);
    }

    /** What a product with bf16 weights sees of x. */
    static double[] seen(double[] x, boolean bf16) {
        double[] seen = x.clone();
        for (int i = 0; bf16 && i < x.length; i++) seen[i] = bf16(x[i]);
        return seen;
    }

    /** What an error of x becomes by rounding to bf16: nothing, unless the rounding may fall the other way. */
    static double bf16Error(double x, double error) {
        return bf16(x + error) - bf16(x - error);
    }

    /** Sum of |w[i] x[i]| over n elements. */
    static double magnitude(double[] w, int wAt, double[] x, int xAt, int n) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += Math.abs(w[wAt + i] * x[xAt + i]);
        return sum;
    }

    /** Error of a sum of n products of magnitude {@code magnitude} in all. */
    static double sum(int n, double magnitude) {
        return (n + 2) * U * magnitude;
    }

    /** Values with bounds on their errors. */
    record Approximate(double[] value, double[] error) {
        /** As a product with bf16 weights sees them. */
        Approximate seen(boolean bf16) {
            if (!bf16) return this;
            double[] errors = new double[error.length];
            for (int i = 0; i < errors.length; i++) errors[i] = bf16Error(value[i], error[i]);
            return new Approximate(Bounds.seen(value, true), errors);
        }

        /** Error of the product of row {@code row} with n weights from {@code at} on. */
        double product(int row, double[] w, int at, int n) {
            double magnitude = 0, carried = 0;
            for (int i = 0; i < n; i++) {
                magnitude += Math.abs(w[at + i] * value[row * n + i]);
                carried += Math.abs(w[at + i]) * error[row * n + i];
            }
            return sum(n, magnitude) + carried;
        }
    }

    /** (x - mean) / sqrt(mean square + eps), the mean for LAYER only; null: x itself. */
    static Approximate norm(NormKind kind, double eps, double[] x, int width) {
        double[] value = x.clone(), error = new double[x.length];
        for (int at = 0; kind != null && at < x.length; at += width) {
            double mean = 0, size = 0, squares = 0, spread = 0;
            for (int i = at; kind == NormKind.LAYER && i < at + width; i++) {
                mean += x[i] / width;
                size += Math.abs(x[i]) / width;
            }
            for (int i = at; i < at + width; i++) {
                value[i] = x[i] - mean;
                error[i] = kind == NormKind.LAYER ? sum(width, size) + U * Math.abs(value[i]) : 0;
                squares += value[i] * value[i] / width;
                spread += 2 * Math.abs(value[i]) * error[i] / width;
            }
            double inverse = 1 / Math.sqrt(squares + eps);
            // The square root halves a relative error; a few roundings of its own.
            double relative = (sum(width, squares) + spread) / (2 * (squares + eps)) + 6 * U;
            for (int i = at; i < at + width; i++) {
                value[i] *= inverse;
                error[i] = error[i] * inverse + relative * Math.abs(value[i]);
            }
        }
        return new Approximate(value, error);
    }

    /** y = y * gain + bias on rows; gain and bias of each row begin at {@code offset[row]}. */
    static Approximate scaled(Approximate y, double[] gain, double[] bias, int width, int[] offset) {
        double[] value = y.value.clone(), error = y.error.clone();
        for (int i = 0; i < value.length; i++) {
            int at = offset[i / width] + i % width;
            double product = value[i] * gain[at];
            value[i] = product + bias[at];
            error[i] = error[i] * Math.abs(gain[at]) + U * (Math.abs(product) + Math.abs(value[i]));
        }
        return new Approximate(value, error);
    }
}
