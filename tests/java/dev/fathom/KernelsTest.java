package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import java.util.Arrays;
import java.util.Random;
import java.util.function.DoubleUnaryOperator;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/**
 * Every operation through the Java API against its formula in double: is each argument the one that the kernel takes
 * it for? Odd sizes, tails and instruction sets are the business of the native tests. Sums here are short, so fp32 is
 * within 1e-5 of double.
 */
class KernelsTest {
    private static final double CLOSE = 1e-5;

    private static Context context;
    private final Random random = new Random(7);

    @BeforeAll
    static void open() {
        context = Context.cpu(2);
    }

    @AfterAll
    static void close() {
        context.close();
    }

    private float[] numbers(int count) {
        float[] numbers = new float[count];
        for (int i = 0; i < count; i++) numbers[i] = random.nextFloat() * 2 - 1;
        return numbers;
    }

    private static Buffer buffer(float... values) {
        return context.allocate(values.length * 4L).write(values);
    }

    private static Buffer buffer(int... values) {
        return context.allocate(values.length * 4L).write(values);
    }

    private static Buffer floats(int count) {
        return context.allocate(count * 4L);
    }

    private static void close(double[] expected, Buffer actual) {
        for (int i = 0; i < expected.length; i++) assertEquals(expected[i], actual.getFloat(i), CLOSE, "element " + i);
    }

    private static double[] doubles(float[] values) {
        double[] copy = new double[values.length];
        for (int i = 0; i < values.length; i++) copy[i] = values[i];
        return copy;
    }

    /** x W^T: x [count, in], w [out, in]. */
    private static double[] product(double[] x, float[] w, int in) {
        int out = w.length / in;
        double[] y = new double[x.length / in * out];
        for (int i = 0; i < y.length; i++) {
            for (int k = 0; k < in; k++) y[i] += x[i / out * in + k] * w[i % out * in + k];
        }
        return y;
    }

    private static double[] rmsNorm(double[] x, float[] gain) {
        int width = gain.length;
        double[] y = new double[x.length];
        for (int row = 0; row < x.length; row += width) {
            double squares = 0;
            for (int i = 0; i < width; i++) squares += x[row + i] * x[row + i];
            double scale = 1 / Math.sqrt(squares / width + 1e-5);
            for (int i = 0; i < width; i++) y[row + i] = x[row + i] * scale * gain[i];
        }
        return y;
    }

    private static double[] rotate(double[] x, int position, float[] frequency, int headDim) {
        double[] y = x.clone();
        int half = frequency.length;
        for (int head = 0; head < x.length; head += headDim) {
            for (int i = 0; i < half; i++) {
                double angle = position * (double) frequency[i];
                double a = x[head + i];
                double b = x[head + i + half];
                y[head + i] = a * Math.cos(angle) - b * Math.sin(angle);
                y[head + i + half] = b * Math.cos(angle) + a * Math.sin(angle);
            }
        }
        return y;
    }

    /** One query [heads, headDim] over keys and values [items][kvHeads, headDim]. */
    private static double[] attend(double[] q, double[][] k, double[][] v, int headDim, double scale) {
        double[] out = new double[q.length];
        int group = q.length / k[0].length;
        for (int head = 0; head < q.length / headDim; head++) {
            double[] weight = new double[k.length];
            double sum = 0;
            int from = head / group * headDim;
            for (int item = 0; item < k.length; item++) {
                double score = 0;
                for (int i = 0; i < headDim; i++) score += q[head * headDim + i] * k[item][from + i];
                sum += weight[item] = Math.exp(score * scale);
            }
            for (int item = 0; item < k.length; item++) {
                for (int i = 0; i < headDim; i++) out[head * headDim + i] += weight[item] / sum * v[item][from + i];
            }
        }
        return out;
    }

    private static final DoubleUnaryOperator SILU = x -> x / (1 + Math.exp(-x));

    private static double[] row(float[] values, int row, int width) {
        double[] copy = new double[width];
        for (int i = 0; i < width; i++) copy[i] = values[row * width + i];
        return copy;
    }

