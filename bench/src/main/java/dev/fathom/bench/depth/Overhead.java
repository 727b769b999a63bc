package dev.fathom.bench.depth;

import java.lang.management.ManagementFactory;
import java.util.Arrays;

import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;

/** What of a scheduler's step is not spent in kernels, and what it allocates. Needs -Dfathom.timed=true. */
final class Overhead {
    private static final int TEXTS = 64;
    private static final int TOKENS = 400;
    private static final int WARM_ROUNDS = 15;
    private static final int ROUNDS = 5;
    private static final int WARM = 50;
    private static final int STEPS = 200;

    /**
     * @param stepNanos    a step in steady state: median of a round's steps, of the round whose share is the median
     * @param ownNanos     of these, not in kernels and at the boundary; likewise
     * @param bytesPerStep allocated on the Java heap
     */
    record Result(int texts, double stepNanos, double ownNanos, double bytesPerStep) {
        double share() {
            return ownNanos / stepNanos;
        }
    }

    private Overhead() {}

    static Result measure(Subject subject, int[] text) {
        Result[] rounds = new Result[ROUNDS];
        for (int round = 0; round < WARM_ROUNDS; round++) round(subject, text); // the code must be compiled
        for (int round = 0; round < ROUNDS; round++) rounds[round] = round(subject, text);
        double bytes = Arrays.stream(rounds).mapToDouble(Result::bytesPerStep).min().orElseThrow();
        Arrays.sort(rounds, (a, b) -> Double.compare(a.share(), b.share()));
        Result middle = rounds[ROUNDS / 2];
        return new Result(TEXTS, middle.stepNanos, middle.ownNanos, bytes);
    }

    private static Result round(Subject subject, int[] text) {
        var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        double[] steps = new double[STEPS];
        double[] outside = new double[STEPS];
        Limits limits = new Limits(TEXTS, TOKENS + 16, 2 * TEXTS, (long) TEXTS * (TOKENS + 16));
        try (Scheduler scheduler = new Scheduler(subject.context(), subject.weights(), subject.policy(),
                BatchPolicy.PER_DEPTH, limits)) {
            for (int i = 0; i < TEXTS; i++) {
                scheduler.submit(new Request(Arrays.copyOfRange(text, i * 16, i * 16 + 8), TOKENS),
                        Throughput.NOBODY);
            }
            for (int i = 0; i < WARM; i++) scheduler.step();
            long bytes = threads.getCurrentThreadAllocatedBytes();
            for (int i = 0; i < STEPS; i++) {
                long kernels = subject.context().kernelNanos();
                long start = System.nanoTime();
                scheduler.step();
                steps[i] = System.nanoTime() - start;
                outside[i] = steps[i] - (subject.context().kernelNanos() - kernels);
            }
            double allocated = (double) (threads.getCurrentThreadAllocatedBytes() - bytes) / STEPS;
            return new Result(TEXTS, Spread.of(steps).median(), Spread.of(outside).median(), allocated);
        }
    }
}
