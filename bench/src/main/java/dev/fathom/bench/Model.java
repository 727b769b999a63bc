package dev.fathom.bench;

/** Shapes of real models. */
public enum Model {
    /** Mixture-of-Recursions on the body of SmolLM-360M. */
    MOR_360M(960, 2560, 15, 5, 64, 49152),
    TINYLLAMA(2048, 5632, 32, 4, 64, 32000);

    final int hidden;
    final int intermediate;
    final int heads;
    final int kvHeads;
    final int headDim;
    final int vocabulary;

    Model(int hidden, int intermediate, int heads, int kvHeads, int headDim, int vocabulary) {
        this.hidden = hidden;
        this.intermediate = intermediate;
        this.heads = heads;
        this.kvHeads = kvHeads;
        this.headDim = headDim;
        this.vocabulary = vocabulary;
    }

    /** Elements of all query heads of a row. */
    int queryWidth() {
        return heads * headDim;
    }

    /** Elements of K, and of V, of a row. */
    int kvWidth() {
        return kvHeads * headDim;
    }

    float attentionScale() {
        return (float) (1 / Math.sqrt(headDim));
    }

    float[] ropeFrequency() {
        float[] frequency = new float[headDim / 2];
        for (int i = 0; i < frequency.length; i++) frequency[i] = (float) Math.pow(10000, -2.0 * i / headDim);
        return frequency;
    }
}
