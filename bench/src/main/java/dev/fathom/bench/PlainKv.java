package dev.fathom.bench;

/**
 * K and V of one sequence on the heap. Keys lie by dimension, so that the scores of neighbouring items are one loop
 * over an array.
 */
final class PlainKv {
    /** [kvHeads][headDim][items]. */
    final float[][][] k;
    /** [kvHeads][items][headDim]. */
    final float[][][] v;

    PlainKv(Model model, int items) {
        k = new float[model.kvHeads][model.headDim][items];
        v = new float[model.kvHeads][items][model.headDim];
    }

    /** keys, values [items][kvHeads * headDim]. */
    PlainKv(Model model, float[][] keys, float[][] values) {
        this(model, keys.length);
        for (int item = 0; item < keys.length; item++) set(item, keys[item], values[item]);
    }

    /** key, value [kvHeads * headDim]. */
    void set(int item, float[] key, float[] value) {
        for (int h = 0; h < k.length; h++) {
            int headDim = k[h].length;
            for (int i = 0; i < headDim; i++) k[h][i][item] = key[h * headDim + i];
            System.arraycopy(value, h * headDim, v[h][item], 0, headDim);
        }
    }
}
