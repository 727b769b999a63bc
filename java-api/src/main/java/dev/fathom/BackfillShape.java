package dev.fathom;

import dev.fathom.ffi.fth_backfill_shape;

/**
 * State propagation: K and V of every layer that a token skipped, from its exit state. Each layer's norm gain and
 * bias are folded into its weights. Without norm and rotation: K and V of the cross-attention of every decoder layer,
 * from an encoder's output. Where the K,V of all remaining depths are equal (shared weights, tied norms, no
 * LoRA), use {@code depths = 1} and append the one entry to several lists.
 */
public final class BackfillShape extends Shape {
    /** The pool shape asked about last, and the packed size with it. */
    record Size(KvShape kv, int backend, long bytes) {}

    Size size;
    final int width;
    final long hiddenBytes;
    final long entryBytes;
    final long frequencyBytes;
    final boolean turns;

    /**
     * @param depths sets of weights, each for all layers of the pool
     * @param norm   null: none
     */
    public BackfillShape(int hiddenSize, int depths, DType weightType, NormKind norm, RopeStyle ropeStyle,
                         int rotaryDim, float normEps) {
        Check.atLeast("hiddenSize", hiddenSize, 1);
        Check.atLeast("depths", depths, 1);
        Check.weightType("weightType", weightType);
        Check.notNull("ropeStyle", ropeStyle);
        Check.rotaryDim(ropeStyle, rotaryDim, Check.MOST_HEAD_DIM);
        Check.notNegative("normEps", normEps);
        super(fth_backfill_shape.layout());
        fth_backfill_shape.hidden_size(struct, hiddenSize);
        fth_backfill_shape.depths(struct, depths);
        fth_backfill_shape.weight_type(struct, weightType.ordinal());
        fth_backfill_shape.norm(struct, norm == null ? -1 : norm.ordinal());
        fth_backfill_shape.rope_style(struct, ropeStyle.ordinal());
        fth_backfill_shape.rotary_dim(struct, rotaryDim);
        fth_backfill_shape.norm_eps(struct, normEps);
        width = hiddenSize;
        hiddenBytes = hiddenSize * 4L;
        entryBytes = depths * 4L;
        frequencyBytes = rotaryDim / 2 * 4L;
        turns = ropeStyle != RopeStyle.NONE;
    }

    public int hiddenSize() {
        return fth_backfill_shape.hidden_size(struct);
    }

    public int depths() {
        return fth_backfill_shape.depths(struct);
    }

    public DType weightType() {
        return DType.values()[fth_backfill_shape.weight_type(struct)];
    }

    /** Null: none. */
    public NormKind norm() {
        int code = fth_backfill_shape.norm(struct);
        return code < 0 ? null : NormKind.values()[code];
    }

    public RopeStyle ropeStyle() {
        return RopeStyle.values()[fth_backfill_shape.rope_style(struct)];
    }

    public int rotaryDim() {
        return fth_backfill_shape.rotary_dim(struct);
    }

    public float normEps() {
        return fth_backfill_shape.norm_eps(struct);
    }
}
