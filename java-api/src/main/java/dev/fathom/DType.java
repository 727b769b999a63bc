package dev.fathom;

/** Element types, with the codes of the C header. */
public enum DType {
    F32,
    BF16,
    /** A source type for packing only. */
    F16;

    /** Bytes of one element. */
    public int bytes() {
        return this == F32 ? 4 : 2;
    }
}
