package dev.fathom;

/** Weights and biases of the layers of a {@link GateShape}; a linear router has layer 1 alone. */
public enum GatePart {
    W1,
    B1,
    W2,
    B2;

    boolean isBias() {
        return this == B1 || this == B2;
    }

    int layer() {
        return this == W1 || this == B1 ? 1 : 2;
    }
}