    @Test
    void linear() {
        LinearShape shape = new LinearShape(20, 12, DType.F32, Activation.SILU, true, Residual.GATED, 3, 2);
        float[] x = numbers(2 * 20), w = numbers(24 * 20), bias = numbers(24), residual = numbers(2 * 12);
        float[] gate = {0.5f, -2};
        float[][] a = {numbers(3 * 20), numbers(3 * 20)}, b = {numbers(24 * 3), numbers(24 * 3)};
        Buffer packed = context.allocate(context.linearBytes(shape));
        context.linearPack(shape, 0, 12, DType.F32, buffer(w).slice(0, 12 * 80), packed);
        context.linearPack(shape, 12, 12, DType.F32, buffer(w).slice(12 * 80, 12 * 80), packed);
        Buffer lora = context.allocate(context.loraBytes(shape));
        for (int d = 0; d < 2; d++) context.loraPack(shape, d, 0.5f, DType.F32, buffer(a[d]), buffer(b[d]), lora);
        Rows rows = Rows.allocate(context, 2).depth(0, 1).depth(1, 0);
        Buffer y = floats(24);
        context.linear(shape, 2, rows, buffer(x), packed, buffer(bias), lora, buffer(residual), buffer(gate), y);

        double[] expected = new double[24];
        for (int i = 0; i < 2; i++) {
            double[] z = product(row(x, i, 20), w, 20);
            double[] added = product(product(row(x, i, 20), a[1 - i], 20), b[1 - i], 3);
            for (int o = 0; o < 24; o++) z[o] += bias[o] + 0.5 * added[o];
            for (int o = 0; o < 12; o++) {
                expected[i * 12 + o] = residual[i * 12 + o] + gate[i] * SILU.applyAsDouble(z[o]) * z[12 + o];
            }
        }
        close(expected, y);
    }

    @Test
    void norm() {
        float[] x = numbers(2 * 5), gain = numbers(2 * 5), bias = numbers(2 * 5);
        Rows rows = Rows.allocate(context, 2).depth(0, 1);
        Buffer y = floats(10);
        context.norm(new NormShape(NormKind.LAYER, 5, 2, 1e-5f), 2, rows, buffer(x), buffer(gain), buffer(bias), y);
        double[] expected = new double[10];
        for (int i = 0; i < 10; i++) {
            double mean = 0, variance = 0;
            for (int k = 0; k < 5; k++) mean += x[i / 5 * 5 + k] / 5.0;
            for (int k = 0; k < 5; k++) variance += Math.pow(x[i / 5 * 5 + k] - mean, 2) / 5;
            int at = (i < 5 ? 5 : 0) + i % 5;
            expected[i] = (x[i] - mean) / Math.sqrt(variance + 1e-5) * gain[at] + bias[at];
        }
        close(expected, y);
    }

    @Test
    void rope() {
        float[] x = numbers(2 * 2 * 8), frequency = {1, 0.3f, 0.01f};
        Rows rows = Rows.allocate(context, 2).position(0, 3).position(1, 1000);
        Buffer y = buffer(x);
        context.rope(new RopeShape(RopeStyle.HALF, 2, 8, 6), 2, rows, buffer(frequency), y);
        for (int i = 0; i < 2; i++) {
            close(rotate(row(x, i, 16), i == 0 ? 3 : 1000, frequency, 8), y.slice(i * 64, 64));
        }
    }

    @Test
    void attentionOverAPool() {
        KvShape kv = new KvShape(2, 2, 16, DType.F32, 128);
        float[] k = numbers(5 * 32), v = numbers(5 * 32), q = numbers(2 * 64);
        int[] entry = {7, 100, 8, 0, 127};
        Rows rows = Rows.allocate(context, 5);
        for (int i = 0; i < 5; i++) rows.entry(i, entry[i]);
        Buffer pool = context.allocate(context.kvBytes(kv));
        context.kvWrite(kv, 1, 5, rows, buffer(k), buffer(v), pool);

        Buffer keys = floats(160), values = floats(160);
        context.kvRead(kv, 1, 5, buffer(entry), pool, keys, values);
        close(doubles(k), keys);
        close(doubles(v), values);

        // Row 0 sees entries 100 and 8 by its window; row 1 sees 7, 8 and 127: the last but one is off its branch.
        Buffer lists = buffer(127, 100, 8, 0, 7, 8, 0, 127);
        rows.clear(0).set(0, 0, 3, 0, 0, -1).start(0, 1);
        rows.clear(1).set(1, 4, 4, 0, 0, -1).tree(1, ~0L ^ 0b10);
        int[][] seen = {{1, 2}, {0, 2, 4}};
        Buffer out = floats(128);
        context.attention(new AttentionShape(4, 0.25f), kv, 1, 2, rows, buffer(q), lists, pool, null, null, out);
        for (int i = 0; i < 2; i++) {
            double[][] ks = new double[seen[i].length][], vs = new double[seen[i].length][];
            for (int item = 0; item < seen[i].length; item++) {
                ks[item] = row(k, seen[i][item], 32);
                vs[item] = row(v, seen[i][item], 32);
            }
            close(attend(row(q, i, 64), ks, vs, 16, 0.25), out.slice(i * 256, 256));
        }
    }

