package dev.fathom;

import dev.fathom.ffi.fth_head_shape;

/**
 * Norm and LM head: {@code z = softcap(logitScale * W norm(h))}, {@code softcap(z) = c * tanh(z / c)} if c is not 0.
 */
public final class HeadShape extends Shape {
    final LinearShape weights;
    final long hiddenBytes;
    final long chosenBytes;
    final long logitBytes;

    /**
     * @param norm       null: none
     * @param logitScale usually 1; {@code 1 / sqrt(hiddenSize)} for tied T5
     * @param softcap    0: none
     * @param chosen     how many chosen logits per row; 0: none
     */
    public HeadShape(int hiddenSize, int vocabSize, DType weightType, NormKind norm, float normEps,
                     float logitScale, float softcap, int chosen) {
        Check.notNegative("normEps", normEps);
        Check.finite("logitScale", logitScale);
        Check.notNegative("softcap", softcap);
        Check.atLeast("chosen", chosen, 0);
        Check.atLeast("hiddenSize", hiddenSize, 1);
        Check.atLeast("vocabSize", vocabSize, 1);
        LinearShape linear = new LinearShape(hiddenSize, vocabSize, weightType);
        super(fth_head_shape.layout());
        fth_head_shape.hidden_size(struct, hiddenSize);
        fth_head_shape.vocab_size(struct, vocabSize);
        fth_head_shape.weight_type(struct, weightType.ordinal());
        fth_head_shape.norm(struct, norm == null ? -1 : norm.ordinal());
        fth_head_shape.norm_eps(struct, normEps);
        fth_head_shape.logit_scale(struct, logitScale);
        fth_head_shape.softcap(struct, softcap);
        fth_head_shape.chosen(struct, chosen);
        weights = linear;
        hiddenBytes = hiddenSize * 4L;
        chosenBytes = chosen * 4L;
        logitBytes = vocabSize * 4L;
    }

    /** Without softcap and chosen logits. */
    public HeadShape(int hiddenSize, int vocabSize, DType weightType, NormKind norm, float normEps) {
        this(hiddenSize, vocabSize, weightType, norm, normEps, 1, 0, 0);
    }

    public int hiddenSize() {
        return fth_head_shape.hidden_size(struct);
    }

    public int vocabSize() {
        return fth_head_shape.vocab_size(struct);
    }

    public DType weightType() {
        return DType.values()[fth_head_shape.weight_type(struct)];
    }

    /** Null: none. */
    public NormKind norm() {
        int code = fth_head_shape.norm(struct);
        return code < 0 ? null : NormKind.values()[code];
    }

    public float normEps() {
        return fth_head_shape.norm_eps(struct);
    }

    public float logitScale() {
        return fth_head_shape.logit_scale(struct);
    }

    public float softcap() {
        return fth_head_shape.softcap(struct);
    }

    public int chosen() {
        return fth_head_shape.chosen(struct);
    }

    /** The shape under which W is packed: see {@link Context#linearPack}. */
    public LinearShape weights() {
        return weights;
    }
}
