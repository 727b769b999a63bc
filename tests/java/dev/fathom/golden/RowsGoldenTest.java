package dev.fathom.golden;

import static dev.fathom.golden.Bounds.FUNCTION;
import static dev.fathom.golden.Bounds.U;
import static dev.fathom.golden.Bounds.magnitude;
import static dev.fathom.golden.Bounds.sum;

import java.io.IOException;
import java.util.Locale;
import java.util.stream.Stream;

import dev.fathom.Activation;
import dev.fathom.Buffer;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.GateFunction;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.KvShape;
import dev.fathom.LinearShape;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import dev.fathom.RopeShape;
import dev.fathom.RopeStyle;
import dev.fathom.RouterKind;
import dev.fathom.Rows;
import dev.fathom.StateDelta;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Operations that treat each row alone, against the golden vectors. */
class RowsGoldenTest {
    @TestFactory
    Stream<DynamicTest> norm() throws IOException {
        return Golden.tests("norm", RowsGoldenTest::norm);
    }

    private static void norm(Case c) {
        int width = c.integer("width"), depths = c.integer("depths"), count = c.count();
        NormKind kind = NormKind.values()[c.integer("kind")];
        NormShape shape = new NormShape(kind, width, depths, c.real("eps"));
        Buffer y = c.floats(count * width);
        c.context.norm(shape, count, c.rows(count), c.buffer("x"), c.buffer("gain"), c.buffer("bias"), y);

        int[] offset = new int[count];
        for (int i = 0; i < count; i++) offset[i] = c.has("depth") ? c.integer("depth", i) * width : 0;
        Bounds.Approximate want = Bounds.scaled(Bounds.norm(kind, c.real("eps"), c.values("x"), width),
                c.values("gain", depths * width, 1), c.values("bias", depths * width, 0), width, offset);
        c.expect("y", y, i -> want.error()[i]);
    }

    @TestFactory
    Stream<DynamicTest> rope() throws IOException {
        return Golden.tests("rope", RowsGoldenTest::rope);
    }

    private static void rope(Case c) {
        int heads = c.integer("heads"), dim = c.integer("head_dim"), rotary = c.integer("rotary_dim");
        int count = c.count();
        RopeStyle style = RopeStyle.values()[c.integer("style")];
        Buffer x = c.buffer("x");
        // The Java API spells "nothing is rotated" as a style without rotation.
        RopeShape shape = new RopeShape(rotary == 0 ? RopeStyle.NONE : style, heads, dim, rotary);
        Buffer frequency = c.has("frequency") ? c.buffer("frequency") : c.floats(0);
        c.context.rope(shape, count, c.rows(count), frequency, x);

        double[] before = c.values("x");
        c.expect("y", x, i -> {
            int at = i % dim;
            if (at >= rotary) return 0;
            int half = rotary / 2;
            int partner = style == RopeStyle.HALF ? (at < half ? i + half : i - half) : i ^ 1;
            // The angle is a product in fp32; its error turns the pair. Then two products and a sum.
            double angle = Math.max(1, c.integer("position", i / dim / heads)) * U;
            return (Math.abs(before[i]) + Math.abs(before[partner])) * (angle + FUNCTION);
        });
    }

    @TestFactory
    Stream<DynamicTest> kv() throws IOException {
        return Golden.tests("kv", RowsGoldenTest::kv);
    }

    /** Storing is exact: a copy or one rounding to nearest even. */
    private static void kv(Case c) {
        int layers = c.integer("layers"), row = c.integer("kv_heads") * c.integer("head_dim");
        KvShape shape = new KvShape(layers, c.integer("kv_heads"), c.integer("head_dim"), c.type("type"),
                c.integer("entries"));
        Buffer pool = c.allocate(c.context.kvBytes(shape));
        for (int w = 0; w < c.integer("writes"); w++) {
            String write = "write" + w + ".";
            int count = c.integer(write + "count");
            Rows rows = c.rows(count);
            for (int i = 0; i < count; i++) rows.entry(i, c.integer(write + "entry", i));
            c.context.kvWrite(shape, c.integer(write + "layer"), count, rows, c.buffer(write + "k"),
                    c.buffer(write + "v"), pool);
        }
        int n = c.tensor("read.entry").elements();
        Buffer k = c.floats(layers * n * row), v = c.floats(layers * n * row), entry = c.buffer("read.entry");
        for (int layer = 0; layer < layers; layer++) {
            long at = (long) layer * n * row * 4, size = (long) n * row * 4;
            c.context.kvRead(shape, layer, n, entry, pool, k.slice(at, size), v.slice(at, size));
        }
        c.expect("read.k", k, i -> 0);
        c.expect("read.v", v, i -> 0);
    }

