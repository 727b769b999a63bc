package dev.fathom.bench;

import java.util.Map;

import dev.fathom.Part;

/** A decoder layer as plain Java: weights [in][out], one new token of every sequence. */
final class PlainLayer {
    final float[] attentionGain;
    final float[] mlpGain;
    final float[] frequency;

    private final Model model;
    private final float eps;
    private final float[][] wq, wk, wv, wo, wGate, wUp, wDown;
    private final float[][] normed, q, k, v, attended, gate, up, branch;
    private final float[] score;

    PlainLayer(Model model, Numbers numbers, float eps, int rows, int context) {
        this.model = model;
        this.eps = eps;
        attentionGain = numbers.vector(model.hidden);
        mlpGain = numbers.vector(model.hidden);
        frequency = model.ropeFrequency();
        wq = numbers.weights(model.hidden, model.queryWidth());
        wk = numbers.weights(model.hidden, model.kvWidth());
        wv = numbers.weights(model.hidden, model.kvWidth());
        wo = numbers.weights(model.queryWidth(), model.hidden);
        wGate = numbers.weights(model.hidden, model.intermediate);
        wUp = numbers.weights(model.hidden, model.intermediate);
        wDown = numbers.weights(model.intermediate, model.hidden);
        normed = new float[rows][model.hidden];
        q = new float[rows][model.queryWidth()];
        k = new float[rows][model.kvWidth()];
        v = new float[rows][model.kvWidth()];
        attended = new float[rows][model.queryWidth()];
        gate = new float[rows][model.intermediate];
        up = new float[rows][model.intermediate];
        branch = new float[rows][model.hidden];
        score = new float[context];
    }

    Map<Part, float[][]> linears() {
        return Map.of(Part.Q, wq, Part.K, wk, Part.V, wv, Part.O, wo, Part.GATE, wGate, Part.UP, wUp, Part.DOWN, wDown);
    }

    /** hidden[r] is the token at {@code position} of the sequence of kv[r]. */
    void run(float[][] hidden, PlainKv[] kv, int position) {
        attend(hidden, kv, position);
        int rows = hidden.length;
        for (int r = 0; r < rows; r++) Loops.rmsNorm(hidden[r], mlpGain, eps, normed[r]);
        Loops.product(normed, wGate, gate);
        Loops.product(normed, wUp, up);
        for (int r = 0; r < rows; r++) Loops.swiglu(gate[r], up[r]);
        Loops.product(gate, wDown, branch);
        for (int r = 0; r < rows; r++) Loops.add(hidden[r], 1, branch[r], model.hidden);
    }

    private void attend(float[][] hidden, PlainKv[] kv, int position) {
        int rows = hidden.length;
        for (int r = 0; r < rows; r++) Loops.rmsNorm(hidden[r], attentionGain, eps, normed[r]);
        Loops.product(normed, wq, q);
        Loops.product(normed, wk, k);
        Loops.product(normed, wv, v);
        for (int r = 0; r < rows; r++) {
            Loops.rope(q[r], position, frequency);
            Loops.rope(k[r], position, frequency);
            kv[r].set(position, k[r], v[r]);
            Loops.attention(q[r], model.heads, model.attentionScale(), kv[r], position + 1, score, attended[r]);
        }
        Loops.product(attended, wo, branch);
        for (int r = 0; r < rows; r++) Loops.add(hidden[r], 1, branch[r], model.hidden);
    }
}
