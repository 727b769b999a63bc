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

    /** How many elements to read at a time, about as many as these: those of whole rows where a row has a scale. */
    int piece(int about) {
        if (type != DType.F8_E4M3) return about;
        int columns = columns();
        return Math.multiplyExact(columns, Math.max(1, about / columns));
    }

    private int columns() {
        return Math.max(1, Math.toIntExact(shape()[shape().length - 1]));
    }

    /** Elements {@code from .. from + n)} as stored, into the first of {@code values}; whole blocks or rows. */
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
        if (type == DType.F8_E4M3) F8Rows.round(values, n, columns());
        else Elements.round(type, values, n);
    }
}
