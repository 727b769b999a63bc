package dev.fathom;

import dev.fathom.ffi.fth_norm_shape;

/** A norm of vectors of {@code width} elements, with one gain (and bias) per depth or one for all. */
public final class NormShape extends Shape {
    final long rowBytes;
    final long gainBytes;
    final boolean perDepth;

    /**
     * @param depths number of gain and bias vectors; the depth of a row selects one
     */
    public NormShape(NormKind kind, int width, int depths, float eps) {
        Check.notNull("kind", kind);
        Check.atLeast("width", width, 1);
        Check.atLeast("depths", depths, 1);
        Check.notNegative("eps", eps);
        super(fth_norm_shape.layout());
        fth_norm_shape.kind(struct, kind.ordinal());
        fth_norm_shape.width(struct, width);
        fth_norm_shape.depths(struct, depths);
        fth_norm_shape.eps(struct, eps);
        rowBytes = width * 4L;
        gainBytes = Check.product(depths, rowBytes);
        perDepth = depths > 1;
    }

    /** One gain for all depths. */
    public NormShape(NormKind kind, int width, float eps) {
        this(kind, width, 1, eps);
    }

    public NormKind kind() {
        return NormKind.values()[fth_norm_shape.kind(struct)];
    }

    public int width() {
        return fth_norm_shape.width(struct);
    }

    public int depths() {
        return fth_norm_shape.depths(struct);
    }

    public float eps() {
        return fth_norm_shape.eps(struct);
    }
}
