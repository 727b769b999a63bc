package dev.fathom.bench;

import java.lang.foreign.Arena;
import java.util.Arrays;

import dev.fathom.BackfillShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KvShape;
import dev.fathom.NormKind;
import dev.fathom.RopeStyle;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** K and V of the ten layers of a recursion that tokens skipped, from their exit states. */
public class BackfillBench extends KernelBench {
    private static final int LAYERS = 10;
    private static final int ENTRIES = 2048;
    private static final int FIRST = 1000;
    private static final float EPS = 1e-5f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M"})
        public Model model;
        @Param({"1", "16"})
        public int rows;

        float[] frequency;
        float[][] h;
        /** [hidden][layers * 2 * kvWidth]: of every layer K's columns, then V's. */
        float[][] w;
        private float[] gain;
        private float[][] x;
        private float[][] kv;
        /** [layers * entries][kvWidth]. */
        private float[][] poolK;
        private float[][] poolV;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            int width = model.kvWidth();
            frequency = model.ropeFrequency();
            h = numbers.rows(rows, model.hidden);
            w = numbers.weights(model.hidden, LAYERS * 2 * width);
            gain = new float[model.hidden];
            Arrays.fill(gain, 1);
            x = new float[rows][model.hidden];
            kv = new float[rows][LAYERS * 2 * width];
            poolK = new float[LAYERS * ENTRIES][width];
            poolV = new float[LAYERS * ENTRIES][width];
        }

        void run() {
            int width = model.kvWidth();
            for (int r = 0; r < rows; r++) Loops.rmsNorm(h[r], gain, EPS, x[r]);
            Loops.product(x, w, kv);
            for (int layer = 0; layer < LAYERS; layer++) {
                for (int r = 0; r < rows; r++) {
                    int entry = layer * ENTRIES + FIRST + r, at = layer * 2 * width;
                    System.arraycopy(kv[r], at, poolK[entry], 0, width);
                    System.arraycopy(kv[r], at + width, poolV[entry], 0, width);
                    Loops.rope(poolK[entry], FIRST + r, frequency);
                }
            }
        }

        float[][] k(int layer) {
            return Arrays.copyOfRange(poolK, layer * ENTRIES + FIRST, layer * ENTRIES + FIRST + rows);
        }

        float[][] v(int layer) {
            return Arrays.copyOfRange(poolV, layer * ENTRIES + FIRST, layer * ENTRIES + FIRST + rows);
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of the weights, K and V. */
        @Param({"F32", "BF16"})
        public DType type;

        private Context context;
        private BackfillShape shape;
        private KvShape kv;
        private Rows rows;
        private Buffer h;
        private Buffer packed;
        private Buffer frequency;
        private Buffer entry;
        private Buffer pool;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            Model model = plain.model;
            shape = new BackfillShape(model.hidden, 1, type, NormKind.RMS, RopeStyle.HALF, model.headDim, EPS);
            kv = new KvShape(LAYERS, model.kvHeads, model.headDim, type, ENTRIES);
            rows = Rows.allocate(context, plain.rows);
            entry = cpu.floats(plain.rows);
            for (int r = 0; r < plain.rows; r++) {
                rows.position(r, FIRST + r);
                entry.setInt(r, FIRST + r);
            }
            h = cpu.buffer(plain.h);
            packed = pack(cpu, plain);
            frequency = cpu.buffer(plain.frequency);
            pool = context.allocate(context.kvBytes(kv));
            call();
            plain.run();
            Buffer k = cpu.floats((long) plain.rows * model.kvWidth()), v = context.allocate(k.bytes());
            for (int layer = 0; layer < LAYERS; layer++) {
                context.kvRead(kv, layer, plain.rows, entry, pool, k, v);
                Agreement.require(plain.k(layer), k, Agreement.of(type));
                Agreement.require(plain.v(layer), v, Agreement.of(type));
            }
        }

        private Buffer pack(Cpu cpu, Plain plain) {
            int width = plain.model.kvWidth();
            Buffer weights = context.allocate(context.backfillBytes(shape, kv));
            try (Arena arena = Arena.ofConfined()) {
                for (int layer = 0; layer < LAYERS; layer++) {
                    Buffer wk = cpu.transposed(arena, plain.w, layer * 2 * width, width);
                    Buffer wv = cpu.transposed(arena, plain.w, (layer * 2 + 1) * width, width);
                    context.backfillPack(shape, kv, 0, layer, DType.F32, wk, wv, null, null, null, null, weights);
                }
            }
            return weights;
        }

        void call() {
            context.backfill(shape, kv, rows.capacity(), rows, h, packed, frequency, entry, pool);
        }
    }

    @Benchmark
    public void fathom(Ours ours) {
        ours.call();
    }

    @Benchmark
    public void plainJava(Plain plain) {
        plain.run();
    }

    @Override
    Work work(Case c) {
        double in = c.model().hidden, out = LAYERS * 2.0 * c.model().kvWidth();
        return new Work(c.type(), 2 * c.rows() * in * out, in * out * c.type().bytes() + c.rows() * in * 4,
                c.rows() * out * c.type().bytes());
    }
}
