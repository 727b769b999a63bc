package dev.fathom.bench;

import java.util.Arrays;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** Expert choice over whole sequences: the half of each one's tokens that scores highest. */
public class TopKBench extends KernelBench {
    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"1", "16"})
        public int sequences;
        @Param({"512", "2048"})
        public int context;

        float[][] values;
        private float[] sorted;
        private int[][] index;

        @Setup
        public void fill() {
            values = new Numbers().rows(sequences, context);
            sorted = new float[context];
            index = new int[sequences][context / 2];
        }

        int[][] run() {
            for (int s = 0; s < sequences; s++) {
                System.arraycopy(values[s], 0, sorted, 0, context);
                Arrays.sort(sorted);
                Loops.topK(values[s], sorted, index[s]);
            }
            return index;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        private Context context;
        private int sequences;
        private long count;
        private Buffer values;
        private Buffer begin;
        private Buffer k;
        private Buffer index;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            sequences = plain.sequences;
            count = (long) sequences * plain.context;
            values = cpu.buffer(plain.values);
            begin = cpu.floats(sequences + 1);
            k = cpu.floats(sequences);
            for (int s = 0; s < sequences; s++) {
                begin.setInt(s + 1, (s + 1) * plain.context);
                k.setInt(s, plain.context / 2);
            }
            index = cpu.floats(count);
            call();
            check(plain.run(), plain.context);
        }

        private void check(int[][] plain, int tokens) {
            for (int s = 0; s < sequences; s++) {
                for (int i = 0; i < plain[s].length; i++) {
                    int expected = s * tokens + plain[s][i], got = index.getInt((long) s * tokens + i);
                    if (got != expected) throw new AssertionError("plain Java chose " + expected + ", fathom " + got);
                }
            }
        }

        void call() {
            context.topK(count, values, sequences, begin, k, index);
        }
    }

    @Benchmark
    public void fathom(Ours ours) {
        ours.call();
    }

    @Benchmark
    public int[][] plainJava(Plain plain) {
        return plain.run();
    }

    @Override
    Work work(Case c) {
        double values = (double) c.sequences() * c.context();
        return new Work(DType.F32, 0, values * 4, values / 2 * 4);
    }
}
