package dev.fathom.bench.depth;

import java.util.List;

import dev.fathom.Activation;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.HeadShape;
import dev.fathom.LinearShape;
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
import dev.fathom.depth.Signal;
import dev.fathom.depth.Stage;
import dev.fathom.depth.StageReport;
import dev.fathom.depth.Threshold;

/**
 * FREE where it is meant for: one text, weights far beyond the caches. Random weights of TinyLlama's shape, exits
 * forced at a rate; the speed-up beside that of the cost model, which counts bytes of weights only:
 * {@code full / (shallow + head + (deep + head) / m)}, m tokens per deep call, and the full model reads its head once.
 */
final class Bandwidth {
    private static final int HIDDEN = 2048;
    private static final int SHALLOW = 3;
    private static final int DEEP = 9;
    private static final int VOCABULARY = 32000;

    /**
     * @param rate      share of the tokens that exit
     * @param perCall   tokens per deep call, measured
     * @param predicted speed-up by the cost model
     * @param measured  speed-up: median of the rounds, each against the full model in the same round
     */
    record Result(double rate, double perCall, double predicted, double measured, double least, double most,
                  double fullTokensPerSecond) {}

    private final DepthModel model;
    private final Context context;
    private final double shallowBytes;
    private final double deepBytes;
    private final double headBytes;

    Bandwidth(Context context) {
        this.context = context;
        Stage shallow = stage(SHALLOW);
        Stage deep = stage(DEEP);
        HeadShape head = new HeadShape(HIDDEN, VOCABULARY, DType.BF16, NormKind.RMS, 1e-5f);
        LinearShape words = head.weights();
        Buffer table = Filled.linear(context, words);
        model = new DepthModel(new EmbedShape(VOCABULARY, HIDDEN, DType.BF16, true, 1), table, List.of(shallow, deep),
                new Head(head, null, null, table));
        shallowBytes = shallow.weights().bytes();
        deepBytes = deep.weights().bytes();
        headBytes = table.bytes();
    }

    private Stage stage(int layers) {
        BlockShape shape = BlockShape.builder(layers, HIDDEN, 5632, 32).kvHeads(4).headDim(64).weightType(DType.BF16)
                .kvType(DType.BF16).norm(NormKind.RMS, 1e-5f).activation(Activation.SILU, true)
                .rope(RopeStyle.HALF, 64).build();
        return new Stage(shape, Filled.block(context, shape));
    }

    Result measure(double rate, int rounds, int tokens) {
        ExitPolicy policy = ExitPolicy.deferring(new Signal.Forced(rate, 7, true), new Threshold.Fixed(0.5f),
                new ExitPoint(0, 0)).withMostWaiting(64);
        double[] speedUps = new double[rounds];
        double[] fullRates = new double[rounds];
        double perCall = 0;
        for (int round = 0; round < rounds; round++) {
            double[] full = run(ExitPolicy.never(), tokens);
            double[] free = run(policy, tokens);
            speedUps[round] = free[0] / full[0];
            fullRates[round] = full[0];
            perCall = free[1];
        }
        Spread speedUp = Spread.of(speedUps);
        double all = shallowBytes + deepBytes + headBytes;
        double predicted = all / (shallowBytes + headBytes + (deepBytes + headBytes) / perCall);
        return new Result(rate, perCall, predicted, speedUp.median(), speedUp.least(), speedUp.most(),
                Spread.of(fullRates).median());
    }

    /** Tokens per second and rows of a deep call, behind a short prompt. */
    private double[] run(ExitPolicy policy, int tokens) {
        try (Scheduler scheduler = new Scheduler(context, model, policy, BatchPolicy.PER_DEPTH,
                new Limits(1, tokens + 8, 8, tokens + 8))) {
            scheduler.submit(new Request(new int[] {1}, tokens), Throughput.NOBODY);
            scheduler.step();
            scheduler.resetReport();
            long start = System.nanoTime();
            scheduler.run();
            double seconds = (System.nanoTime() - start) * 1e-9;
            StageReport deep = scheduler.report().work().stages().get(1);
            return new double[] {(tokens - 1) / seconds, deep.rowsPerCall()};
        }
    }
}
