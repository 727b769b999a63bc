package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.LinearShape;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** One product with the weights of a layer: hidden to intermediate. */
public class LinearBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "4", "16", "128", "512"})
        public int rows;

        float[][] x;
        float[][] w;
        float[][] y;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            x = numbers.rows(rows, model.hidden);
            w = numbers.weights(model.hidden, model.intermediate);
            y = new float[rows][model.intermediate];
        }

        float[][] run() {
            Loops.product(x, w, y);
            return y;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of the weights; plain Java reads the same numbers as floats. */
        @Param({"F32", "BF16", "I8", "Q8_0", "Q4_0", "F8_E4M3"})
        public DType type;

        private Context context;
        private LinearShape shape;
        private int rows;
        private Buffer x;
        private Buffer packed;
        private Buffer y;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            shape = new LinearShape(plain.model.hidden, plain.model.intermediate, type);
            rows = plain.rows;
            x = cpu.buffer(plain.x);
            packed = cpu.pack(shape, plain.w);
            y = cpu.floats((long) rows * plain.model.intermediate);
            call();
            Agreement.require(plain.run(), y, type == DType.BF16 ? Agreement.F32 : Agreement.of(type));
        }

        void call() {
            context.linear(shape, rows, null, x, packed, null, null, null, null, y);
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
        double in = c.model().hidden, out = c.model().intermediate;
        return new Work(c.type(), 2 * c.rows() * in * out, Work.weightBytes(c.type(), in, out) + c.rows() * in * 4,
                c.rows() * out * 4);
    }
}
