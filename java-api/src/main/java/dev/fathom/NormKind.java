package dev.fathom;

/** Kinds of norm. */
public enum NormKind {
    /** x / sqrt(mean(x^2) + eps) * gain. */
    RMS,
    /** (x - mean) / sqrt(var + eps) * gain + bias. */
    LAYER
}
