package dev.fathom;

import dev.fathom.ffi.fth_gate_shape;

/**
 * A router or an exit head per depth: {@code z = router_d(x / temperature)}, {@code p = alpha * f(z)}. With one output,
 * the choice is {@code z >= threshold} and the gate is p. With several, the choice is the argmax of
 * {@code p + choiceBias} (the lowest one on ties) and the gate is the p of the choice.
 *
 * <p>For heads that say whether to exit: with one logit {@link GateFunction#SIGMOID} makes the gate their confidence,
 * with two classes (stay, exit) {@link GateFunction#SOFTMAX} makes it the second of p; alpha is 1.
 */
public final class GateShape extends Shape {
    final long[] bytes = new long[Context.BACKENDS];
    final long hiddenBytes;
    final long outputBytes;
    final boolean perDepth;

    /**
     * @param innerSize  MLP only, else 0
     * @param depths     number of routers; the depth of a row selects one
     * @param threshold  on z; usually 0
     * @param activation of an MLP's first layer; {@link Activation#IDENTITY} for a linear router
     * @param bias       whether every layer has a bias
     */
    public GateShape(int hiddenSize, int innerSize, int outputs, int depths, RouterKind router,
                     GateFunction function, float temperature, float alpha, float threshold, Activation activation,
                     boolean bias) {
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
        Check.notNull("activation", activation);
        if (router == RouterKind.LINEAR && activation != Activation.IDENTITY) {
            throw new IllegalArgumentException("activation of a linear router must be IDENTITY, got " + activation);
        }
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
        fth_gate_shape.activation(struct, activation.ordinal());
        fth_gate_shape.bias(struct, bias ? 1 : 0);
        hiddenBytes = hiddenSize * 4L;
        outputBytes = outputs * 4L;
        perDepth = depths > 1;
    }

    /** Without biases; an MLP has GELU. These are the routers of Mixture-of-Recursions. */
    public GateShape(int hiddenSize, int innerSize, int outputs, int depths, RouterKind router,
                     GateFunction function, float temperature, float alpha, float threshold) {
        this(hiddenSize, innerSize, outputs, depths, router, function, temperature, alpha, threshold,
                router == RouterKind.MLP ? Activation.GELU : Activation.IDENTITY, false);
    }

    /** The same with another threshold; weights packed for this shape fit it. */
    public GateShape withThreshold(float threshold) {
        return new GateShape(hiddenSize(), innerSize(), outputs(), depths(), router(), function(), temperature(),
                alpha(), threshold, activation(), bias());
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

    public Activation activation() {
        return Activation.values()[fth_gate_shape.activation(struct)];
    }

    public boolean bias() {
        return fth_gate_shape.bias(struct) == 1;
    }

    /** Elements of a part; refuses one that this shape does not have. */
    public long elements(GatePart part) {
        boolean mlp = router() == RouterKind.MLP;
        if (part.layer() == 2 && !mlp || part.isBias() && !bias()) {
            throw new IllegalArgumentException("part must be one that the shape has, got " + part);
        }
        int in = part.layer() == 1 ? hiddenSize() : innerSize();
        int out = part.layer() == 1 && mlp ? innerSize() : outputs();
        return part.isBias() ? out : Check.product(out, in);
    }
}
