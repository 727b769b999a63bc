package dev.fathom;

/** What a linear adds its result to. */
public enum Residual {
    /** y = act(z). */
    NONE,
    /** y = r + act(z). */
    ADD,
    /** y = r + g * act(z), one g per row. */
    GATED
}
