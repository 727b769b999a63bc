package dev.fathom;

/** What computes a router's score. */
public enum RouterKind {
    LINEAR,
    /** W2 gelu(W1 x). */
    MLP
}
