package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.RopeShape;
import dev.fathom.RopeStyle;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Rotation of all query heads, in place. */
public class RopeBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "16", "128"})
        public int rows;

        float[] frequency;
        float[][] x;

        @Setup
        public void fill() {
            frequency = model.ropeFrequency();
            x = new Numbers().rows(rows, model.queryWidth());
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) Loops.rope(x[r], position(r), frequency);
            return x;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private RopeShape shape;
        private Rows rows;
        private Buffer frequency;
        private Buffer x;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            Model model = plain.model;
            shape = new RopeShape(RopeStyle.HALF, model.heads, model.headDim, model.headDim);
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) rows.position(r, position(r));
            frequency = cpu.buffer(plain.frequency);
            x = cpu.buffer(plain.x);
            call();
            Agreement.require(plain.run(), x, Agreement.F32);
        }

        void call() {
            context.rope(shape, rows.capacity(), rows, frequency, x);
        }
    }

    private static int position(int row) {
        return 1000 + row;
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
        double elements = (double) c.rows() * c.model().queryWidth();
        return new Work(DType.F32, 3 * elements, elements * 4, elements * 4);
    }
}
