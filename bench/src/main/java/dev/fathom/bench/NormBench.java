package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** RMS norm with gains by depth. */
public class NormBench extends KernelBench {
    private static final int DEPTHS = 3;
    private static final float EPS = 1e-5f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "16", "128"})
        public int rows;

        float[][] x;
        float[][] gain;
        float[][] y;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            x = numbers.rows(rows, model.hidden);
            gain = numbers.rows(DEPTHS, model.hidden);
            y = new float[rows][model.hidden];
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) Loops.rmsNorm(x[r], gain[r % DEPTHS], EPS, y[r]);
            return y;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private NormShape shape;
        private Rows rows;
        private Buffer x;
        private Buffer gain;
        private Buffer y;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            shape = new NormShape(NormKind.RMS, plain.model.hidden, DEPTHS, EPS);
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) rows.depth(r, r % DEPTHS);
            x = cpu.buffer(plain.x);
            gain = cpu.buffer(plain.gain);
            y = cpu.floats((long) plain.rows * plain.model.hidden);
            call();
            Agreement.require(plain.run(), y, Agreement.F32);
        }

        void call() {
            context.norm(shape, rows.capacity(), rows, x, gain, null, y);
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
        double elements = (double) c.rows() * c.model().hidden, gains = Math.min(c.rows(), DEPTHS) * c.model().hidden;
        return new Work(DType.F32, 4 * elements, (elements + gains) * 4, elements * 4);
    }
}
