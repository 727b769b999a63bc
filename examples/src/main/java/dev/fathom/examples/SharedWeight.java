package dev.fathom.examples;

import java.util.List;

import dev.fathom.DType;

/**
 * A weight of a converted model: the mean of tensors of the original, rounded to the type that it is stored in.
 *
 * @param count what the sum is divided by: more than there are tensors if some of the originals have none, that is,
 *              zeros (biases)
 */
record SharedWeight(List<Tensor> tensors, int count, DType type) {
    long[] shape() {
        return tensors.getFirst().shape();
    }

    long elements() {
        return tensors.getFirst().elements();
    }

    /** Elements {@code from .. from + n)} as they are stored, into the first of {@code values}; whole blocks. */
    void read(long from, float[] values, int n) {
        if (tensors.size() == 1 && count == 1) {
            tensors.getFirst().read(from, values, n);
        } else {
            double[] sum = new double[n];
            for (Tensor tensor : tensors) {
                tensor.read(from, values, n);
                for (int i = 0; i < n; i++) sum[i] += values[i];
            }
            for (int i = 0; i < n; i++) values[i] = (float) (sum[i] / count);
        }
        Elements.round(type, values, n);
    }
}
