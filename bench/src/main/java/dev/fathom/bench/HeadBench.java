package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.HeadShape;
import dev.fathom.HeadStats;
import dev.fathom.NormKind;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Norm, LM head and the statistics of its logits. */
public class HeadBench extends KernelBench {
    private static final float EPS = 1e-5f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M"})
        public Model model;
        @Param({"1", "16"})
        public int rows;

        float[][] h;
        float[] gain;
        float[][] w;
        private float[][] x;
        private float[][] logits;
        private int[] argmax;
        /** Per row: the two largest logits, log-sum-exp, entropy. */
        private float[][] stats;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            h = numbers.rows(rows, model.hidden);
            gain = numbers.vector(model.hidden);
            w = numbers.weights(model.hidden, model.vocabulary);
            x = new float[rows][model.hidden];
            logits = new float[rows][model.vocabulary];
            argmax = new int[rows];
            stats = new float[rows][4];
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) Loops.rmsNorm(h[r], gain, EPS, x[r]);
            Loops.product(x, w, logits);
            for (int r = 0; r < rows; r++) argmax[r] = Loops.statistics(logits[r], stats[r]);
            return stats;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of the weights. */
        @Param({"F32", "BF16"})
        public DType type;

        private Context context;
        private HeadShape shape;
        private int rows;
        private Buffer h;
        private Buffer gain;
        private Buffer packed;
        private HeadStats stats;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            shape = new HeadShape(plain.model.hidden, plain.model.vocabulary, type, NormKind.RMS, EPS);
            rows = plain.rows;
            h = cpu.buffer(plain.h);
            gain = cpu.buffer(plain.gain);
            packed = cpu.pack(shape.weights(), plain.w);
            stats = HeadStats.allocate(context, rows);
            call();
            float[][] told = new float[rows][];
            for (int r = 0; r < rows; r++) {
                told[r] = new float[] {stats.top1(r), stats.top2(r), stats.lse(r), stats.entropy(r)};
            }
            Agreement.require(plain.run(), cpu.buffer(told), Agreement.of(type));
        }

        void call() {
            context.head(shape, rows, h, gain, null, packed, null, stats, null, null);
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
        double in = c.model().hidden, out = c.model().vocabulary;
        return new Work(c.type(), 2 * c.rows() * in * out, in * out * c.type().bytes() + c.rows() * in * 4,
                c.rows() * 24.0);
    }
}
