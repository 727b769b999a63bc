package dev.fathom.bench.depth;

import java.util.ArrayList;
import java.util.List;

import dev.fathom.Activation;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.HeadShape;
import dev.fathom.NormKind;
import dev.fathom.RopeStyle;
import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Head;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;
import dev.fathom.depth.SchedulerReport;
import dev.fathom.depth.Signal;
import dev.fathom.depth.SkippedKv;
import dev.fathom.depth.Stage;
import dev.fathom.depth.Threshold;

/**
 * Whether skipped work is skipped: 16 texts through a block that is passed up to three times, exits forced at a rate
 * and without a head, against the same at full depth. The model around the block has 16 words, so that its time is
 * that of the block.
 */
final class Skipped {
    private static final int TEXTS = 16;
    private static final int WORDS = 16;
    private static final int DEPTHS = 3;

    /**
     * @param depth passes per token, measured
     * @param time  per token, of that at full depth: median of the rounds; times 3 / depth it would be 1 if all of
     *              the skipped work were skipped
     */
    record Result(String block, String batching, double depth, double time, double least, double most) {
        double ofIdeal() {
            return time * DEPTHS / depth;
        }
    }

    private final Context context;
    private final String name;
    private final DepthModel model;

    /** Of a text: enough that a run is long beside whatever else the machine does. */
    private final int tokens;

    private Skipped(Context context, String name, int tokens, int layers, int hidden, int intermediate, int heads,
            int kvHeads) {
        this.context = context;
        this.name = name;
        this.tokens = tokens;
        BlockShape shape = BlockShape.builder(layers, hidden, intermediate, heads).kvHeads(kvHeads).headDim(64)
                .depths(DEPTHS).weightType(DType.BF16).kvType(DType.BF16).norm(NormKind.RMS, 1e-5f)
                .activation(Activation.SILU, true).rope(RopeStyle.HALF, 64).build();
        HeadShape head = new HeadShape(hidden, WORDS, DType.BF16, NormKind.RMS, 1e-5f);
        Buffer table = Filled.linear(context, head.weights());
        model = new DepthModel(new EmbedShape(WORDS, hidden, DType.BF16, true, 1), table,
                List.of(new Stage(shape, Filled.block(context, shape))), new Head(head, null, null, table));
    }

    static List<Result> measure(int rounds) {
        List<Result> results = new ArrayList<>();
        try (Context context = Context.cpu()) {
            for (Skipped block : List.of(
                    new Skipped(context, "2 layers, 256 wide, 3.1 MB", 1024, 2, 256, 768, 4, 2),
                    new Skipped(context, "4 layers, 960 wide, 79 MB", 64, 4, 960, 2560, 15, 5))) {
                for (BatchPolicy batching : List.of(BatchPolicy.PER_DEPTH, BatchPolicy.PER_TOKEN)) {
                    for (double rate : new double[] {0.2, 0.5, 0.8, 1}) {
                        results.add(block.measure(batching, rate, rounds));
                    }
                }
            }
        }
        return results;
    }

    private Result measure(BatchPolicy batching, double rate, int rounds) {
        ExitPolicy exits = ExitPolicy.of(SkippedKv.HOLES, new Signal.Forced(rate, 5, false),
                new Threshold.Fixed(0.5f), new ExitPoint(0, 0), new ExitPoint(0, 1));
        double[] times = new double[rounds];
        double depth = 0;
        for (int round = -1; round < rounds; round++) { // the first one warms up
            double full = run(ExitPolicy.never(), batching)[0];
            double[] some = run(exits, batching);
            if (round < 0) continue;
            times[round] = some[0] / full;
            depth = some[1];
        }
        Spread time = Spread.of(times);
        return new Result(name, batching.toString(), depth, time.median(), time.least(), time.most());
    }

    /** Seconds per token, and passes per token. */
    private double[] run(ExitPolicy policy, BatchPolicy batching) {
        Limits limits = new Limits(TEXTS, tokens + 1, TEXTS, (long) TEXTS * (tokens + 1));
        try (Scheduler scheduler = new Scheduler(context, model, policy, batching, limits)) {
            for (int i = 0; i < TEXTS; i++) {
                scheduler.submit(new Request(new int[] {i % WORDS}, tokens), Throughput.NOBODY);
            }
            scheduler.step();
            scheduler.resetReport();
            long start = System.nanoTime();
            scheduler.run();
            double seconds = (System.nanoTime() - start) * 1e-9;
            SchedulerReport report = scheduler.report();
            return new double[] {seconds / report.generated(),
                    (double) report.work().stages().getFirst().rows() / report.generated()};
        }
    }
}
