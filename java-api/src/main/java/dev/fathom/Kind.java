package dev.fathom;

/**
 * What of a {@link Part} is packed. A norm's gain is its weight; weights and biases of linears are the same at all
 * depths.
 */
public enum Kind {
    WEIGHT,
    BIAS,
    LORA_A,
    LORA_B
}
