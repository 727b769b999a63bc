package dev.fathom;

/** What a pass does to a row's state h, f being the block. */
public enum StateUpdate {
    /** h = f(h). */
    REPLACE,
    /** h = h + f(h). */
    ADD,
    /** h = h + gate f(h), the gate being that of the pass's router. */
    ADD_GATED
}
