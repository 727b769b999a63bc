package dev.fathom.bench;

import java.util.stream.Stream;

import dev.fathom.AttentionShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.DenseKvShape;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Attention over dense K,V of which two thirds count: the tokens that reached the rows' depth. */
public class MaskedAttentionBench extends KernelBench {
    private static final int DEPTHS = 3;
    private static final int DEPTH = 1;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M"})
        public Model model;
        @Param({"1", "64"})
        public int rows;
        @Param({"2048"})
        public int context;

        int[] reach;
        float[][] q;
        float[][][] k;
        float[][][] v;
        private int[] items;
        private float[] score;
        private float[][] seen;
        private float[][] out;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            reach = reach(context);
            q = numbers.rows(rows, model.queryWidth());
            k = new float[model.kvHeads][][];
            v = new float[model.kvHeads][][];
            for (int h = 0; h < model.kvHeads; h++) {
                k[h] = numbers.rows(context, model.headDim);
                v[h] = numbers.rows(context, model.headDim);
            }
            items = new int[context];
            score = new float[context];
            seen = new float[context][];
            out = new float[rows][model.queryWidth()];
        }

        int visible(int row) {
            return context - rows + row + 1;
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) {
                int count = 0;
                for (int t = 0; t < visible(r); t++) {
                    if (reach[t] >= DEPTH) items[count++] = t;
                }
                Loops.maskedAttention(q[r], model.heads, model.attentionScale(), k, v, items, count, score, seen,
                        out[r]);
            }
            return out;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of K and V. */
        @Param({"F32", "BF16"})
        public DType type;

        private Context context;
        private AttentionShape shape;
        private DenseKvShape kv;
        private Rows rows;
        private Buffer q;
        private Buffer k;
        private Buffer v;
        private Buffer reach;
        private Buffer out;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            Model model = plain.model;
            shape = new AttentionShape(model.heads, model.attentionScale());
            long headStride = (long) plain.context * model.headDim;
            kv = new DenseKvShape(1, plain.context, model.kvHeads, model.headDim, type, model.kvHeads * headStride,
                    model.headDim, headStride);
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) rows.visible(r, plain.visible(r)).depth(r, DEPTH);
            q = cpu.buffer(plain.q);
            k = dense(cpu, plain.k);
            v = dense(cpu, plain.v);
            reach = cpu.buffer(plain.reach);
            out = cpu.floats((long) plain.rows * model.queryWidth());
            call();
            Agreement.require(plain.run(), out, Agreement.of(type));
        }

        private Buffer dense(Cpu cpu, float[][][] heads) {
            return cpu.buffer(type, Stream.of(heads).flatMap(Stream::of).toArray(float[][]::new));
        }

        void call() {
            context.attentionMasked(shape, kv, rows.capacity(), rows, q, k, v, reach, null, out);
        }
    }

    private static int[] reach(int tokens) {
        return new Numbers().integers(tokens, DEPTHS);
    }

    @Benchmark
    public void fathom(Ours ours) {
        ours.call();
    }

    @Benchmark
    public float[][] plainJava(Plain plain) {
        return plain.run();
    }

    @Override
    Work work(Case c) {
        int[] reach = reach((int) c.context());
        long seen = 0, used = 0;
        for (int t = 0; t < reach.length; t++) {
            if (reach[t] < DEPTH) continue;
            used++;
            seen += Math.min(c.rows(), reach.length - t);
        }
        double queries = (double) c.rows() * c.model().queryWidth();
        return new Work(c.type(), 4.0 * seen * c.model().queryWidth(),
                2.0 * used * c.model().kvWidth() * c.type().bytes() + (queries + reach.length) * 4, queries * 4);
    }
}
