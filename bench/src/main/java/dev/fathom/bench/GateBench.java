package dev.fathom.bench;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.GateFunction;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.RouterKind;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Linear routers by depth: go on or not, and the gate. */
public class GateBench extends KernelBench {
    private static final int DEPTHS = 3;
    private static final float ALPHA = 0.1f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"1", "16", "128"})
        public int rows;

        float[][] x;
        float[][] w;
        private int[] choice;
        private float[] gate;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            x = numbers.rows(rows, model.hidden);
            w = numbers.weights(DEPTHS, model.hidden);
            choice = new int[rows];
            gate = new float[rows];
        }

        float[] run() {
            for (int r = 0; r < rows; r++) {
                float z = Loops.dot(x[r], 0, w[r % DEPTHS], model.hidden);
                choice[r] = z >= 0 ? 1 : 0;
                gate[r] = ALPHA * Loops.sigmoid(z);
            }
            return gate;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private GateShape shape;
        private Rows rows;
        private Buffer x;
        private Buffer packed;
        private Buffer gate;
        private Buffer choice;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            shape = new GateShape(plain.model.hidden, 0, 1, DEPTHS, RouterKind.LINEAR, GateFunction.SIGMOID, 1, ALPHA,
                    0);
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) rows.depth(r, r % DEPTHS);
            x = cpu.buffer(plain.x);
            packed = context.allocate(context.gateBytes(shape));
            for (int d = 0; d < DEPTHS; d++) {
                context.gatePack(shape, d, GatePart.W1, DType.F32, cpu.buffer(plain.w[d]), packed);
            }
            gate = cpu.floats(plain.rows);
            choice = cpu.floats(plain.rows);
            call();
            Agreement.require(new float[][] {plain.run()}, gate, Agreement.F32);
        }

        void call() {
            context.gate(shape, rows.capacity(), rows, x, packed, null, null, null, gate, choice);
        }
    }

    @Benchmark
    public void fathom(Ours ours) {
        ours.call();
    }

    @Benchmark
    public float[] plainJava(Plain plain) {
        return plain.run();
    }

    @Override
    Work work(Case c) {
        double elements = (double) c.rows() * c.model().hidden, routers = Math.min(c.rows(), DEPTHS) * c.model().hidden;
        return new Work(DType.F32, 2 * elements, (elements + routers) * 4, c.rows() * 8);
    }
}
