package dev.fathom;

/** Pointwise functions, computed in fp32. */
public enum Activation {
    IDENTITY,
    RELU,
    /** x * Phi(x), by erf. */
    GELU,
    /** The tanh approximation of GELU. */
    GELU_TANH,
    /** x * sigmoid(x). */
    SILU
}
