package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** The rows that go on to the next depth, brought together: half of all. */
public class GatherBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"16", "128"})
        public int rows;

        int[] index;
        float[][] x;
        private float[][] y;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            index = numbers.different(rows, 2 * rows);
            x = numbers.rows(2 * rows, model.hidden);
            y = new float[rows][model.hidden];
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) System.arraycopy(x[index[r]], 0, y[r], 0, model.hidden);
            return y;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private int width;
        private int rows;
        private Buffer index;
        private Buffer x;
        private Buffer y;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            width = plain.model.hidden;
            rows = plain.rows;
            index = cpu.buffer(plain.index);
            x = cpu.buffer(plain.x);
            y = cpu.floats((long) rows * width);
            call();
            Agreement.require(plain.run(), y, 0);
        }

        void call() {
            context.gather(width, 2L * rows, rows, index, x, y);
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
        double bytes = c.rows() * c.model().hidden * 4.0;
        return new Work(DType.F32, 0, bytes, bytes);
    }
}
