package dev.fathom;

import java.util.Locale;

/** Instruction sets of the CPU back end, in rising order. */
public enum Isa {
    SCALAR,
    AVX2,
    AVX512;

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
