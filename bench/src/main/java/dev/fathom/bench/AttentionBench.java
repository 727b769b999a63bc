package dev.fathom.bench;

import dev.fathom.AttentionShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KvShape;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Attention of the last {@code rows} tokens of a sequence over its list: one is decoding, many are a prompt's end. */
public class AttentionBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "64"})
        public int rows;
        @Param({"512", "2048"})
        public int context;

        float[][] q;
        float[][] k;
        float[][] v;
        private PlainKv kv;
        private float[] score;
        private float[][] out;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            q = numbers.rows(rows, model.queryWidth());
            k = numbers.rows(context, model.kvWidth());
            v = numbers.rows(context, model.kvWidth());
            kv = new PlainKv(model, k, v);
            score = new float[context];
            out = new float[rows][model.queryWidth()];
        }

        int visible(int row) {
            return context - rows + row + 1;
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) {
                Loops.attention(q[r], model.heads, model.attentionScale(), kv, visible(r), score, out[r]);
            }
            return out;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of K and V. */
        @Param({"F32", "BF16", "I8"})
        public DType type;

        private Context context;
        private AttentionShape shape;
        private KvShape kv;
        private Rows rows;
        private Buffer q;
        private Buffer list;
        private Buffer pool;
        private Buffer out;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            Model model = plain.model;
            shape = new AttentionShape(model.heads, model.attentionScale());
            kv = new KvShape(1, model.kvHeads, model.headDim, type, plain.context);
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) rows.visible(r, plain.visible(r));
            q = cpu.buffer(plain.q);
            list = cpu.list(plain.context);
            pool = cpu.pool(kv, plain.k, plain.v);
            out = cpu.floats((long) plain.rows * model.queryWidth());
            call();
            Agreement.require(plain.run(), out, Agreement.of(type));
        }

        void call() {
            context.attention(shape, kv, 0, rows.capacity(), rows, q, list, pool, null, null, out);
        }
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
        double rows = c.rows(), seen = rows * (c.context() - (rows - 1) / 2), queries = rows * c.model().queryWidth();
        DType computed = c.type() == DType.I8 ? DType.BF16 : c.type(); // integers are widened
        return new Work(computed, 4 * seen * c.model().queryWidth(),
                2 * c.context() * Work.kvBytes(c.type(), c.model()) + queries * 4, queries * 4);
    }
}
