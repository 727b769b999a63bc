package dev.fathom.bench;

import java.util.stream.Stream;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.LinearShape;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Lookup of tokens in a table of their own, or in the packed LM head. */
public class EmbedBench extends KernelBench {
    private static final float SCALE = 0.5f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M"})
        public Model model;
        @Param({"F32", "BF16"})
        public DType type;
        @Param({"1", "128"})
        public int rows;

        int[] id;
        float[][] table;
        private short[][] halfTable;
        private float[][] out;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            id = numbers.integers(rows, model.vocabulary);
            table = numbers.rows(model.vocabulary, model.hidden);
            halfTable = Stream.of(table).map(Bf16::of).toArray(short[][]::new);
            out = new float[rows][model.hidden];
        }

        float[][] run() {
            for (int r = 0; r < rows; r++) {
                if (type == DType.F32) Loops.scale(SCALE, table[id[r]], out[r]);
                else Loops.scale(SCALE, halfTable[id[r]], out[r]);
            }
            return out;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        @Param({"false", "true"})
        public boolean packed;

        private Context context;
        private EmbedShape shape;
        private int rows;
        private Buffer id;
        private Buffer table;
        private Buffer out;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            int vocabulary = plain.model.vocabulary, hidden = plain.model.hidden;
            shape = new EmbedShape(vocabulary, hidden, plain.type, packed, SCALE);
            rows = plain.rows;
            id = cpu.buffer(plain.id);
            table = cpu.buffer(plain.type, plain.table);
            if (packed) table = pack(new LinearShape(hidden, vocabulary, plain.type), plain.type);
            out = cpu.floats((long) rows * hidden);
            call();
            Agreement.require(plain.run(), out, 0);
        }

        private Buffer pack(LinearShape head, DType type) {
            Buffer weights = context.allocate(context.linearBytes(head));
            context.linearPack(head, 0, head.outFeatures(), type, table, weights);
            return weights;
        }

        void call() {
            context.embed(shape, rows, id, table, out);
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
        return new Work(DType.F32, elements, elements * c.type().bytes(), elements * 4);
    }
}
