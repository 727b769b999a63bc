package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Random;
import java.util.function.IntToDoubleFunction;

import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.RandomMatrices_DDRM;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Low-rank products of matrices whose singular values are known, against the best that there can be. */
class LowRankTest {
    private static final double FLOAT = 0x1p-24;

    private record Matrix(float[] values, int out, int in, double[] singular) {
        double energy() {
            return squares(singular, 0, singular.length);
        }

        double best(int rank) {
            return squares(singular, 0, rank);
        }

        LowRank decompose(int rank) {
            try (Arena arena = Arena.ofConfined()) {
                return LowRank.of(segment(arena), out, in, rank);
            }
        }

        MemorySegment segment(Arena arena) {
            return arena.allocateFrom(ValueLayout.JAVA_FLOAT, values);
        }
    }

    /** U diag(s) V^T with random orthonormal U and V. */
    private static Matrix matrix(int out, int in, IntToDoubleFunction singular) {
        Random random = new Random(out * 31 + in);
        int n = Math.min(out, in);
        double[] values = new double[n];
        Arrays.setAll(values, singular);
        DMatrixRMaj u = RandomMatrices_DDRM.orthogonal(out, n, random);
        DMatrixRMaj v = RandomMatrices_DDRM.orthogonal(in, n, random);
        CommonOps_DDRM.multCols(u, values);
        DMatrixRMaj product = new DMatrixRMaj(out, in);
        CommonOps_DDRM.multTransB(u, v, product);
        float[] floats = new float[out * in];
        for (int i = 0; i < floats.length; i++) floats[i] = (float) product.data[i];
        return new Matrix(floats, out, in, values);
    }

    private static double squares(double[] values, int from, int to) {
        double sum = 0;
        for (int i = from; i < to; i++) sum += values[i] * values[i];
        return sum;
    }

    /** The square of the Frobenius norm of R - B A. */
    private static double lost(Matrix matrix, LowRank product, int rank) {
        double sum = 0;
        for (int o = 0; o < matrix.out; o++) {
            for (int i = 0; i < matrix.in; i++) {
                double difference = matrix.values[o * matrix.in + i];
                for (int k = 0; k < rank; k++) {
                    difference -= (double) product.b()[o * rank + k] * product.a()[k * matrix.in + i];
                }
                sum += difference * difference;
            }
        }
        return sum;
    }

    private static void assertOrthonormalRows(float[] a, int rank, int in) {
        for (int i = 0; i < rank; i++) {
            for (int j = 0; j <= i; j++) {
                double dot = 0;
                for (int k = 0; k < in; k++) dot += (double) a[i * in + k] * a[j * in + k];
                assertEquals(i == j ? 1 : 0, dot, 1e-6, i + ", " + j);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"40, 60, 7", "60, 40, 7", "48, 48, 48", "30, 50, 30", "50, 30, 30", "1, 9, 1", "9, 1, 1", "64, 8, 3"})
    void smallMatricesLoseWhatTheRankLeavesOut(int out, int in, int rank) {
        Matrix matrix = matrix(out, in, i -> 3.0 / (1 + i));
        LowRank product = matrix.decompose(rank);
        assertOrthonormalRows(product.a(), rank, in);
        assertEquals(matrix.best(rank), product.kept(), 1e-6 * matrix.energy());
        assertEquals(matrix.energy(), product.energy(), 1e-6 * matrix.energy());
        // A, B and R are rounded to fp32; B A of full rank differs by no more than that.
        double rounding = 4 * FLOAT * Math.sqrt(rank * matrix.energy());
        assertTrue(Math.sqrt(lost(matrix, product, rank))
                <= Math.sqrt(matrix.energy() - matrix.best(rank)) + rounding, "lost " + lost(matrix, product, rank));
        for (int k = 0; k < rank; k++) { // column k of B has the length of singular value k
            double length = 0;
            for (int o = 0; o < out; o++) length += Math.pow(product.b()[o * rank + k], 2);
            assertEquals(matrix.singular[k], Math.sqrt(length), 1e-5);
        }
    }

    /** Slowly falling, steep, of less than the rank, and flat spectra: what is kept of the best that is possible. */
    @ParameterizedTest
    @CsvSource({
        "500, 700, 16, -0.5, 0.998", "700, 500, 16, -0.5, 0.998", "700, 500, 100, -0.5, 0.9995",
        "500, 700, 16, -2, 0.999999", "500, 700, 40, -4, 0.999999",
        "500, 700, 16, 0, 0.9"})
    void subspaceIterationComesNear(int out, int in, int rank, double power, double share) {
        // Power 0: falls linearly to a fifth, as the values of random matrices do.
        Matrix matrix = matrix(out, in, i -> power == 0 ? 1 - 0.8 * i / 500 : Math.pow(1 + i, power));
        try (Arena arena = Arena.ofConfined()) {
            LowRank product = SubspaceIteration.decompose(matrix.segment(arena), out, in, rank, matrix.energy());
            assertOrthonormalRows(product.a(), rank, in);
            assertTrue(product.kept() >= share * matrix.best(rank), "kept " + product.kept() / matrix.best(rank));
            assertTrue(product.kept() <= (1 + 1e-6) * matrix.best(rank), "kept " + product.kept());
            double lost = lost(matrix, product, rank);
            assertEquals(matrix.energy() - product.kept(), lost, 1e-5 * matrix.energy());
            assertTrue(lost <= 1.01 * (matrix.energy() - matrix.best(rank)) + 1e-10 * matrix.energy(), "lost " + lost);
        }
    }

    @Test
    void subspaceIterationFindsAllThereIs() {
        Matrix matrix = matrix(400, 360, i -> i < 10 ? 1 : 0);
        try (Arena arena = Arena.ofConfined()) {
            LowRank product = SubspaceIteration.decompose(matrix.segment(arena), 400, 360, 16, matrix.energy());
            assertOrthonormalRows(product.a(), 16, 360);
            assertEquals(0, lost(matrix, product, 16), 1e-8);
        }
    }

    @Test
    void bigMatricesTakeTheQuickWayAndRepeatIt() {
        Matrix matrix = matrix(420, 400, i -> 1.0 / (1 + i));
        LowRank first = matrix.decompose(8);
        assertTrue(first.kept() >= 0.9999 * matrix.best(8));
        assertArrayEquals(first.a(), matrix.decompose(8).a());
        assertArrayEquals(first.b(), matrix.decompose(8).b());
        LowRank whole = matrix.decompose(400);
        assertEquals(0, lost(matrix, whole, 400), 1e-10);
    }

    @Test
    void nothingLostNeedsNothing() {
        LowRank product = new Matrix(new float[6 * 10], 6, 10, new double[6]).decompose(4);
        assertOrthonormalRows(product.a(), 4, 10);
        assertArrayEquals(new float[6 * 4], product.b());
        assertEquals(0, product.energy());
        LowRank tall = new Matrix(new float[10 * 6], 10, 6, new double[6]).decompose(6);
        assertOrthonormalRows(tall.a(), 6, 6);
    }
}
