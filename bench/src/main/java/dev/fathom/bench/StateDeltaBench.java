package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.StateDelta;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** How far hidden states moved over three passes. */
public class StateDeltaBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "16", "128"})
        public int rows;

        float[][] before2;
        float[][] before;
        float[][] now;
        private float[][] delta;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            before2 = numbers.rows(rows, model.hidden);
            before = numbers.rows(rows, model.hidden);
            now = numbers.rows(rows, model.hidden);
            delta = new float[rows][5];
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) Loops.stateDelta(before2[r], before[r], now[r], delta[r]);
            return delta;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private int width;
        private int rows;
        private Buffer before2;
        private Buffer before;
        private Buffer now;
        private StateDelta delta;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            width = plain.model.hidden;
            rows = plain.rows;
            before2 = cpu.buffer(plain.before2);
            before = cpu.buffer(plain.before);
            now = cpu.buffer(plain.now);
            delta = StateDelta.allocate(context, rows);
            call();
            Agreement.require(plain.run(), delta.buffer(), Agreement.F32);
        }

        void call() {
            context.stateDelta(width, rows, before2, before, now, delta);
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
        double elements = (double) c.rows() * c.model().hidden;
        return new Work(DType.F32, 13 * elements, 3 * elements * 4, c.rows() * 20);
    }
}
