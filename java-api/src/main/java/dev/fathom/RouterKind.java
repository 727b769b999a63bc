package dev.fathom;

/** What computes a router's score. */
public enum RouterKind {
    /** W1 x + b1. */
    LINEAR,
    /** W2 act(W1 x + b1) + b2. */
    MLP
}
