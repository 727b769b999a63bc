package dev.fathom.depth;

import java.util.Arrays;

import dev.fathom.BlockShape;
import dev.fathom.GateFunction;
import dev.fathom.GateShape;
import dev.fathom.Kind;
import dev.fathom.Part;
import dev.fathom.RouterKind;

/**
 * What a model must compute, as plainly as possible: one sequence, double, no caches. Every pass is computed for all
 * tokens with a mask, and its result is used for those that take it.
 */
final class ReferenceModel {
    private final RandomModel model;
    private final int tokens;

    /**
     * Hidden rows before the head, logits, passes of each token, and the smallest distance of a decision from a tie.
     */
    final double[][] hidden;
    final double[][] logits;
    final int[] passes;
    double margin = Double.POSITIVE_INFINITY;

    ReferenceModel(RandomModel model, int... ids) {
        this.model = model;
        tokens = ids.length;
        passes = new int[tokens];
        double[][] x = new double[tokens][RandomModel.HIDDEN];
        for (int t = 0; t < tokens; t++) {
            for (int i = 0; i < RandomModel.HIDDEN; i++) x[t][i] = model.table[ids[t] * RandomModel.HIDDEN + i];
        }
        for (RandomModel.Weights stage : model.stages) x = new Pass(stage).run(x);
        hidden = x;
        logits = new double[tokens][];
        for (int t = 0; t < tokens; t++) logits[t] = product(model.table, norm(x[t], model.headGain));
    }

    double nll(int token, int target) {
        double largest = Arrays.stream(logits[token]).max().getAsDouble();
        double sum = 0;
        for (double z : logits[token]) sum += Math.exp(z - largest);
        return largest + Math.log(sum) - logits[token][target];
    }

    /** One stage. */
    private final class Pass {
        private final RandomModel.Weights stage;
        private final BlockShape shape;
        /** K and V that stand in for those of tokens that did not reach a depth, per layer. */
        private final double[][][][] earlier;

        Pass(RandomModel.Weights stage) {
            this.stage = stage;
            shape = stage.shape();
            earlier = new double[shape.layers()][][][];
        }

        double[][] run(double[][] x) {
            boolean[] on = new boolean[tokens];
            Arrays.fill(on, true);
            if (stage.routing() == null) {
                for (int depth = 0; depth < shape.depths(); depth++) x = block(x, depth, on);
                return x;
            }
            return stage.routing().shape().outputs() == 1 ? expertChoice(x, on) : tokenChoice(x);
        }

        private double[][] expertChoice(double[][] x, boolean[] on) {
            GateShape gate = stage.routing().shape();
            for (int depth = 0; depth < shape.depths(); depth++) {
                double[] g = new double[tokens];
                for (int t = 0; t < tokens; t++) {
                    double z = route(x[t], depth)[0];
                    if (depth > 0 && on[t]) {
                        margin = Math.min(margin, Math.abs(z - gate.threshold()));
                        on[t] = z >= gate.threshold();
                    }
                    double f = gate.function() == GateFunction.TANH ? Math.tanh(z) : 1 / (1 + Math.exp(-z));
                    g[t] = additive() ? 1 : gate.alpha() * f;
                }
                double[][] y = block(x, depth, on);
                for (int t = 0; t < tokens; t++) {
                    for (int i = 0; on[t] && i < x[t].length; i++) y[t][i] = x[t][i] + g[t] * y[t][i];
                }
                x = y;
            }
            return x;
        }

        private double[][] tokenChoice(double[][] x) {
            GateShape gate = stage.routing().shape();
            int[] choice = new int[tokens];
            double[] p = new double[tokens];
            for (int t = 0; t < tokens; t++) {
                double[] score = route(x[t], 0);
                double sum = Arrays.stream(score).map(Math::exp).sum();
                double best = Double.NEGATIVE_INFINITY;
                for (int j = 0; j < score.length; j++) {
                    boolean softmax = gate.function() == GateFunction.SOFTMAX;
                    double pj = gate.alpha() * (softmax ? Math.exp(score[j]) / sum : 1 / (1 + Math.exp(-score[j])));
                    double biased = pj + (stage.routing().bias() == null ? 0 : stage.routing().bias()[j]);
                    margin = Math.min(margin, Math.abs(biased - best));
                    if (biased > best) {
                        best = biased;
                        choice[t] = j;
                        p[t] = additive() ? 1 : pj;
                    }
                }
            }
            double[][] h = x;
            for (int depth = 0; depth < shape.depths(); depth++) {
                boolean[] on = new boolean[tokens];
                for (int t = 0; t < tokens; t++) on[t] = choice[t] >= depth;
                h = block(h, depth, on);
            }
            double[][] out = new double[tokens][x[0].length];
            for (int t = 0; t < tokens; t++) {
                for (int i = 0; i < out[t].length; i++) out[t][i] = x[t][i] + p[t] * h[t][i];
            }
            return out;
        }

        private boolean additive() {
            return stage.routing().gating() == Router.Gating.ADDITIVE;
        }

        private double[] route(double[] x, int depth) {
            float[][] matrices = stage.routing().matrices()[depth];
            double[] scaled = Arrays.stream(x).map(v -> v / stage.routing().shape().temperature()).toArray();
            if (stage.routing().shape().router() == RouterKind.LINEAR) return product(matrices[0], scaled);
            double[] inner = product(matrices[0], scaled);
            for (int i = 0; i < inner.length; i++) inner[i] *= 0.5 * (1 + erf(inner[i] / Math.sqrt(2)));
            return product(matrices[1], inner);
        }