    @Test
    void attentionByMask() {
        DenseKvShape kv = new DenseKvShape(2, 4, 1, 16, DType.F32, 4 * 16, 16, 16);
        float[] k = numbers(2 * 4 * 16), v = numbers(2 * 4 * 16), q = numbers(32);
        Rows rows = Rows.allocate(context, 1).sequence(0, 1).depth(0, 2).visible(0, 3);
        Buffer out = floats(32);
        context.attentionMasked(new AttentionShape(2, 0.5f), kv, 1, rows, buffer(q), buffer(k), buffer(v),
                buffer(9, 9, 9, 9, 2, 1, 3, 9), null, out);
        double[][] ks = {row(k, 4, 16), row(k, 6, 16)}, vs = {row(v, 4, 16), row(v, 6, 16)};
        close(attend(doubles(q), ks, vs, 16, 0.5), out);
    }

    @Test
    void backfill() {
        KvShape kv = new KvShape(2, 1, 16, DType.F32, 64);
        BackfillShape shape = new BackfillShape(10, 2, DType.F32, NormKind.RMS, RopeStyle.HALF, 8, 1e-5f);
        float[] h = numbers(2 * 10), gain = numbers(10), frequency = {1, 0.5f, 0.2f, 0.1f};
        float[][] wk = new float[4][], wv = new float[4][];
        Buffer packed = context.allocate(context.backfillBytes(shape, kv));
        for (int depth = 0; depth < 2; depth++) {
            for (int layer = 0; layer < 2; layer++) {
                int at = depth * 2 + layer;
                wk[at] = numbers(160);
                wv[at] = numbers(160);
                context.backfillPack(shape, kv, depth, layer, DType.F32, buffer(wk[at]), buffer(wv[at]), null, null,
                        buffer(gain), null, packed);
            }
        }
        Rows rows = Rows.allocate(context, 2).position(0, 4).position(1, 9);
        Buffer pool = context.allocate(context.kvBytes(kv));
        context.backfill(shape, kv, 2, rows, buffer(h), packed, buffer(frequency), buffer(3, 60, -1, 5), pool);

        int[][] written = {{3, 0, 0}, {60, 0, 1}, {5, 1, 1}}; // entry, row, depth
        Buffer k = floats(16), v = floats(16);
        for (int[] entry : written) {
            double[] normed = rmsNorm(row(h, entry[1], 10), gain);
            for (int layer = 0; layer < 2; layer++) {
                context.kvRead(kv, layer, 1, buffer(entry[0]), pool, k, v);
                int at = entry[2] * 2 + layer;
                close(rotate(product(normed, wk[at], 10), entry[1] == 0 ? 4 : 9, frequency, 16), k);
                close(product(normed, wv[at], 10), v);
            }
        }
    }

    /** K and V of two cross-attentions from an encoder's output: no norm, no rotation, no rows; K has a bias. */
    @Test
    void crossAttentionKeys() {
        KvShape kv = new KvShape(2, 1, 16, DType.F32, 64);
        BackfillShape shape = new BackfillShape(10, 1, DType.F32, null, RopeStyle.NONE, 0, 0);
        float[] h = numbers(2 * 10), bk = numbers(16);
        float[][] wk = {numbers(160), numbers(160)}, wv = {numbers(160), numbers(160)};
        Buffer packed = context.allocate(context.backfillBytes(shape, kv));
        for (int layer = 0; layer < 2; layer++) {
            context.backfillPack(shape, kv, 0, layer, DType.F32, buffer(wk[layer]), buffer(wv[layer]), buffer(bk),
                    null, null, null, packed);
        }
        Buffer pool = context.allocate(context.kvBytes(kv));
        context.backfill(shape, kv, 2, null, buffer(h), packed, null, buffer(9, 2), pool);
        Buffer k = floats(16), v = floats(16);
        for (int i = 0; i < 4; i++) {
            context.kvRead(kv, i / 2, 1, buffer(i % 2 == 0 ? 9 : 2), pool, k, v);
            double[] keys = product(row(h, i % 2, 10), wk[i / 2], 10);
            for (int j = 0; j < 16; j++) keys[j] += bk[j];
            close(keys, k);
            close(product(row(h, i % 2, 10), wv[i / 2], 10), v);
        }
    }

