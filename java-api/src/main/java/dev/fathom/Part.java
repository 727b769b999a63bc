package dev.fathom;

/** Tensors of a layer, in the order of their places in it. */
public enum Part {
    Q,
    K,
    V,
    O,
    GATE,
    UP,
    DOWN,
    ATTENTION_PRE_NORM,
    ATTENTION_BRANCH_NORM,
    ATTENTION_POST_NORM,
    MLP_PRE_NORM,
    MLP_BRANCH_NORM,
    MLP_POST_NORM,
    /** One vector for the whole block: layer 0, depth 0. */
    ROPE_FREQUENCY;

    /** Whether this is one of the seven linears. */
    public boolean isLinear() {
        return ordinal() <= DOWN.ordinal();
    }
}
