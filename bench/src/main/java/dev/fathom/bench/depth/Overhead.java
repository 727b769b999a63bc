package dev.fathom.bench.depth;

import java.lang.management.ManagementFactory;
import java.util.Arrays;

import dev.fathom.Context;
import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;

/**
 * What a scheduler costs besides the kernels: the step of a model so small that its kernels take next to no time, at
 * the same number of texts, against the step of the real one. An upper bound, for it still contains the boundary and
 * the starting of workers.
 */
final class Overhead {
    private static final int TEXTS = 64;

    /** @param bytesPerStep allocated on the Java heap in steady state */
    record Result(int texts, double stepNanos, double tinyStepNanos, double bytesPerStep) {
        double share() {
            return tinyStepNanos / stepNanos;
        }
    }

    private Overhead() {}

    static Result measure(Subject subject, int[] text) {
        double[] real = steps(subject, text, 3);
        try (Context alone = Context.cpu(1)) {
            Subject tiny = Tiny.like(subject, alone);
            double[] small = steps(tiny, text, 12);
            return new Result(TEXTS, real[0], small[0], Math.max(real[1], small[1]));
        }
    }

    /** Nanoseconds of a step, median; bytes allocated per step. */
    private static double[] steps(Subject subject, int[] text, int warm) {
        var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        int tokens = 400;
        Limits limits = new Limits(TEXTS, tokens + 16, 2 * TEXTS, (long) TEXTS * (tokens + 16));
        double[] nanos = new double[200];
        double bytes = Double.POSITIVE_INFINITY;
        for (int round = 0; round < warm; round++) { // the code must be compiled
            try (Scheduler scheduler = new Scheduler(subject.context(), subject.weights(), subject.policy(),
                    BatchPolicy.PER_DEPTH, limits)) {
                for (int i = 0; i < TEXTS; i++) {
                    scheduler.submit(new Request(Arrays.copyOfRange(text, i * 16, i * 16 + 8), tokens),
                            Throughput.NOBODY);
                }
                for (int i = 0; i < 50; i++) scheduler.step();
                long before = threads.getCurrentThreadAllocatedBytes();
                for (int i = 0; i < nanos.length; i++) {
                    long start = System.nanoTime();
                    scheduler.step();
                    nanos[i] = System.nanoTime() - start;
                }
                bytes = Math.min(bytes, (double) (threads.getCurrentThreadAllocatedBytes() - before) / nanos.length);
            }
        }
        Arrays.sort(nanos);
        return new double[] {nanos[nanos.length / 2], bytes};
    }
}
