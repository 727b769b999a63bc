package dev.fathom;

import dev.fathom.ffi.fth_attention_shape;

/** {@code out = sum_k softmax_k(scale * q.k + bias) v} over the items that a row sees. */
public final class AttentionShape extends Shape {
    final int headCount;
    final BiasKind bias;
    final long biasBytes;

    /**
     * @param heads      query heads, a multiple of the K,V heads; head h reads K,V head {@code h / (heads / kvHeads)}
     * @param biasWidth  0 without bias
     * @param biasCenter RELATIVE: index of difference 0
     * @param scale      usually {@code 1 / sqrt(headDim)}; 1 for T5
     */
    public AttentionShape(int heads, BiasKind biasKind, int biasWidth, int biasCenter, float scale) {
        Check.range("heads", heads, 1, Check.MOST_HEADS);
        Check.notNull("biasKind", biasKind);
        if (biasKind == BiasKind.NONE) Check.range("biasWidth without bias", biasWidth, 0, 0);
        else Check.atLeast("biasWidth", biasWidth, 1);
        Check.finite("scale", scale);
        super(fth_attention_shape.layout());
        fth_attention_shape.heads(struct, heads);
        fth_attention_shape.bias_kind(struct, biasKind.ordinal());
        fth_attention_shape.bias_width(struct, biasWidth);
        fth_attention_shape.bias_center(struct, biasCenter);
        fth_attention_shape.scale(struct, scale);
        headCount = heads;
        bias = biasKind;
        biasBytes = heads * (biasWidth * 4L);
    }

    /** Without bias. */
    public AttentionShape(int heads, float scale) {
        this(heads, BiasKind.NONE, 0, 0, scale);
    }

    public int heads() {
        return fth_attention_shape.heads(struct);
    }

    public BiasKind biasKind() {
        return BiasKind.values()[fth_attention_shape.bias_kind(struct)];
    }

    public int biasWidth() {
        return fth_attention_shape.bias_width(struct);
    }

    public int biasCenter() {
        return fth_attention_shape.bias_center(struct);
    }

    public float scale() {
        return fth_attention_shape.scale(struct);
    }
}
