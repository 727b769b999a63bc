package dev.fathom;

/** Tensors of a layer, in the order of their places in it. */
public enum Part {
    Q,
    K,
    V,
    O,
    CROSS_Q,
    CROSS_O,
    GATE,
    UP,
    DOWN,
    ATTENTION_PRE_NORM,
    ATTENTION_BRANCH_NORM,
    ATTENTION_POST_NORM,
    CROSS_PRE_NORM,
    CROSS_BRANCH_NORM,
    CROSS_POST_NORM,
    MLP_PRE_NORM,
    MLP_BRANCH_NORM,
    MLP_POST_NORM,
    /** One vector for the whole block: layer 0, depth 0. */
    ROPE_FREQUENCY,
    /** One table for the whole block, [heads, relativeWidth]: layer 0, depth 0. */
    RELATIVE_BIAS;

    /** Whether this is one of the linears, Q to DOWN. */
    public boolean isLinear() {
        return ordinal() <= DOWN.ordinal();
    }
}