    @Test
    void block() {
        BlockShape shape = BlockShape.builder(1, 24, 40, 2).headDim(16).kvHeads(1).build();
        float[] h = numbers(2 * 24), frequency = {1, 0.5f, 0.2f, 0.1f, 0.05f, 0.02f, 0.01f, 0.005f};
        float[][] weight = new float[Part.values().length][];
        Buffer weights = context.allocate(context.blockBytes(shape));
        for (Part part : Part.values()) {
            if (!shape.has(part)) continue;
            weight[part.ordinal()] = part == Part.ROPE_FREQUENCY ? frequency
                    : numbers((int) shape.elements(part, Kind.WEIGHT));
            context.blockPack(shape, 0, 0, part, Kind.WEIGHT, 1, DType.F32, buffer(weight[part.ordinal()]), weights);
        }
        Rows rows = Rows.allocate(context, 2).set(0, 0, 1, 0, 0, 5).set(1, 0, 2, 1, 0, 6);
        Buffer hidden = buffer(h);
        Buffer pool = context.allocate(context.kvBytes(shape.kv(64)));
        context.block(shape, 2, rows, null, weights, buffer(5, 6), null, 64, pool, hidden);

        double[] x = doubles(h);
        double[] normed = rmsNorm(x, weight[Part.ATTENTION_PRE_NORM.ordinal()]);
        double[][] k = new double[2][], v = new double[2][], q = new double[2][];
        for (int i = 0; i < 2; i++) {
            double[] input = Arrays.copyOfRange(normed, i * 24, i * 24 + 24);
            q[i] = rotate(product(input, weight[Part.Q.ordinal()], 24), i, frequency, 16);
            k[i] = rotate(product(input, weight[Part.K.ordinal()], 24), i, frequency, 16);
            v[i] = product(input, weight[Part.V.ordinal()], 24);
        }
        for (int i = 0; i < 2; i++) {
            double[][] keys = Arrays.copyOf(k, i + 1), values = Arrays.copyOf(v, i + 1);
            double[] attended = product(attend(q[i], keys, values, 16, 0.25), weight[Part.O.ordinal()], 32);
            for (int j = 0; j < 24; j++) x[i * 24 + j] += attended[j];
        }
        normed = rmsNorm(x, weight[Part.MLP_PRE_NORM.ordinal()]);
        double[] gate = product(normed, weight[Part.GATE.ordinal()], 24);
        double[] up = product(normed, weight[Part.UP.ordinal()], 24);
        for (int i = 0; i < up.length; i++) up[i] *= SILU.applyAsDouble(gate[i]);
        double[] down = product(up, weight[Part.DOWN.ordinal()], 40);
        // Values reach a few tens here, so the bound is relative.
        for (int i = 0; i < x.length; i++) {
            assertEquals(x[i] + down[i], hidden.getFloat(i), 2e-6 * (20 + Math.abs(down[i])), "element " + i);
        }
    }

