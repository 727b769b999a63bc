package dev.fathom.bench;

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

/** K and V of a layer into entries that follow one another: the rows of a prompt. */
public class KvWriteBench extends KernelBench {
    private static final int ENTRIES = 2048;
    private static final int FIRST = 1000;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M", "TINYLLAMA"})
        public Model model;
        @Param({"F32", "BF16"})
        public DType type;
        @Param({"1", "16", "128"})
        public int rows;

        float[][] k;
        float[][] v;
        /** [2 * entries][kvWidth]: K of all entries, then V; of the two types one is used. */
        private float[][] f32Pool;
        private short[][] bf16Pool;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            k = numbers.rows(rows, model.kvWidth());
            v = numbers.rows(rows, model.kvWidth());
            f32Pool = new float[2 * ENTRIES][model.kvWidth()];
            bf16Pool = new short[2 * ENTRIES][model.kvWidth()];
        }

        void run() {
            for (int r = 0; r < rows; r++) {
                store(k[r], FIRST + r);
                store(v[r], ENTRIES + FIRST + r);
            }
        }

        private void store(float[] from, int at) {
            if (type == DType.F32) System.arraycopy(from, 0, f32Pool[at], 0, from.length);
            else Bf16.round(from, bf16Pool[at]);
        }

        float[][] storedK() {
            return stored(FIRST);
        }

        float[][] storedV() {
            return stored(ENTRIES + FIRST);
        }

        private float[][] stored(int from) {
            float[][] read = new float[rows][model.kvWidth()];
            for (int r = 0; r < rows; r++) {
                for (int i = 0; i < read[r].length; i++) {
                    read[r][i] = type == DType.F32 ? f32Pool[from + r][i] : Bf16.toFloat(bf16Pool[from + r][i]);
                }
            }
            return read;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private KvShape shape;
        private Rows rows;
        private Buffer k;
        private Buffer v;
        private Buffer pool;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            shape = new KvShape(1, plain.model.kvHeads, plain.model.headDim, plain.type, ENTRIES);
            rows = Rows.allocate(context, plain.rows);
            int[] entry = new int[plain.rows];
            for (int r = 0; r < plain.rows; r++) rows.entry(r, entry[r] = FIRST + r);
            k = cpu.buffer(plain.k);
            v = cpu.buffer(plain.v);
            pool = context.allocate(context.kvBytes(shape));
            call();
            plain.run();
            Buffer storedK = context.allocate(k.bytes()), storedV = context.allocate(v.bytes());
            context.kvRead(shape, 0, plain.rows, cpu.buffer(entry), pool, storedK, storedV);
            Agreement.require(plain.storedK(), storedK, 0);
            Agreement.require(plain.storedV(), storedV, 0);
        }

        void call() {
            context.kvWrite(shape, 0, rows.capacity(), rows, k, v, pool);
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
        double elements = 2.0 * c.rows() * c.model().kvWidth();
        return new Work(DType.F32, 0, elements * 4, elements * c.type().bytes());
    }
}