    @TestFactory
    Stream<DynamicTest> gate() throws IOException {
        return Golden.tests("gate", RowsGoldenTest::gate);
    }

    private static void gate(Case c) {
        int hidden = c.integer("hidden_size"), inner = c.integer("inner_size"), outputs = c.integer("outputs");
        int depths = c.integer("depths"), count = c.count();
        RouterKind router = RouterKind.values()[c.integer("router")];
        GateFunction function = GateFunction.values()[c.integer("function")];
        GateShape shape = new GateShape(hidden, inner, outputs, depths, router, function, c.real("temperature"),
                c.real("alpha"), c.real("threshold"), Activation.values()[c.integer("activation")], c.flag("bias"));
        Buffer packed = c.allocate(c.context.gateBytes(shape));
        for (GatePart part : GatePart.values()) {
            String name = part.name().toLowerCase(Locale.ROOT);
            for (int d = 0; d < depths && c.has(name); d++) {
                c.context.gatePack(shape, d, part, c.type("source_type"), c.part(name, d, depths), packed);
            }
        }
        Buffer logits = c.floats(count * outputs), p = c.floats(count * outputs), gate = c.floats(count);
        Buffer choice = c.floats(count);
        c.context.gate(shape, count, c.rows(count), c.buffer("x"), packed, c.buffer("choice_bias"), logits, p, gate,
                choice);

        boolean mlp = router == RouterKind.MLP;
        double[] x = c.values("x"), first = c.values("w1"), last = mlp ? c.values("w2") : first;
        double[] firstBias = c.values("b1", first.length / hidden, 0);
        double[] lastBias = mlp ? c.values("b2", depths * outputs, 0) : firstBias;
        double[] want = c.values("logits"), bound = new double[want.length];
        for (int i = 0; i < want.length; i++) {
            int row = i / outputs, depth = c.integer("depth", row), output = depth * outputs + i % outputs;
            double size = Math.abs(lastBias[output]), carried = 0;
            if (!mlp) size += magnitude(last, output * hidden, x, row * hidden, hidden) / c.real("temperature");
            for (int j = 0; j < inner; j++) {
                int at = depth * inner + j;
                double z = magnitude(first, at * hidden, x, row * hidden, hidden) / c.real("temperature")
                        + Math.abs(firstBias[at]);
                double w = Math.abs(last[output * inner + j]);
                size += w * z; // |act(z)| <= |z|
                carried += w * (1.13 * sum(hidden + 2, z) + FUNCTION * z); // |act'| < 1.13
            }
            bound[i] = sum((mlp ? inner : hidden) + 2, size) + carried;
        }
        c.expect("logits", logits, i -> bound[i]);
        double[] ofRow = new double[count];
        for (int i = 0; i < count; i++) {
            double worst = 0, size = 1;
            for (int j = i * outputs; j < (i + 1) * outputs; j++) {
                worst = Math.max(worst, bound[j]);
                size = Math.max(size, Math.abs(want[j]));
            }
            // Every function has slopes of at most 1.
            ofRow[i] = c.real("alpha") * (worst + FUNCTION * size);
        }
        c.expect("p", p, i -> ofRow[i / outputs]);
        c.expect("gate", gate, i -> ofRow[i]);
        c.expectIntegers("choice", choice);
    }

    @TestFactory
    Stream<DynamicTest> stateDelta() throws IOException {
        return Golden.tests("state_delta", RowsGoldenTest::stateDelta);
    }