    @Test
    void head() {
        HeadShape shape = new HeadShape(12, 70, DType.F32, NormKind.RMS, 1e-5f, 2, 3, 2);
        float[] h = numbers(2 * 12), w = numbers(70 * 12), gain = numbers(12);
        int[] chosen = {0, 69, 5, 64};
        Buffer packed = context.allocate(context.linearBytes(shape.weights()));
        context.linearPack(shape.weights(), 0, 70, DType.F32, buffer(w), packed);
        HeadStats stats = HeadStats.allocate(context, 2);
        Buffer chosenLogit = floats(4), logits = floats(140);
        context.head(shape, 2, buffer(h), buffer(gain), null, packed, buffer(chosen), stats, chosenLogit, logits);

        Buffer alone = floats(4);
        context.head(shape, 2, buffer(h), buffer(gain), null, packed, buffer(chosen), null, alone, null);
        for (int i = 0; i < 4; i++) assertEquals(chosenLogit.getFloat(i), alone.getFloat(i));

        double[] z = product(rmsNorm(doubles(h), gain), w, 12);
        for (int i = 0; i < z.length; i++) z[i] = 3 * Math.tanh(2 * z[i] / 3);
        close(z, logits);
        for (int row = 0; row < 2; row++) {
            int best = row * 70, second = -1;
            double sum = 0, entropy = 0;
            for (int i = row * 70; i < row * 70 + 70; i++) {
                sum += Math.exp(z[i]);
                if (z[i] > z[best]) best = i;
            }
            for (int i = row * 70; i < row * 70 + 70; i++) {
                if (i != best && (second < 0 || z[i] > z[second])) second = i;
                entropy -= Math.exp(z[i]) / sum * (z[i] - Math.log(sum));
            }
            assertEquals(best - row * 70, stats.argmax(row));
            assertEquals(second - row * 70, stats.second(row));
            assertEquals(z[best], stats.top1(row), CLOSE);
            assertEquals(z[second], stats.top2(row), CLOSE);
            assertEquals(Math.log(sum), stats.lse(row), CLOSE);
            assertEquals(entropy, stats.entropy(row), CLOSE);
            assertEquals(Math.exp(z[best]) / sum, stats.maxProbability(row), CLOSE);
            assertEquals((Math.exp(z[best]) - Math.exp(z[second])) / sum, stats.margin(row), CLOSE);
            for (int c = 0; c < 2; c++) {
                assertEquals(z[row * 70 + chosen[row * 2 + c]], chosenLogit.getFloat(row * 2 + c), CLOSE);
            }
        }
    }

    @Test
    void gate() {
        GateShape shape = new GateShape(10, 0, 1, 2, RouterKind.LINEAR, GateFunction.SIGMOID, 2, 0.1f, 0);
        float[] x = numbers(3 * 10);
        float[][] w = {numbers(10), numbers(10)};
        Buffer packed = context.allocate(context.gateBytes(shape));
        for (int d = 0; d < 2; d++) context.gatePack(shape, d, GatePart.W1, DType.F32, buffer(w[d]), packed);
        Rows rows = Rows.allocate(context, 3).depth(1, 1);
        Buffer logits = floats(3), gate = floats(3), choice = floats(3);
        context.gate(shape, 3, rows, buffer(x), packed, null, logits, null, gate, choice);
        for (int i = 0; i < 3; i++) {
            double z = product(row(x, i, 10), w[i % 2], 10)[0] / 2;
            assertEquals(z, logits.getFloat(i), CLOSE);
            assertEquals(0.1 / (1 + Math.exp(-z)), gate.getFloat(i), CLOSE);
            assertEquals(z >= 0 ? 1 : 0, choice.getInt(i));
        }
    }

    /** A head of two classes with an inner layer; the bias of the choice turns every decision to the first. */
    @Test
    void exitHead() {
        GateShape shape = new GateShape(8, 6, 2, 1, RouterKind.MLP, GateFunction.SOFTMAX, 1, 1, 0, Activation.RELU,
                true);
        float[] x = numbers(3 * 8);
        float[][] part = {numbers(6 * 8), numbers(6), numbers(2 * 6), numbers(2)};
        Buffer packed = context.allocate(context.gateBytes(shape));
        for (GatePart each : GatePart.values()) {
            assertEquals(part[each.ordinal()].length, shape.elements(each));
            context.gatePack(shape, 0, each, DType.F32, buffer(part[each.ordinal()]), packed);
        }
        Buffer logits = floats(6), p = floats(6), gate = floats(3), choice = floats(3);
        context.gate(shape, 3, null, buffer(x), packed, buffer(2f, 0f), logits, p, gate, choice);
        for (int i = 0; i < 3; i++) {
            double[] inner = product(row(x, i, 8), part[0], 8);
            for (int j = 0; j < 6; j++) inner[j] = Math.max(0, inner[j] + part[1][j]);
            double[] z = product(inner, part[2], 6);
            for (int j = 0; j < 2; j++) {
                z[j] += part[3][j];
                assertEquals(z[j], logits.getFloat(2 * i + j), CLOSE);
            }
            double exit = 1 / (1 + Math.exp(z[0] - z[1]));
            assertEquals(exit, p.getFloat(2 * i + 1), CLOSE);
            assertEquals(1 - exit, p.getFloat(2 * i), CLOSE);
            assertEquals(1 - exit, gate.getFloat(i), CLOSE);
            assertEquals(0, choice.getInt(i));
        }
    }

