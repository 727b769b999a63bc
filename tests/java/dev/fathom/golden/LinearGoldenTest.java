package dev.fathom.golden;

import static dev.fathom.golden.Bounds.FUNCTION;
import static dev.fathom.golden.Bounds.U;
import static dev.fathom.golden.Bounds.magnitude;
import static dev.fathom.golden.Bounds.sum;

import java.io.IOException;
import java.util.stream.Stream;

import dev.fathom.Activation;
import dev.fathom.BackfillShape;
import dev.fathom.Buffer;
import dev.fathom.DType;
import dev.fathom.HeadShape;
import dev.fathom.HeadStats;
import dev.fathom.KvShape;
import dev.fathom.LinearShape;
import dev.fathom.NormKind;
import dev.fathom.Residual;
import dev.fathom.RopeStyle;
import org.junit.jupiter.api.Assertions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Operations that are a product with packed weights and what is fused to it, against the golden vectors. */
class LinearGoldenTest {
    @TestFactory
    Stream<DynamicTest> linear() throws IOException {
        return Golden.tests("linear", LinearGoldenTest::linear);
    }

    private static void linear(Case c) {
        int in = c.integer("in_features"), out = c.integer("out_features"), count = c.count();
        int rank = c.integer("lora_rank"), depths = c.integer("lora_depths");
        boolean glu = c.flag("glu"), bf16 = c.type("weight_type") == DType.BF16;
        int weightRows = glu ? 2 * out : out;
        Residual residual = Residual.values()[c.integer("residual")];
        LinearShape shape = new LinearShape(in, out, c.type("weight_type"),
                Activation.values()[c.integer("activation")], glu, residual, rank, depths);
        DType source = c.type("source_type");
        Buffer packed = c.allocate(c.context.linearBytes(shape)), y = c.floats(count * out), lora = null;
        c.context.linearPack(shape, 0, weightRows, source, c.buffer("weight"), packed);
        if (rank > 0) {
            lora = c.allocate(c.context.loraBytes(shape));
            for (int d = 0; d < depths; d++) {
                c.context.loraPack(shape, d, c.real("lora_scale"), source, c.part("lora_a", d, depths),
                        c.part("lora_b", d, depths), lora);
            }
        }
        c.context.linear(shape, count, c.rows(count), c.buffer("x"), packed, c.buffer("bias"), lora,
                c.buffer("residual"), c.buffer("gate"), y);

        double[] x = Bounds.seen(c.values("x"), bf16), w = c.values("weight"), bias = c.values("bias", weightRows, 0);
        double[] a = c.values("lora_a", 0, 0), b = c.values("lora_b", 0, 0);
        double[] added = c.values("residual", count * out, 0), gate = c.values("gate", count, 1);
        c.expect("y", y, i -> {
            int row = i / out;
            // Magnitude and error of each of the one or two values that the activation takes.
            double[] size = new double[2], error = new double[2];
            for (int half = 0; half < (glu ? 2 : 1); half++) {
                int feature = half * out + i % out;
                size[half] = magnitude(w, feature * in, x, row * in, in) + Math.abs(bias[feature]);
                for (int t = 0; t < rank; t++) {
                    int depth = c.integer("depth", row);
                    double low = magnitude(a, (depth * rank + t) * in, x, row * in, in);
                    double factor = Math.abs(c.real("lora_scale") * b[(depth * weightRows + feature) * rank + t]);
                    size[half] += factor * low;
                    // A x is a sum of its own, and is rounded to bf16 before B, which the oracle leaves out.
                    error[half] += factor * (sum(in, low) + (bf16 ? Bounds.BF16 * low : 0));
                }
                error[half] += sum(in + rank + 1, size[half]);
            }
            // |act(z)| <= |z| and |act'| < 1.2.
            double bound = 1.2 * error[0] + FUNCTION * size[0], result = size[0];
            if (glu) {
                bound = bound * (size[1] + error[1]) + result * error[1];
                result *= size[1];
            }
            bound += 2 * U * result;
            return bound * Math.abs(gate[row]) + 2 * U * (Math.abs(added[i]) + result * Math.abs(gate[row]));
        });
    }

