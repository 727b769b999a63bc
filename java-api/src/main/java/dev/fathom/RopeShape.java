package dev.fathom;

import dev.fathom.ffi.fth_rope_shape;

/** Rotation of the first {@code rotaryDim} elements of every head by {@code position * frequency[i]}. */
public final class RopeShape extends Shape {
    final long rowBytes;
    final long frequencyBytes;

    public RopeShape(RopeStyle style, int heads, int headDim, int rotaryDim) {
        Check.notNull("style", style);
        Check.atLeast("heads", heads, 1);
        Check.atLeast("headDim", headDim, 1);
        Check.rotaryDim(style, rotaryDim, headDim);
        super(fth_rope_shape.layout());
        fth_rope_shape.style(struct, style.ordinal());
        fth_rope_shape.heads(struct, heads);
        fth_rope_shape.head_dim(struct, headDim);
        fth_rope_shape.rotary_dim(struct, rotaryDim);
        rowBytes = Check.product(heads, headDim * 4L);
        frequencyBytes = rotaryDim / 2 * 4L;
    }

    public RopeStyle style() {
        return RopeStyle.values()[fth_rope_shape.style(struct)];
    }

    public int heads() {
        return fth_rope_shape.heads(struct);
    }

    public int headDim() {
        return fth_rope_shape.head_dim(struct);
    }

    public int rotaryDim() {
        return fth_rope_shape.rotary_dim(struct);
    }
}
