package dev.fathom.bench.depth;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.Generation;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;
import dev.fathom.depth.SchedulerReport;

/**
 * Requests that arrive over time, with prompts and texts of different lengths, served by one scheduler: the same trace
 * for every way of serving.
 */
final class Traces {
    private static final int PLACES = 32;
    private static final int LONGEST = 384;

    /** @param rate requests per second; infinite: all are there at once */
    record Trace(String name, double rate, double[] arrival, List<Request> requests) {
        static Trace of(String name, double rate, int count, int[] text, long seed) {
            SplittableRandom random = new SplittableRandom(seed);
            double[] arrival = new double[count];
            List<Request> requests = new ArrayList<>();
            double at = 0;
            for (int i = 0; i < count; i++) {
                if (Double.isFinite(rate)) at += -Math.log(1 - random.nextDouble()) / rate;
                arrival[i] = at;
                int prompt = 16 + random.nextInt(113);
                int tokens = 32 + random.nextInt(LONGEST - 128 - 32);
                int begin = random.nextInt(text.length - prompt);
                requests.add(new Request(Arrays.copyOfRange(text, begin, begin + prompt), tokens));
            }
            return new Trace(name, rate, arrival, requests);
        }

        long tokens() {
            return requests.stream().mapToLong(Request::tokens).sum();
        }
    }

    /**
     * One way of serving a trace.
     *
     * @param tokensPerSecond of the whole trace
     * @param firstToken      seconds from arrival to the first token: median, 95th percentile
     * @param perToken        seconds per token behind the first: median, 95th percentile
     */
    record Served(String trace, String model, String setting, String batching, double tokensPerSecond,
                  double firstToken50, double firstToken95, double perToken50, double perToken95, double occupancy,
                  double rowsPerStep) {}

    private Traces() {}

    static Served serve(Subject subject, BatchPolicy batching, Trace trace) throws InterruptedException {
        Limits limits = new Limits(PLACES, LONGEST, 128, (long) PLACES * LONGEST);
        int count = trace.requests.size();
        Generation[] generations = new Generation[count];
        try (Scheduler scheduler = new Scheduler(subject.context(), subject.weights(), subject.policy(), batching,
                limits)) {
            long start = System.nanoTime();
            int submitted = 0;
            while (true) {
                double now = (System.nanoTime() - start) * 1e-9;
                while (submitted < count && trace.arrival[submitted] <= now) {
                    generations[submitted] = scheduler.submit(trace.requests.get(submitted), Throughput.NOBODY);
                    submitted++;
                }
                if (scheduler.step()) continue;
                if (submitted == count) break;
                Thread.sleep(0, 200_000); // nothing to do until the next request arrives
            }
            double seconds = (System.nanoTime() - start) * 1e-9;
            double[] first = new double[count];
            double[] each = new double[count];
            for (int i = 0; i < count; i++) {
                Generation g = generations[i];
                first[i] = g.firstTokenNanos() * 1e-9;
                each[i] = (g.totalNanos() - g.firstTokenNanos()) * 1e-9 / Math.max(1, g.count() - 1);
            }
            SchedulerReport report = scheduler.report();
            return new Served(trace.name, subject.model(), subject.setting(), batching.name(),
                    trace.tokens() / seconds, percentile(first, 50), percentile(first, 95), percentile(each, 50),
                    percentile(each, 95), report.occupancy(), report.rowsPerStep());
        }
    }

    private static double percentile(double[] values, int percent) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return sorted[Math.min(sorted.length - 1, sorted.length * percent / 100)];
    }
}