    @TestFactory
    Stream<DynamicTest> head() throws IOException {
        return Golden.tests("head", LinearGoldenTest::head);
    }

    private static void head(Case c) {
        int hidden = c.integer("hidden_size"), vocab = c.integer("vocab_size"), count = c.count();
        int chosen = c.integer("chosen");
        NormKind norm = c.integer("norm") < 0 ? null : NormKind.values()[c.integer("norm")];
        HeadShape shape = new HeadShape(hidden, vocab, c.type("weight_type"), norm, c.real("norm_eps"),
                c.real("logit_scale"), c.real("softcap"), chosen);
        Buffer packed = c.allocate(c.context.linearBytes(shape.weights()));
        c.context.linearPack(shape.weights(), 0, vocab, c.type("weight_type"), c.buffer("weight"), packed);
        HeadStats stats = HeadStats.of(c.floats(count * 6));
        Buffer logits = c.floats(count * vocab), picked = chosen > 0 ? c.floats(count * chosen) : null;
        c.context.head(shape, count, c.buffer("h"), c.buffer("gain"), c.buffer("norm_bias"), packed,
                c.buffer("chosen_id"), stats, picked, logits);

        Bounds.Approximate x = Bounds.scaled(Bounds.norm(norm, c.real("norm_eps"), c.values("h"), hidden),
                c.values("gain", hidden, 1), c.values("norm_bias", hidden, 0), hidden, new int[count])
                .seen(c.type("weight_type") == DType.BF16);
        double[] w = c.values("weight"), want = c.values("logits"), bound = new double[want.length];
        for (int i = 0; i < bound.length; i++) {
            double error = Math.abs(c.real("logit_scale")) * x.product(i / vocab, w, i % vocab * hidden, hidden);
            // tanh has a slope of at most 1 and is multiplied by the cap.
            bound[i] = error + FUNCTION * c.real("softcap") + 2 * U * Math.abs(want[i]);
        }
        c.expect("logits", logits, i -> bound[i]);
        if (chosen > 0) c.expect("chosen_logit", picked, i -> bound[i / chosen * vocab + c.integer("chosen_id", i)]);
        for (int i = 0; i < count; i++) {
            Assertions.assertEquals(c.integer("argmax", i), stats.argmax(i), "argmax of row " + i);
            Assertions.assertEquals(c.integer("second", i), stats.second(i), "second of row " + i);
            double worst = 0, size = 0;
            for (int j = i * vocab; j < (i + 1) * vocab; j++) {
                worst = Math.max(worst, bound[j]);
                size = Math.max(size, Math.abs(want[j]));
            }
            Case.near("top1", i, c.tensor("top1").get(i), stats.top1(i), worst);
            Case.near("top2", i, c.tensor("top2").get(i), stats.top2(i), worst);
            // An error of e in all logits moves their log-sum-exp by at most e, and the logarithm of a sum of n terms,
            // each an exponential of an argument of that size, errs by (n + size) U or so.
            double sumError = worst + (vocab + 2 * size) * U + FUNCTION * Math.max(1, size);
            Case.near("lse", i, c.tensor("lse").get(i), stats.lse(i), sumError);
            // dH/dz_j = -p_j (log p_j + H): the sum of their magnitudes is at most 2 H <= 2 log n.
            double entropyError = (2 * Math.log(vocab) + 2) * sumError + Bounds.sum(vocab, 2 * size);
            Case.near("entropy", i, c.tensor("entropy").get(i), stats.entropy(i), entropyError);
        }
    }

    @TestFactory
    Stream<DynamicTest> backfill() throws IOException {
        return Golden.tests("backfill", LinearGoldenTest::backfill);
    }

