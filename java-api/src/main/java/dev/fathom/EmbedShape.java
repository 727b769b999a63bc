package dev.fathom;

import dev.fathom.ffi.fth_embed_shape;

/** {@code out[i] = scale * table[id[i]]}. */
public final class EmbedShape extends Shape {
    final LinearShape weights;
    final boolean isPacked;
    final long tableBytes;
    final long hiddenBytes;

    /**
     * @param packed the table is the packed LM head (tied embeddings stored once), else [vocabSize, hiddenSize]
     */
    public EmbedShape(int vocabSize, int hiddenSize, DType type, boolean packed, float scale) {
        Check.finite("scale", scale);
        Check.atLeast("hiddenSize", hiddenSize, 1);
        Check.atLeast("vocabSize", vocabSize, 1);
        if (!packed) Check.plainType("type", type);
        LinearShape linear = new LinearShape(hiddenSize, vocabSize, type);
        super(fth_embed_shape.layout());
        fth_embed_shape.vocab_size(struct, vocabSize);
        fth_embed_shape.hidden_size(struct, hiddenSize);
        fth_embed_shape.type(struct, type.ordinal());
        fth_embed_shape.packed(struct, packed ? 1 : 0);
        fth_embed_shape.scale(struct, scale);
        weights = linear;
        isPacked = packed;
        tableBytes = Check.product(vocabSize, (long) hiddenSize * type.bytes());
        hiddenBytes = hiddenSize * 4L;
    }

    public int vocabSize() {
        return fth_embed_shape.vocab_size(struct);
    }

    public int hiddenSize() {
        return fth_embed_shape.hidden_size(struct);
    }

    public DType type() {
        return DType.values()[fth_embed_shape.type(struct)];
    }

    public boolean packed() {
        return fth_embed_shape.packed(struct) == 1;
    }

    public float scale() {
        return fth_embed_shape.scale(struct);
    }
}
