package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;

import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.factory.DecompositionFactory_DDRM;
import org.ejml.interfaces.decomposition.SingularValueDecomposition_F64;

/**
 * The product B A of rank r that is nearest to a matrix R [out, in]: with R = U S V^T, A = V_r^T [r, in] and
 * B = R V_r = U_r S_r [out, r], both row-major.
 *
 * @param energy the sum of squares of R
 * @param kept   the sum of squares of B A: that of the r largest singular values
 */
record LowRank(float[] a, float[] b, double energy, double kept) {
    /** Sides up to which the whole decomposition is quick. */
    private static final int SMALL = 320;

    /**
     * Of a matrix of finite floats. Small matrices, and ranks that are a large part of the matrix, take a whole
     * decomposition in fp64. The others take {@link SubspaceIteration}, which comes near it in a fraction of the time.
     *
     * @param rank at most the shorter side
     */
    static LowRank of(MemorySegment matrix, int out, int in, int rank) {
        double energy = 0;
        for (long i = 0; i < (long) out * in; i++) {
            double value = matrix.getAtIndex(ValueLayout.JAVA_FLOAT, i);
            energy += value * value;
        }
        if (energy == 0) return ofZero(out, in, rank);
        int shorter = Math.min(out, in);
        return shorter <= SMALL || SubspaceIteration.width(rank) > shorter / 2 ? whole(matrix, out, in, rank, energy)
                : SubspaceIteration.decompose(matrix, out, in, rank, energy);
    }

    /** B is zero, and A has orthonormal rows as always, so that training can start from it. */
    private static LowRank ofZero(int out, int in, int rank) {
        float[] a = new float[rank * in];
        for (int i = 0; i < rank; i++) a[i * in + i] = 1;
        return new LowRank(a, new float[out * rank], 0, 0);
    }

    private static LowRank whole(MemorySegment matrix, int out, int in, int rank, double energy) {
        DMatrixRMaj r = new DMatrixRMaj(out, in);
        for (int i = 0; i < r.data.length; i++) r.data[i] = matrix.getAtIndex(ValueLayout.JAVA_FLOAT, i);
        DMatrixRMaj a = rightVectors(r, rank);
        DMatrixRMaj b = new DMatrixRMaj(out, rank);
        CommonOps_DDRM.multTransB(r, a, b);
        return of(a, b, energy);
    }

    static LowRank of(DMatrixRMaj a, DMatrixRMaj b, double energy) {
        double kept = 0;
        for (double value : b.data) kept += value * value;
        return new LowRank(floats(a.data), floats(b.data), energy, kept);
    }

    /** [rank, in]: the right singular vectors of the largest singular values, in descending order. */
    static DMatrixRMaj rightVectors(DMatrixRMaj matrix, int rank) {
        SingularValueDecomposition_F64<DMatrixRMaj> svd = DecompositionFactory_DDRM
                .svd(matrix.numRows, matrix.numCols, false, true, true);
        if (!svd.decompose(matrix.copy())) {
            throw new UserException("The singular value decomposition of a residual [" + matrix.numRows + ", "
                    + matrix.numCols + "] does not converge.");
        }
        double[] values = svd.getSingularValues();
        DMatrixRMaj all = svd.getV(null, true);
        DMatrixRMaj largest = new DMatrixRMaj(rank, matrix.numCols);
        int[] order = IntStream.range(0, svd.numberOfSingularValues()).boxed()
                .sorted((i, j) -> Double.compare(values[j], values[i])).mapToInt(i -> i).toArray();
        for (int i = 0; i < rank; i++) {
            System.arraycopy(all.data, order[i] * all.numCols, largest.data, i * all.numCols, all.numCols);
        }
        return largest;
    }

    private static float[] floats(double[] values) {
        float[] floats = new float[values.length];
        for (int i = 0; i < floats.length; i++) floats[i] = (float) values[i];
        return floats;
    }
}