    @Test
    void stateDelta() {
        float[] before2 = numbers(2 * 20), before = numbers(2 * 20), now = numbers(2 * 20);
        StateDelta delta = StateDelta.allocate(context, 2);
        context.stateDelta(20, 2, buffer(before2), buffer(before), buffer(now), delta);
        for (int i = 0; i < 2; i++) {
            double dot = 0, x2 = 0, y2 = 0, step = 0, acceleration = 0;
            for (int k = i * 20; k < i * 20 + 20; k++) {
                double x = now[k], y = before[k], z = before2[k];
                dot += x * y;
                x2 += x * x;
                y2 += y * y;
                step += (x - y) * (x - y);
                acceleration += (x - 2 * y + z) * (x - 2 * y + z);
            }
            assertEquals(dot, delta.dot(i), CLOSE);
            assertEquals(x2, delta.nowSquared(i), CLOSE);
            assertEquals(y2, delta.beforeSquared(i), CLOSE);
            assertEquals(step, delta.stepSquared(i), CLOSE);
            assertEquals(acceleration, delta.accelerationSquared(i), CLOSE);
            assertEquals(dot / Math.sqrt(x2 * y2), delta.cosine(i), CLOSE);
            assertEquals(Math.sqrt(step / x2), delta.relativeStep(i), CLOSE);
            assertEquals(Math.sqrt(acceleration / x2), delta.relativeAcceleration(i), CLOSE);
        }
    }

    /** Rows: equal states, both zero, to zero, from zero, opposite, not a number. */
    @Test
    void stateDeltaAtItsEnds() {
        Buffer before = buffer(0.1f, 0.7f, 0, 0, 3, 4, 0, 0, 1, -2, 1, 1);
        Buffer now = buffer(0.1f, 0.7f, 0, 0, 0, 0, 3, 4, -1, 2, Float.NaN, 1);
        StateDelta delta = StateDelta.allocate(context, 6);
        context.stateDelta(2, 6, null, before, now, delta);
        float[] cosine = {1, 1, 0, 0, -1, Float.NaN};
        float[] step = {0, 0, Float.POSITIVE_INFINITY, 1, 2, Float.NaN};
        for (int i = 0; i < 6; i++) {
            assertEquals(cosine[i], delta.cosine(i), "cosine " + i);
            assertEquals(step[i], delta.relativeStep(i), "step " + i);
            assertEquals(Float.NaN, delta.relativeAcceleration(i), "acceleration " + i);
        }
    }

    @Test
    void topK() {
        float[] values = {0, 5, 1, 5, 5, Float.NaN, 3, -1, Float.NaN, 2};
        Buffer index = buffer(-9, -9, -9, -9, -9, -9, -9, -9, -9, -9);
        context.topK(10, buffer(values), 3, buffer(1, 5, 5, 10), buffer(2, 0, 4), index);
        int[] expected = {-9, 1, 3, -9, -9, 5, 6, 7, 9, -9};
        for (int i = 0; i < 10; i++) assertEquals(expected[i], index.getInt(i), "place " + i);
    }

    @Test
    void gatherAndScatter() {
        float[] x = numbers(4 * 3);
        Buffer y = floats(6), target = buffer(x);
        context.gather(3, 4, 2, buffer(3, 0), target, y);
        assertArrayEquals(new float[] {x[9], x[10], x[11], x[0], x[1], x[2]}, read(y, 6));
        context.scatterAdd(3, 4, 2, buffer(1, 2), buffer(2f, -1f), y, target);
        double[] expected = doubles(x);
        for (int i = 0; i < 3; i++) {
            expected[3 + i] += 2 * x[9 + i];
            expected[6 + i] -= x[i];
        }
        close(expected, target);
        context.scatter(3, 4, 2, buffer(3, 0), y, target);
        for (int i = 0; i < 3; i++) {
            expected[9 + i] = y.getFloat(i);
            expected[i] = y.getFloat(3 + i);
        }
        close(expected, target);
    }

