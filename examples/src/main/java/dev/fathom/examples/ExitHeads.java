package dev.fathom.examples;

import java.util.HashMap;
import java.util.List;
import java.util.Map;

import dev.fathom.Activation;
import dev.fathom.Buffer;
import dev.fathom.GateFunction;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.RouterKind;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.Signal;

/**
 * Where the tokens of a model may exit, and the classifiers that a checkpoint has for it, by their names:
 * {@code linear} ({@code exits.I.linear}, one logit) and {@code mlp} ({@code exits.I.mlp.0} and {@code .2}, two
 * classes).
 */
public record ExitHeads(List<ExitPoint> points, Map<String, Signal.Classifier> classifiers) {
    static ExitHeads load(Packing packing, int hidden, Checkpoint checkpoint, List<ExitPoint> points) {
        Map<String, Signal.Classifier> classifiers = new HashMap<>();
        int count = points.size();
        if (count > 0 && checkpoint.has("exits.0.linear.weight")) {
            GateShape shape = new GateShape(hidden, 0, 1, count, RouterKind.LINEAR, GateFunction.SIGMOID, 1, 1, 0,
                    Activation.IDENTITY, true);
            Buffer weights = packing.allocate("the exit heads", packing.context().gateBytes(shape));
            for (int i = 0; i < count; i++) {
                String name = "exits." + i + ".linear.";
                packing.gate(shape, i, GatePart.W1, checkpoint.get(name + "weight", 1, hidden), weights);
                packing.gate(shape, i, GatePart.B1, checkpoint.get(name + "bias", 1), weights);
            }
            classifiers.put("linear", new Signal.Classifier(shape, weights, points));
        }
        Tensor first = count > 0 ? checkpoint.peek("exits.0.mlp.0.weight") : null;
        if (first != null) {
            int inner = first.shape().length == 0 ? hidden : (int) Math.clamp(first.shape()[0], 1, 1 << 20);
            GateShape shape = new GateShape(hidden, inner, 2, count, RouterKind.MLP, GateFunction.SOFTMAX, 1, 1, 0,
                    Activation.RELU, true);
            Buffer weights = packing.allocate("the exit heads", packing.context().gateBytes(shape));
            for (int i = 0; i < count; i++) {
                String name = "exits." + i + ".mlp.";
                packing.gate(shape, i, GatePart.W1, checkpoint.get(name + "0.weight", inner, hidden), weights);
                packing.gate(shape, i, GatePart.B1, checkpoint.get(name + "0.bias", inner), weights);
                packing.gate(shape, i, GatePart.W2, checkpoint.get(name + "2.weight", 2, inner), weights);
                packing.gate(shape, i, GatePart.B2, checkpoint.get(name + "2.bias", 2), weights);
            }
            classifiers.put("mlp", new Signal.Classifier(shape, weights, points));
        }
        return new ExitHeads(points, Map.copyOf(classifiers));
    }
}