    private static void stateDelta(Case c) {
        int width = c.integer("width"), count = c.count();
        StateDelta delta = StateDelta.of(c.floats(count * 5));
        c.context.stateDelta(width, count, c.buffer("before2"), c.buffer("before"), c.buffer("now"), delta);
        double[] now = c.values("now"), before = c.values("before"), before2 = c.values("before2", now.length, 0);
        for (int i = 0; i < count; i++) {
            double size = magnitude(now, i * width, before, i * width, width), bend = 0, carried = 0;
            for (int k = i * width; k < (i + 1) * width; k++) {
                double step = now[k] - before[k], earlier = before[k] - before2[k], second = step - earlier;
                bend += second * second;
                carried += 2 * Math.abs(second) * U * (Math.abs(step) + Math.abs(earlier) + Math.abs(second));
            }
            near(c, "dot", i, delta.dot(i), sum(width, size));
            near(c, "now_squared", i, delta.nowSquared(i), sum(width, delta.nowSquared(i)));
            near(c, "before_squared", i, delta.beforeSquared(i), sum(width, delta.beforeSquared(i)));
            near(c, "step_squared", i, delta.stepSquared(i), sum(width + 2, delta.stepSquared(i)));
            near(c, "acceleration_squared", i, delta.accelerationSquared(i), sum(width, bend) + carried);
            // The error of the product, and half the relative error of each square.
            double lengths = Math.sqrt(delta.nowSquared(i) * (double) delta.beforeSquared(i));
            near(c, "cosine", i, delta.cosine(i), sum(width, size / lengths) + sum(width, 1));
            near(c, "relative_step", i, delta.relativeStep(i), sum(width + 2, delta.relativeStep(i)));
            double relative = delta.relativeAcceleration(i);
            near(c, "relative_acceleration", i, delta.relativeAcceleration(i),
                    relative * (sum(width, 1) + carried / bend));
        }
    }

    /** Value i of a tensor, if the case has it. */
    private static void near(Case c, String name, int i, float got, double bound) {
        if (c.has(name)) Case.near(name, i, c.tensor(name).get(i), got, bound);
    }

    @TestFactory
    Stream<DynamicTest> topK() throws IOException {
        return Golden.tests("top_k", RowsGoldenTest::topK);
    }

    private static void topK(Case c) {
        Buffer index = c.floats(c.count());
        for (int i = 0; i < c.count(); i++) index.setInt(i, -1);
        c.context.topK(c.count(), c.buffer("values"), c.integer("segments"), c.buffer("begin"), c.buffer("k"), index);
        c.expectIntegers("index", index);
    }

    @TestFactory
    Stream<DynamicTest> compact() throws IOException {
        return Golden.tests("compact", RowsGoldenTest::compact);
    }

    private static void compact(Case c) {
        int width = c.integer("width"), sources = c.integer("source_count"), count = c.count();
        Buffer gathered = c.floats(count * width);
        c.context.gather(width, sources, count, c.buffer("gather_index"), c.buffer("x"), gathered);
        c.expect("gathered", gathered, i -> 0);

        Buffer x = c.buffer("x");
        c.context.scatterAdd(width, sources, count, c.buffer("scatter_index"), c.buffer("gate"), c.buffer("y"), x);
        // One product and one sum; what is added is at most |before| + |after|.
        double[] before = c.values("x"), after = c.values("scattered");
        c.expect("scattered", x, i -> 3 * U * (Math.abs(before[i]) + Math.abs(after[i])));
    }

    @TestFactory
    Stream<DynamicTest> embed() throws IOException {
        return Golden.tests("embed", RowsGoldenTest::embed);
    }

    /** One product of exact values, rounded once: exact, from the plain and from the packed table. */
    private static void embed(Case c) {
        int vocab = c.integer("vocab_size"), hidden = c.integer("hidden_size"), count = c.count();
        DType type = c.type("type");
        LinearShape linear = new LinearShape(hidden, vocab, type);
        Buffer packed = c.allocate(c.context.linearBytes(linear)), out = c.floats(count * hidden);
        c.context.linearPack(linear, 0, vocab, type, c.buffer("table"), packed);
        for (boolean tied : new boolean[] {false, true}) {
            EmbedShape shape = new EmbedShape(vocab, hidden, type, tied, c.real("scale"));
            c.context.embed(shape, count, c.buffer("id"), tied ? packed : c.buffer("table"), out.clear());
            c.expect("out", out, i -> 0);
        }
    }
}