    private static void backfill(Case c) {
        int hidden = c.integer("hidden_size"), depths = c.integer("depths"), count = c.count();
        int layers = c.integer("layers");
        int heads = c.integer("kv_heads"), dim = c.integer("head_dim"), width = heads * dim;
        DType type = c.type("weight_type");
        KvShape kv = new KvShape(layers, heads, dim, c.type("type"), c.integer("entries"));
        NormKind norm = c.integer("norm") < 0 ? null : NormKind.values()[c.integer("norm")];
        BackfillShape shape = new BackfillShape(hidden, depths, type, norm, RopeStyle.values()[c.integer("rope_style")],
                c.integer("rotary_dim"), c.real("norm_eps"));
        Buffer packed = c.allocate(c.context.backfillBytes(shape, kv)), pool = c.allocate(c.context.kvBytes(kv));
        for (int d = 0; d < depths; d++) {
            for (int l = 0; l < layers; l++) {
                int set = d * layers + l, sets = depths * layers;
                c.context.backfillPack(shape, kv, d, l, type, c.part("wk", set, sets), c.part("wv", set, sets),
                        c.part("bk", set, sets), c.part("bv", set, sets), c.part("gain", set, sets),
                        c.part("norm_bias", set, sets), packed);
            }
        }
        c.context.backfill(shape, kv, count, c.rows(count), c.buffer("h"), packed, c.buffer("frequency"),
                c.buffer("entry"), pool);

        boolean bf16 = type == DType.BF16;
        Bounds.Approximate x = Bounds.norm(norm, c.real("norm_eps"), c.values("h"), hidden).seen(bf16);
        double[] gain = c.values("gain", depths * layers * hidden, 1);
        double[] shift = c.values("norm_bias", gain.length, 0);
        for (String name : new String[] {"k", "v"}) {
            double[] w = c.values("w" + name), bias = c.values("b" + name, w.length / hidden, 0);
            double[] want = c.values(name);
            Buffer k = c.floats(width), v = c.floats(width), one = c.allocate(4);
            for (int block = 0; block < want.length / width; block++) {
                int layer = block % layers, depth = block / layers % depths, row = block / layers / depths;
                int entry = c.integer("entry", row * depths + depth);
                if (entry < 0) continue;
                one.setInt(0, entry);
                c.context.kvRead(kv, layer, 1, one, pool, k, v);
                for (int head = 0; head < heads; head++) {
                    double error = 0, size = 0;
                    for (int o = head * dim; o < (head + 1) * dim; o++) {
                        int set = depth * layers + layer, feature = set * width + o;
                        error = Math.max(error, productError(x, row, w, feature * hidden, gain, shift,
                                set * hidden, hidden, bf16) + sum(1, Math.abs(bias[feature])));
                        size = Math.max(size, Math.abs(want[block * width + o]));
                    }
                    // A rotation by an angle that is off by position * U mixes two elements.
                    double angle = Math.max(1, c.integer("position", row)) * U;
                    if (name.equals("k")) error = 2 * error + 3 * size * (angle + FUNCTION);
                    // What is stored as bf16 may fall to the neighbour.
                    double bound = error + (kv.type() == DType.BF16 ? 2 * Bounds.BF16 * size : 0);
                    for (int o = head * dim; o < (head + 1) * dim; o++) {
                        float got = (name.equals("k") ? k : v).getFloat(o);
                        Case.near(name, block * width + o, want[block * width + o], got, bound);
                    }
                }
            }
        }
    }

    /** Error of (w * gain) x + w shift, where w * gain is folded first, and rounded if the weights are bf16. */
    private static double productError(Bounds.Approximate x, int row, double[] w, int wAt, double[] gain,
                                       double[] shift, int at, int n, boolean bf16) {
        double[] folded = new double[n];
        double carried = 0, size = 0;
        for (int i = 0; i < n; i++) {
            double exact = w[wAt + i] * gain[at + i], error = U * Math.abs(exact);
            folded[i] = bf16 ? Bounds.bf16(exact) : exact;
            carried += Math.abs(x.value()[row * n + i]) * (bf16 ? Bounds.bf16Error(exact, error) : error);
            size += Math.abs(shift[at + i] * w[wAt + i]);
        }
        return x.product(row, folded, 0, n) + carried + sum(n, size);
    }
}
