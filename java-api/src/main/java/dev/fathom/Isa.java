package dev.fathom;

/** Instruction sets of the CPU back end, in rising order. */
public enum Isa {
    SCALAR,
    AVX2,
    AVX512;

    @Override
    public String toString() {
        return name().toLowerCase(java.util.Locale.ROOT);
    }
}
