package dev.fathom;

/** What attention adds to its scores. */
public enum BiasKind {
    NONE,
    /** bias[head][clamp(key position - row position + center)]: T5 and its kin. */
    RELATIVE,
    /** bias[row][head][list item]. */
    DENSE
}
