package dev.fathom;

/** What turns a router's score into a gate. */
public enum GateFunction {
    NONE,
    SIGMOID,
    TANH,
    SOFTMAX
}
