package dev.fathom;

import dev.fathom.ffi.fth_linear_shape;

/**
 * {@code y = r + g * act(z)}, {@code z = W x + bias + B_d (A_d x)}, where d is the row's depth. With {@code glu}, W
 * has {@code 2 * outFeatures} rows, first the gate's, then the values', and act(z) becomes act(z_gate) * z_value.
 * With BF16 and F8_E4M3 weights x is rounded to bf16 before the product, with Q8_0, Q4_0 and I8 to 8-bit integers, of
 * which 128 neighbours, with I8 512, have one scale.
 */
public final class LinearShape extends Shape {
    final long[] packedBytes = new long[Context.BACKENDS];
    final long[] loraBytes = new long[Context.BACKENDS];
    final long xBytes;
    final long yBytes;
    final boolean hasLora;
    final boolean hasResidual;
    final boolean hasGate;

    /**
     * @param loraRank   rank of the LoRA pairs; 0: none
     * @param loraDepths number of LoRA pairs; 0 without LoRA
     */
    public LinearShape(int inFeatures, int outFeatures, DType weightType, Activation activation, boolean glu,
                       Residual residual, int loraRank, int loraDepths) {
        Check.atLeast("inFeatures", inFeatures, 1);
        Check.atLeast("outFeatures", outFeatures, 1);
        Check.weightType("weightType", weightType);
        Check.notNull("activation", activation);
        Check.notNull("residual", residual);
        Check.atLeast("loraRank", loraRank, 0);
        if (loraRank > 0) Check.atLeast("loraDepths", loraDepths, 1);
        else Check.range("loraDepths without LoRA", loraDepths, 0, 0);
        super(fth_linear_shape.layout());
        fth_linear_shape.in_features(struct, inFeatures);
        fth_linear_shape.out_features(struct, outFeatures);
        fth_linear_shape.weight_type(struct, weightType.ordinal());
        fth_linear_shape.activation(struct, activation.ordinal());
        fth_linear_shape.glu(struct, glu ? 1 : 0);
        fth_linear_shape.residual(struct, residual.ordinal());
        fth_linear_shape.lora_rank(struct, loraRank);
        fth_linear_shape.lora_depths(struct, loraDepths);
        xBytes = inFeatures * 4L;
        yBytes = outFeatures * 4L;
        hasLora = loraRank > 0;
        hasResidual = residual != Residual.NONE;
        hasGate = residual == Residual.GATED;
    }

    /** y = W x + bias. */
    public LinearShape(int inFeatures, int outFeatures, DType weightType) {
        this(inFeatures, outFeatures, weightType, Activation.IDENTITY, false, Residual.NONE, 0, 0);
    }

    public int inFeatures() {
        return fth_linear_shape.in_features(struct);
    }

    public int outFeatures() {
        return fth_linear_shape.out_features(struct);
    }

    public DType weightType() {
        return DType.values()[fth_linear_shape.weight_type(struct)];
    }

    public Activation activation() {
        return Activation.values()[fth_linear_shape.activation(struct)];
    }

    public boolean glu() {
        return fth_linear_shape.glu(struct) == 1;
    }

    public Residual residual() {
        return Residual.values()[fth_linear_shape.residual(struct)];
    }

    public int loraRank() {
        return fth_linear_shape.lora_rank(struct);
    }

    public int loraDepths() {
        return fth_linear_shape.lora_depths(struct);
    }

    /** Rows of W: {@code outFeatures}, twice with glu. */
    public long weightRows() {
        return (glu() ? 2L : 1L) * outFeatures();
    }
}
