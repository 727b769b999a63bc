package dev.fathom;

import dev.fathom.ffi.fth_gate_shape;

/**
 * A router per depth: {@code z = router_d(x / temperature)}. With one output, the choice is {@code z >= threshold}
 * and the gate is {@code alpha * f(z)}. With several, {@code p = alpha * f(z)}, the choice is the argmax of
 * {@code p + bias} (the lowest one on ties) and the gate is the p of the choice.
 */
public final class GateShape extends Shape {
    final long[] bytes = new long[Context.BACKENDS];
    final long hiddenBytes;
    final long outputBytes;
    final boolean perDepth;

    /**
     * @param innerSize MLP only, else 0
     * @param depths    number of routers; the depth of a row selects one
     * @param threshold on z; usually 0
     */
    public GateShape(int hiddenSize, int innerSize, int outputs, int depths, RouterKind router,
                     GateFunction function, float temperature, float alpha, float threshold) {
        Check.atLeast("hiddenSize", hiddenSize, 1);
        Check.notNull("router", router);
        Check.notNull("function", function);
        if (router == RouterKind.MLP) Check.atLeast("innerSize", innerSize, 1);
        else Check.range("innerSize of a linear router", innerSize, 0, 0);
        Check.atLeast("outputs", outputs, 1);
        Check.atLeast("depths", depths, 1);
        Check.positive("temperature", temperature);
        Check.finite("alpha", alpha);
        Check.finite("threshold", threshold);
        super(fth_gate_shape.layout());
        fth_gate_shape.hidden_size(struct, hiddenSize);
        fth_gate_shape.inner_size(struct, innerSize);
        fth_gate_shape.outputs(struct, outputs);
        fth_gate_shape.depths(struct, depths);
        fth_gate_shape.router(struct, router.ordinal());
        fth_gate_shape.function(struct, function.ordinal());
        fth_gate_shape.temperature(struct, temperature);
        fth_gate_shape.alpha(struct, alpha);
        fth_gate_shape.threshold(struct, threshold);
        hiddenBytes = hiddenSize * 4L;
        outputBytes = outputs * 4L;
        perDepth = depths > 1;
    }

    public int hiddenSize() {
        return fth_gate_shape.hidden_size(struct);
    }

    public int innerSize() {
        return fth_gate_shape.inner_size(struct);
    }

    public int outputs() {
        return fth_gate_shape.outputs(struct);
    }

    public int depths() {
        return fth_gate_shape.depths(struct);
    }

    public RouterKind router() {
        return RouterKind.values()[fth_gate_shape.router(struct)];
    }

    public GateFunction function() {
        return GateFunction.values()[fth_gate_shape.function(struct)];
    }

    public float temperature() {
        return fth_gate_shape.temperature(struct);
    }

    public float alpha() {
        return fth_gate_shape.alpha(struct);
    }

    public float threshold() {
        return fth_gate_shape.threshold(struct);
    }

    /** Elements of a part: 0 is W or W1, 1 is W2 of an MLP. */
    long elements(int part) {
        Check.range("part", part, 0, router() == RouterKind.MLP ? 1 : 0);
        if (router() == RouterKind.LINEAR) return Check.product(outputs(), hiddenSize());
        return part == 0 ? Check.product(innerSize(), hiddenSize()) : Check.product(outputs(), innerSize());
    }
}
