package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;

import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.factory.DecompositionFactory_DDRM;
import org.ejml.interfaces.decomposition.QRDecomposition;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.LinearShape;

/**
 * The largest singular values of a big matrix by randomised subspace iteration (Halko, Martinsson, Tropp 2011,
 * algorithm 4.4): an orthonormal basis Z [in, width], at first random, is multiplied by R^T R until R Z holds no more
 * of R; within Z the decomposition is exact. Products run in Fathom's kernels in fp32, the rest in fp64. The seed is
 * fixed, so one matrix has one result.
 */
final class SubspaceIteration {
    private static final long SEED = 20672;
    private static final int MOST_ITERATIONS = 16;
    /** Relative growth of what R Z holds of R at which another iteration is not worth its time. */
    private static final double GROWTH = 0.002;
    private static final int TRANSPOSED_ROWS = 64;

    private SubspaceIteration() {}

    /** Columns of the basis: more than the rank, since the last ones converge late. */
    static int width(int rank) {
        return rank + Math.max(16, rank / 2);
    }

    /** {@code energy} is the sum of squares of R [out, in]. */
    static LowRank decompose(MemorySegment matrix, int out, int in, int rank, double energy) {
        try (Arena arena = Arena.ofConfined(); Context context = Context.cpu(1)) {
            Product product = new Product(context, arena, matrix, out, in, false);
            Product transposed = new Product(context, arena, matrix, out, in, true);
            DMatrixRMaj z = orthonormal(random(in, width(rank)));
            DMatrixRMaj y = product.of(z);
            double held = squares(y);
            for (int i = 0; i < MOST_ITERATIONS; i++) {
                z = orthonormal(transposed.of(orthonormal(y)));
                y = product.of(z);
                double before = held;
                held = squares(y);
                if (held - before <= GROWTH * held) break;
            }
            // R is Y Z^T within the subspace: the right vectors of Y, turned by Z, are those of R.
            DMatrixRMaj turns = LowRank.rightVectors(triangle(y), rank);
            DMatrixRMaj a = new DMatrixRMaj(rank, in);
            DMatrixRMaj b = new DMatrixRMaj(out, rank);
            CommonOps_DDRM.multTransB(turns, z, a);
            CommonOps_DDRM.multTransB(y, turns, b);
            return LowRank.of(a, b, energy);
        }
    }

    private static DMatrixRMaj random(int rows, int columns) {
        Random random = new Random(SEED);
        DMatrixRMaj matrix = new DMatrixRMaj(rows, columns);
        for (int i = 0; i < matrix.data.length; i++) matrix.data[i] = random.nextGaussian();
        return matrix;
    }

    private static DMatrixRMaj orthonormal(DMatrixRMaj matrix) {
        return qr(matrix).getQ(null, true);
    }

    /** The small factor R of QR: it has the singular values and right vectors of the matrix. */
    private static DMatrixRMaj triangle(DMatrixRMaj matrix) {
        return qr(matrix).getR(null, true);
    }

    private static QRDecomposition<DMatrixRMaj> qr(DMatrixRMaj matrix) {
        QRDecomposition<DMatrixRMaj> qr = DecompositionFactory_DDRM.qr(matrix.numRows, matrix.numCols);
        if (!qr.decompose(qr.inputModified() ? matrix.copy() : matrix)) {
            throw new IllegalStateException("QR of finite numbers failed");
        }
        return qr;
    }

    private static double squares(DMatrixRMaj matrix) {
        double sum = 0;
        for (double value : matrix.data) sum += value * value;
        return sum;
    }

    /** Multiplication of R, or of its transpose, by tall matrices. */
    private static final class Product {
        private final Context context;
        private final LinearShape shape;
        private final Buffer packed;

        Product(Context context, Arena arena, MemorySegment matrix, int out, int in, boolean transposed) {
            this.context = context;
            shape = transposed ? new LinearShape(out, in, DType.F32) : new LinearShape(in, out, DType.F32);
            packed = context.allocate(arena, context.linearBytes(shape));
            if (transposed) packTransposed(matrix);
            else context.linearPack(shape, 0, out, DType.F32, context.wrap(matrix), packed);
        }

        private void packTransposed(MemorySegment matrix) {
            int rows = shape.outFeatures();
            int columns = shape.inFeatures();
            try (Arena scratch = Arena.ofConfined()) {
                MemorySegment piece = scratch.allocate(4L * TRANSPOSED_ROWS * columns, 64);
                for (int first = 0; first < rows; first += TRANSPOSED_ROWS) {
                    int count = Math.min(TRANSPOSED_ROWS, rows - first);
                    for (int c = 0; c < columns; c++) {
                        for (int r = 0; r < count; r++) {
                            piece.setAtIndex(ValueLayout.JAVA_FLOAT, (long) r * columns + c,
                                    matrix.getAtIndex(ValueLayout.JAVA_FLOAT, (long) c * rows + first + r));
                        }
                    }
                    context.linearPack(shape, first, count, DType.F32, context.wrap(piece), packed);
                }
            }
        }

        /** The kernel takes a row per vector; vectors here are columns. */
        DMatrixRMaj of(DMatrixRMaj columns) {
            int count = columns.numCols;
            try (Arena scratch = Arena.ofConfined()) {
                MemorySegment x = scratch.allocate(4L * count * columns.numRows, 64);
                MemorySegment y = scratch.allocate(4L * count * shape.outFeatures(), 64);
                for (int i = 0, at = 0; i < columns.numRows; i++) {
                    for (int j = 0; j < count; j++, at++) {
                        x.setAtIndex(ValueLayout.JAVA_FLOAT, (long) j * columns.numRows + i, (float) columns.data[at]);
                    }
                }
                context.linear(shape, count, null, context.wrap(x), packed, null, null, null, null, context.wrap(y));
                DMatrixRMaj result = new DMatrixRMaj(shape.outFeatures(), count);
                for (int i = 0, at = 0; i < result.numRows; i++) {
                    for (int j = 0; j < count; j++, at++) {
                        result.data[at] = y.getAtIndex(ValueLayout.JAVA_FLOAT, (long) j * result.numRows + i);
                    }
                }
                return result;
            }
        }
    }
}
