package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** What a block computed for half of the rows, added to their hidden states with a gate. */
public class ScatterAddBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"16", "128"})
        public int rows;

        int[] index;
        float[] gate;
        float[][] y;
        float[][] x;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            index = numbers.different(rows, 2 * rows);
            gate = numbers.vector(rows);
            y = numbers.rows(rows, model.hidden);
            x = numbers.rows(2 * rows, model.hidden);
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) Loops.add(x[index[r]], gate[r], y[r], model.hidden);
            return x;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private int width;
        private int rows;
        private Buffer index;
        private Buffer gate;
        private Buffer y;
        private Buffer x;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            width = plain.model.hidden;
            rows = plain.rows;
            index = cpu.buffer(plain.index);
            gate = cpu.buffer(plain.gate);
            y = cpu.buffer(plain.y);
            x = cpu.buffer(plain.x);
            call();
            Agreement.require(plain.run(), x, Agreement.F32);
        }

        void call() {
            context.scatterAdd(width, 2L * rows, rows, index, gate, y, x);
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
        return new Work(DType.F32, 2 * elements, 2 * elements * 4, elements * 4);
    }
}
