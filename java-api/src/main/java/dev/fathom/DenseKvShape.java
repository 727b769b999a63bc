package dev.fathom;

import dev.fathom.ffi.fth_dense_kv_shape;

/**
 * Dense K,V that an engine keeps itself. Element (sequence s, position t, head h, i) lies at
 * {@code s * sequenceStride + t * tokenStride + h * headStride + i}, in elements.
 */
public final class DenseKvShape extends Shape {
    final long headBytes;
    final long bytes;
    final long reachBytes;

    /**
     * @param tokens positions per sequence
     */
    public DenseKvShape(int sequences, int tokens, int kvHeads, int headDim, DType type, long sequenceStride,
                        long tokenStride, long headStride) {
        Check.atLeast("sequences", sequences, 1);
        Check.atLeast("tokens", tokens, 1);
        Check.range("kvHeads", kvHeads, 1, Check.MOST_HEADS);
        Check.headDim(headDim);
        Check.plainType("type", type);
        Check.atLeast("sequenceStride", sequenceStride, 0);
        Check.atLeast("tokenStride", tokenStride, 0);
        Check.atLeast("headStride", headStride, 0);
        super(fth_dense_kv_shape.layout());
        fth_dense_kv_shape.sequences(struct, sequences);
        fth_dense_kv_shape.tokens(struct, tokens);
        fth_dense_kv_shape.kv_heads(struct, kvHeads);
        fth_dense_kv_shape.head_dim(struct, headDim);
        fth_dense_kv_shape.type(struct, type.ordinal());
        fth_dense_kv_shape.sequence_stride(struct, sequenceStride);
        fth_dense_kv_shape.token_stride(struct, tokenStride);
        fth_dense_kv_shape.head_stride(struct, headStride);
        headBytes = headDim * 4L;
        long last = Check.sum(Check.product(sequences - 1, sequenceStride), Check.product(tokens - 1, tokenStride));
        last = Check.sum(last, Check.product(kvHeads - 1, headStride));
        bytes = Check.product(Check.sum(last, headDim), type.bytes());
        reachBytes = Check.product(sequences, tokens * 4L);
    }

    public int sequences() {
        return fth_dense_kv_shape.sequences(struct);
    }

    public int tokens() {
        return fth_dense_kv_shape.tokens(struct);
    }

    public int kvHeads() {
        return fth_dense_kv_shape.kv_heads(struct);
    }

    public int headDim() {
        return fth_dense_kv_shape.head_dim(struct);
    }

    public DType type() {
        return DType.values()[fth_dense_kv_shape.type(struct)];
    }

    public long sequenceStride() {
        return fth_dense_kv_shape.sequence_stride(struct);
    }

    public long tokenStride() {
        return fth_dense_kv_shape.token_stride(struct);
    }

    public long headStride() {
        return fth_dense_kv_shape.head_stride(struct);
    }

    /** Bytes that K and V must each have. */
    public long bytes() {
        return bytes;
    }
}
