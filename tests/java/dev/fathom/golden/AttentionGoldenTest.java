package dev.fathom.golden;

import static dev.fathom.golden.Bounds.BF16;
import static dev.fathom.golden.Bounds.U;

import java.io.IOException;
import java.util.stream.Stream;

import dev.fathom.AttentionShape;
import dev.fathom.BiasKind;
import dev.fathom.Buffer;
import dev.fathom.DType;
import dev.fathom.DenseKvShape;
import dev.fathom.KvShape;
import dev.fathom.Rows;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Attention over lists and over dense K,V, against the golden vectors. */
class AttentionGoldenTest {
    @TestFactory
    Stream<DynamicTest> list() throws IOException {
        return Golden.tests("attention", AttentionGoldenTest::list);
    }

    private static void list(Case c) {
        int heads = c.integer("heads"), kvHeads = c.integer("kv_heads"), dim = c.integer("head_dim");
        int entries = c.integer("entries"), count = c.count();
        KvShape kv = new KvShape(c.integer("layers"), kvHeads, dim, c.type("type"), entries);
        Buffer pool = c.allocate(c.context.kvBytes(kv)), out = c.floats(count * heads * dim);
        Rows everyEntry = c.freshRows(entries);
        for (int i = 0; i < entries; i++) everyEntry.entry(i, i);
        c.context.kvWrite(kv, c.integer("layer"), entries, everyEntry, floats(c, "k"), floats(c, "v"), pool);
        c.context.attention(shape(c), kv, c.integer("layer"), count, c.rows(count), floats(c, "q"),
                c.buffer("entries"), pool, c.buffer("entry_position"), c.buffer("bias"), out);
        compare(c, out, entries);
    }

    @TestFactory
    Stream<DynamicTest> masked() throws IOException {
        return Golden.tests("attention_masked", AttentionGoldenTest::masked);
    }

    /** With heads outermost, so that no stride is what a dense order would give. */
    private static void masked(Case c) {
        int heads = c.integer("heads"), kvHeads = c.integer("kv_heads"), dim = c.integer("head_dim");
        int sequences = c.integer("sequences"), tokens = c.integer("tokens"), count = c.count();
        DType type = c.type("type");
        int token = dim + 8, sequence = tokens * token, head = sequences * sequence;
        DenseKvShape kv = new DenseKvShape(sequences, tokens, kvHeads, dim, type, sequence, token, head);
        Buffer[] dense = new Buffer[2];
        for (int i = 0; i < 2; i++) {
            dense[i] = c.allocate(kv.bytes());
            byte[] source = c.tensor(i == 0 ? "k" : "v").bytes();
            int row = dim * type.bytes();
            for (int at = 0; at < source.length / row; at++) {
                int h = at % kvHeads, t = at / kvHeads % tokens, s = at / kvHeads / tokens;
                dense[i].write((long) (s * sequence + t * token + h * head) * type.bytes(), source, at * row, row);
            }
        }
        Buffer out = c.floats(count * heads * dim);
        c.context.attentionMasked(shape(c), kv, count, c.rows(count), floats(c, "q"), dense[0], dense[1],
                c.buffer("reach"), c.buffer("bias"), out);
        compare(c, out, tokens);
    }

    private static AttentionShape shape(Case c) {
        return new AttentionShape(c.integer("heads"), BiasKind.values()[c.integer("bias_kind")],
                c.integer("bias_width"), c.integer("bias_center"), c.real("scale"));
    }

    /** A tensor as fp32, whatever it is stored in. */
    private static Buffer floats(Case c, String name) {
        double[] values = c.values(name);
        Buffer buffer = c.floats(values.length);
        for (int i = 0; i < values.length; i++) buffer.setFloat(i, (float) values[i]);
        return buffer;
    }

    /**
     * Bounds hold for whatever a row sees: they take the largest score and value that there are, of {@code n} keys at
     * most.
     */
    private static void compare(Case c, Buffer out, int n) {
        int heads = c.integer("heads"), kvHeads = c.integer("kv_heads"), dim = c.integer("head_dim");
        boolean bf16 = c.type("type") == DType.BF16;
        double[] q = c.values("q"), k = c.values("k");
        double largestV = largest(c.values("v")), largestBias = largest(c.values("bias", 0, 0));
        double[] bound = new double[c.count() * heads];
        for (int i = 0; i < bound.length; i++) {
            double size = 0;
            for (int key = i % heads / (heads / kvHeads); key < k.length / dim; key += kvHeads) {
                size = Math.max(size, c.real("scale") * Bounds.magnitude(q, i * dim, k, key * dim, dim));
            }
            // A score is a sum of dim products, of scale * q in bf16 if K,V are; the exponential's argument, a
            // difference of two scores, is rounded a few times.
            double score = Bounds.sum(dim, size) + (bf16 ? BF16 * size : 0) + 8 * U * (size + largestBias);
            // An error of e in every score moves the mean by at most 2 e |v|; weights are rounded if K,V are bf16, and
            // good to 2^-21; n of them are summed.
            bound[i] = largestV * (2.2 * score + (bf16 ? 2 * BF16 : 0) + 16 * U + Bounds.sum(n, 1));
        }
        c.expect("out", out, i -> bound[i / dim]);
    }

    private static double largest(double[] values) {
        double largest = 0;
        for (double value : values) largest = Math.max(largest, Math.abs(value));
        return largest;
    }
}
