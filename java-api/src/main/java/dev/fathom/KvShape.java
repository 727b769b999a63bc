package dev.fathom;

import dev.fathom.ffi.fth_kv_shape;

/**
 * A pool of K and V. Entries {@code 64p .. 64p + 63} form page p; a list whose items {@code 64i .. 64i + 63} are one
 * whole page in order is read without copying.
 */
public final class KvShape extends Shape {
    final long[] bytes = new long[Context.BACKENDS];
    final long headBytes;
    final long rowBytes;
    final long entryCount;

    /**
     * @param headDim multiple of 8, 16 to 256
     * @param type    F32, BF16 or I8
     * @param entries multiple of 64
     */
    public KvShape(int layers, int kvHeads, int headDim, DType type, long entries) {
        Check.atLeast("layers", layers, 1);
        Check.range("kvHeads", kvHeads, 1, Check.MOST_HEADS);
        Check.headDim(headDim);
        Check.kvType("type", type);
        Check.poolEntries(entries);
        super(fth_kv_shape.layout());
        fth_kv_shape.layers(struct, layers);
        fth_kv_shape.kv_heads(struct, kvHeads);
        fth_kv_shape.head_dim(struct, headDim);
        fth_kv_shape.type(struct, type.ordinal());
        fth_kv_shape.entries(struct, entries);
        headBytes = headDim * 4L;
        rowBytes = kvHeads * headBytes;
        entryCount = entries;
    }

    public int layers() {
        return fth_kv_shape.layers(struct);
    }

    public int kvHeads() {
        return fth_kv_shape.kv_heads(struct);
    }

    public int headDim() {
        return fth_kv_shape.head_dim(struct);
    }

    public DType type() {
        return DType.values()[fth_kv_shape.type(struct)];
    }

    public long entries() {
        return fth_kv_shape.entries(struct);
    }
}