    private static float[] read(Buffer buffer, int count) {
        float[] values = new float[count];
        buffer.read(values);
        return values;
    }

    @Test
    void embed() {
        float[] table = numbers(70 * 12);
        LinearShape head = new LinearShape(12, 70, DType.F32);
        Buffer packed = context.allocate(context.linearBytes(head));
        context.linearPack(head, 0, 70, DType.F32, buffer(table), packed);
        double[] expected = new double[24];
        for (int i = 0; i < 24; i++) expected[i] = 0.5 * table[(i < 12 ? 69 : 3) * 12 + i % 12];
        Buffer out = floats(24);
        context.embed(new EmbedShape(70, 12, DType.F32, false, 0.5f), 2, buffer(69, 3), buffer(table), out);
        close(expected, out);
        context.embed(new EmbedShape(70, 12, DType.F32, true, 0.5f), 2, buffer(69, 3), packed, out.clear());
        close(expected, out);
    }

    /** Two tokens of a sequence: what their routers let pass goes through the block again, as single calls have it. */
    @Test
    void recursion() {
        BlockShape block = BlockShape.builder(1, 24, 40, 2).headDim(16).kvHeads(1).depths(2).build();
        GateShape gate = new GateShape(24, 0, 1, 2, RouterKind.LINEAR, GateFunction.SIGMOID, 1, 1, 0);
        Buffer weights = context.allocate(context.blockBytes(block));
        for (Part part : Part.values()) {
            if (!block.has(part)) continue;
            context.blockPack(block, 0, 0, part, Kind.WEIGHT, 1, DType.F32,
                    buffer(numbers((int) block.elements(part, Kind.WEIGHT))), weights);
        }
        Buffer routers = context.allocate(context.gateBytes(gate));
        for (int depth = 0; depth < 2; depth++) {
            context.gatePack(gate, depth, GatePart.W1, DType.F32, buffer(numbers(24)), routers);
        }
        float[] h = numbers(2 * 24);
        Rows rows = Rows.allocate(context, 4);
        for (int i = 0; i < 4; i++) rows.set(i, i / 2 * 4, 0, i % 2, 0, 5 + i);
        Buffer lists = context.allocateShared(32), pool = context.allocate(context.kvBytes(block.kv(64)));
        Buffer hidden = buffer(h), passes = context.allocateShared(8);
        context.recursion(new RecursionShape(2, StateUpdate.ADD_GATED, 1), block, gate, 2, rows, weights, routers, lists,
                null, 64, pool, hidden, passes);

        Buffer want = buffer(h), x = floats(24), g = context.allocateShared(8), choice = context.allocateShared(8);
        for (int token = 0; token < 2; token++) {
            int taken = passes.getInt(token);
            assertTrue(taken == 1 || taken == 2);
        }
        Buffer again = context.allocate(context.kvBytes(block.kv(64)));
        int[] length = new int[2];
        for (int token = 0; token < 2; token++) {
            for (int depth = 0; depth < 2; depth++) {
                Rows one = Rows.allocate(context, 1).set(0, depth * 4, length[depth] + 1, token, depth,
                        5 + 2 * depth + token);
                Buffer state = want.slice(token * 96, 96);
                context.gate(gate, 1, one, state, routers, null, null, null, g, choice);
                if (depth > 0 && choice.getInt(0) == 0) break;
                assertTrue(depth < passes.getInt(token));
                lists.setInt(depth * 4L + length[depth]++, 5 + 2 * depth + token);
                state.copy(0, x, 0, 96);
                context.block(block, 1, one, null, weights, lists, null, 64, again, x);
                context.scatterAdd(24, 2, 1, buffer(token), g, x, want);
            }
        }
        float[] expected = new float[48];
        want.read(expected);
        float[] read = new float[48];
        hidden.read(read);
        assertArrayEquals(expected, read);
    }

    @Test
    void contextSaysWhatItRuns() {
        try (Context scalar = Context.cpu(2, Isa.SCALAR)) {
            assumeFalse(scalar.info().cuda());
            assertEquals("cpu scalar, 2 workers", scalar.toString());
            assertEquals(Isa.SCALAR, scalar.info().isa());
            assertEquals(context.info().bestIsa(), scalar.info().bestIsa());
            assertEquals(2, scalar.info().workers());
            assertFalse(scalar.info().cuda());
        }
    }
}
