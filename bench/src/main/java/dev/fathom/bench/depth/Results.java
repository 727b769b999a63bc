package dev.fathom.bench.depth;

import java.util.List;
import java.util.Map;

import dev.fathom.bench.Machine;

/**
 * What a study found.
 *
 * @param bytes    of held-out text that the losses are of
 * @param tokens   generated per text for the speeds
 * @param rounds   of every speed; ways alternate within a round
 * @param training held-out nats per byte of the oracle, and training steps, by model
 */
record Results(Machine machine, String date, int bytes, int tokens, int rounds, List<Integer> batches,
               Map<String, Trained> training, List<Point> points, List<Traces.Served> traces,
               List<Bandwidth.Result> bandwidth, List<Skipped.Result> skipped,
               Overhead.Result overhead) {
    record Trained(int steps, double nats, long parameters) {}
}