        /** All layers at a depth; rows that are not on keep their values and are not seen by others. */
        private double[][] block(double[][] x, int depth, boolean[] on) {
            double[][] y = x;
            for (int layer = 0; layer < shape.layers(); layer++) y = layer(y, layer, depth, on);
            double[][] kept = new double[tokens][];
            for (int t = 0; t < tokens; t++) {
                kept[t] = on[t] ? y[t] : x[t];
                if (on[t]) passes[t] = Math.max(passes[t], depth + 1);
            }
            return kept;
        }

        private double[][] layer(double[][] x, int layer, int depth, boolean[] on) {
            boolean holes = stage.kv() == KvPolicy.PER_DEPTH;
            double[][] q = new double[tokens][];
            double[][] k = new double[tokens][];
            double[][] v = new double[tokens][];
            for (int t = 0; t < tokens; t++) {
                double[] h = norm(x[t], gain(layer, depth, Part.ATTENTION_PRE_NORM));
                q[t] = rotate(linear(h, layer, depth, Part.Q), t);
                k[t] = rotate(linear(h, layer, depth, Part.K), t);
                v[t] = linear(h, layer, depth, Part.V);
            }
            if (depth == 0 || holes) earlier[layer] = new double[][][] {k.clone(), v.clone()};
            for (int t = 0; t < tokens; t++) {
                boolean own = on[t] && stage.kv() != KvPolicy.FIRST_DEPTH || depth == 0 || holes;
                if (own && stage.kv() == KvPolicy.LATEST) {
                    earlier[layer][0][t] = k[t];
                    earlier[layer][1][t] = v[t];
                }
                if (!own) {
                    k[t] = earlier[layer][0][t];
                    v[t] = earlier[layer][1][t];
                }
            }
            double[][] y = new double[tokens][];
            for (int t = 0; t < tokens; t++) {
                boolean[] seen = new boolean[t + 1];
                for (int s = 0; s <= t; s++) seen[s] = !holes || on[s] || s == t;
                double[] h = sum(x[t], linear(attend(q[t], k, v, seen), layer, depth, Part.O));
                double[] n = norm(h, gain(layer, depth, Part.MLP_PRE_NORM));
                double[] gate = linear(n, layer, depth, Part.GATE);
                double[] up = linear(n, layer, depth, Part.UP);
                for (int i = 0; i < up.length; i++) up[i] *= gate[i] / (1 + Math.exp(-gate[i]));
                y[t] = sum(h, linear(up, layer, depth, Part.DOWN));
            }
            return y;
        }

        private double[] attend(double[] q, double[][] k, double[][] v, boolean[] seen) {
            int dim = shape.headDim();
            double[] out = new double[q.length];
            for (int head = 0; head < shape.heads(); head++) {
                int own = head * dim;
                int kv = head / (shape.heads() / shape.kvHeads()) * dim;
                double total = 0;
                for (int s = 0; s < seen.length; s++) {
                    if (!seen[s]) continue;
                    double score = 0;
                    for (int i = 0; i < dim; i++) score += q[own + i] * k[s][kv + i];
                    double weight = Math.exp(score * shape.attentionScale());
                    total += weight;
                    for (int i = 0; i < dim; i++) out[own + i] += weight * v[s][kv + i];
                }
                for (int i = 0; i < dim; i++) out[own + i] /= total;
            }
            return out;
        }

        private double[] rotate(double[] x, int position) {
            float[] frequency = stage.tensors().get(new RandomModel.Key(0, 0, Part.ROPE_FREQUENCY, Kind.WEIGHT));
            int half = frequency.length;
            for (int head = 0; head < x.length; head += 2 * half) {
                for (int i = 0; i < half; i++) {
                    double cos = Math.cos(position * (double) frequency[i]);
                    double sin = Math.sin(position * (double) frequency[i]);
                    double a = x[head + i];
                    double b = x[head + half + i];
                    x[head + i] = a * cos - b * sin;
                    x[head + half + i] = b * cos + a * sin;
                }
            }
            return x;
        }

        private double[] linear(double[] x, int layer, int depth, Part part) {
            double[] y = product(stage.tensors().get(new RandomModel.Key(layer, 0, part, Kind.WEIGHT)), x);
            float[] a = stage.tensors().get(new RandomModel.Key(layer, depth, part, Kind.LORA_A));
            if (a == null) return y;
            float[] b = stage.tensors().get(new RandomModel.Key(layer, depth, part, Kind.LORA_B));
            return sum(y, product(b, product(a, x)));
        }

        private float[] gain(int layer, int depth, Part part) {
            return stage.tensors().get(new RandomModel.Key(layer, shape.normPerDepth() ? depth : 0, part, Kind.WEIGHT));
        }
    }

    private static double[] norm(double[] x, float[] gain) {
        double squares = 0;
        for (double v : x) squares += v * v;
        double scale = 1 / Math.sqrt(squares / x.length + RandomModel.EPS);
        double[] y = new double[x.length];
        for (int i = 0; i < x.length; i++) y[i] = x[i] * scale * gain[i];
        return y;
    }

    private static double[] product(float[] matrix, double[] x) {
        double[] y = new double[matrix.length / x.length];
        for (int o = 0; o < y.length; o++) {
            for (int i = 0; i < x.length; i++) y[o] += matrix[o * x.length + i] * x[i];
        }
        return y;
    }

    private static double[] sum(double[] a, double[] b) {
        double[] c = new double[a.length];
        for (int i = 0; i < a.length; i++) c[i] = a[i] + b[i];
        return c;
    }

    /** By its series, which needs no more than 100 terms below 5; beyond, erf is 1 to the last digit but one. */
    private static double erf(double x) {
        if (Math.abs(x) > 5) return Math.signum(x);
        double term = x;
        double sum = x;
        for (int n = 1; n < 100; n++) {
            term *= -x * x / n;
            sum += term / (2 * n + 1);
        }
        return 2 / Math.sqrt(Math.PI) * sum;
    }
}
