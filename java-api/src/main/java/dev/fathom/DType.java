package dev.fathom;

/** Element types, with the codes of the C header. */
public enum DType {
    F32,
    BF16,
    /** A source type for packing only. */
    F16,
    /**
     * 8-bit integers with one fp32 scale: per output feature of a weight, per entry, head and side of K,V. Made by
     * packing and writing, never a source type.
     */
    I8,
    /** Blocks of 32 8-bit integers with one fp16 scale, 34 bytes, as in GGUF files. */
    Q8_0,
    /** Blocks of 32 4-bit integers with one fp16 scale, 18 bytes, as in GGUF files. */
    Q4_0,
    /**
     * FP8 without infinities, with one fp32 scale per output feature. As a source type a row of a weight is its scale,
     * then one byte per input, and rows follow one another without gaps.
     */
    F8_E4M3;

    /** Elements that are stored together: 32 in blocks, else 1. */
    public int blockSize() {
        return this == Q8_0 || this == Q4_0 ? 32 : 1;
    }

    /** Bytes of one block: of one element where {@link #blockSize} is 1, without scales that rows have. */
    public int bytes() {
        return switch (this) {
            case F32 -> 4;
            case BF16, F16 -> 2;
            case I8, F8_E4M3 -> 1;
            case Q8_0 -> 34;
            case Q4_0 -> 18;
        };
    }

    /** True for types that have scales: I8, Q8_0, Q4_0 and F8_E4M3. */
    public boolean quantised() {
        return ordinal() >= I8.ordinal();
    }
}
