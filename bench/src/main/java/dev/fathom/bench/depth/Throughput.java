package dev.fathom.bench.depth;

import java.util.Arrays;
import java.util.List;

import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.Generation;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;
import dev.fathom.depth.SchedulerReport;
import dev.fathom.depth.StageReport;

/** Greedy decoding of prompts from held-out text, as many at once as the batch size says. */
final class Throughput {
    private static final int PROMPT = 32;
    static final Generation.Receiver NOBODY = new Generation.Receiver() {
        @Override
        public void token(Generation generation, int i) {}

        @Override
        public void ended(Generation generation) {}
    };

    private final int[] text;
    private final int tokens;

    Throughput(int[] text, int tokens) {
        this.text = text;
        this.tokens = tokens;
    }

    /** One round: tokens per second, and rows of the largest stage's calls. */
    record Round(double tokensPerSecond, double rowsPerCall) {}

    Round round(Subject subject, int batch) {
        Limits limits = new Limits(batch, PROMPT + tokens, Math.max(batch, 64), (long) batch * (PROMPT + tokens));
        try (Scheduler scheduler = new Scheduler(subject.context(), subject.weights(), subject.policy(),
                BatchPolicy.PER_DEPTH, limits)) {
            int requests = Math.max(2, batch);
            for (int i = 0; i < requests; i++) {
                int begin = (int) ((long) i * (text.length - PROMPT) / requests);
                scheduler.submit(new Request(Arrays.copyOfRange(text, begin, begin + PROMPT), tokens)
                        .withDepthCap(subject.depthCap()), NOBODY);
            }
            long start = System.nanoTime();
            scheduler.run();
            double seconds = (System.nanoTime() - start) * 1e-9;
            SchedulerReport report = scheduler.report();
            StageReport largest = report.work().stages().stream()
                    .reduce((a, b) -> a.rows() >= b.rows() ? a : b).orElseThrow();
            return new Round(report.generated() / seconds, largest.rowsPerCall());
        }
    }

    static Point.Speed summary(List<Round> rounds) {
        Spread rate = Spread.of(rounds.stream().mapToDouble(Round::tokensPerSecond).toArray());
        double rows = rounds.stream().mapToDouble(Round::rowsPerCall).average().orElse(0);
        return new Point.Speed(rate.median(), rate.least(), rate.most(), rows);
    }
}
