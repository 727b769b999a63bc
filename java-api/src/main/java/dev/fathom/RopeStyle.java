package dev.fathom;

/** Which elements of a head a rotation pairs. */
public enum RopeStyle {
    NONE,
    /** (i, i + rotaryDim / 2). */
    HALF,
    /** (2i, 2i + 1). */
    INTERLEAVED
}
