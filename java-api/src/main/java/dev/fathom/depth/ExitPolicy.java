package dev.fathom.depth;

import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * When a token may leave a model early, and what becomes of the passes it skips. A value: the same model runs under any
 * policy that fits it, and an unfit one is refused when it is put to use. Only single tokens that continue a sequence
 * exit, and tokens that are scored; prompts go through all passes. (The token that a decoder behind an encoder starts
 * with is no prompt.)
 *
 * @param points       where, in any order
 * @param signal       what is looked at there
 * @param thresholds   when that suffices: one for all points, or one per point
 * @param skipped      what the token leaves in the caches of passes that it skips
 * @param mostWaiting  tokens of a sequence that may wait for a deeper one ({@link SkippedKv#DEFER},
 *                     {@link SkippedKv#PROPAGATE}, {@link SkippedKv#COPY}); when so many do, all go on. Bounds memory
 *                     and latency, changes no result
 * @param rideAlong    whether waiting tokens of other sequences go along when one goes deep, since its call reads the
 *                     weights anyway. Changes no result
 * @param tail         so many last stages are run by all tokens: an exit skips what is left before them
 * @param verification whether answers of exits are checked; needs {@link SkippedKv#DEFER}
 */
public record ExitPolicy(List<ExitPoint> points, Signal signal, List<Threshold> thresholds, SkippedKv skipped,
                         int mostWaiting, boolean rideAlong, int tail, Verification verification) {
    private static final int MOST_WAITING = 16;

    public ExitPolicy {
        points = List.copyOf(Require.notNull("points", points));
        Set<ExitPoint> seen = new HashSet<>();
        for (ExitPoint point : points) Require.that(seen.add(point), "points must differ, got " + point + " twice");
        Require.notNull("signal", signal);
        thresholds = List.copyOf(Require.notNull("thresholds", thresholds));
        Require.notNull("skipped", skipped);
        Require.atLeast("mostWaiting", mostWaiting, 1);
        Require.atLeast("tail", tail, 0);
        Require.notNull("verification", verification);
        Require.that(thresholds.size() == 1 || thresholds.size() == points.size(),
                "thresholds must be 1, or one per exit point (" + points.size() + "), got " + thresholds.size());
        for (Threshold threshold : thresholds) {
            Require.that(signal.rises() || !threshold.needsProbability(), "a decaying or adaptive threshold needs a"
                    + " signal that rises to 1 with confidence, got " + signal);
            Require.that(skipped == SkippedKv.DEFER || !(threshold instanceof Threshold.Adaptive), "an adaptive"
                    + " threshold learns from deferred tokens: skipped must be DEFER, got " + skipped);
        }
        Require.that(skipped != SkippedKv.PROPAGATE && skipped != SkippedKv.COPY || tail == 0,
                skipped + " leaves K and V in all later stages: tail must be 0, got " + tail);
        Require.that(skipped != SkippedKv.DEFER || tail == 0 || signal instanceof Signal.Always,
                "drafts through a tail have a fixed depth: signal must be Always, got " + signal);
        boolean verifies = !(verification instanceof Verification.None);
        Require.that(!verifies || skipped == SkippedKv.DEFER,
                "verification needs deferred tokens: skipped must be DEFER, got " + skipped);
        Require.that(skipped != SkippedKv.DEFER || tail == 0 || verifies,
                "deferred tokens answer through the tail only as drafts: verification must not be None");
    }

    /** No exits: every token takes every pass that its routers let it take. */
    public static ExitPolicy never() {
        return new ExitPolicy(List.of(), new Signal.Always(), List.of(new Threshold.Fixed(1)), SkippedKv.HOLES,
                MOST_WAITING, false, 0, new Verification.None());
    }

    /** Exits with the K and V of skipped passes made exact later. */
    public static ExitPolicy deferring(Signal signal, Threshold threshold, ExitPoint... points) {
        return of(SkippedKv.DEFER, signal, threshold, points);
    }

    public static ExitPolicy of(SkippedKv skipped, Signal signal, Threshold threshold, ExitPoint... points) {
        return new ExitPolicy(List.of(points), signal, List.of(threshold), skipped, MOST_WAITING, true, 0,
                new Verification.None());
    }

    /**
     * Self-speculation: every token is answered at the point as a draft, {@code length} of them are verified together,
     * and the text is exactly that of the full model.
     *
     * @param tail as above: the stages that draft behind the point
     */
    public static ExitPolicy drafting(ExitPoint point, int length, int tail) {
        return new ExitPolicy(List.of(point), new Signal.Always(), List.of(new Threshold.Fixed(0.5f)),
                SkippedKv.DEFER, length, false, tail, new Verification.Exact());
    }

    /** One for all points, or one per point. */
    public ExitPolicy withThresholds(List<Threshold> thresholds) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    public ExitPolicy withSkipped(SkippedKv skipped) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    public ExitPolicy withMostWaiting(int mostWaiting) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    public ExitPolicy withRideAlong(boolean rideAlong) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    public ExitPolicy withTail(int tail) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    public ExitPolicy withVerification(Verification verification) {
        return new ExitPolicy(points, signal, thresholds, skipped, mostWaiting, rideAlong, tail, verification);
    }

    boolean exits() {
        return !points.isEmpty();
    }

    boolean verifies() {
        return !(verification instanceof Verification.None);
    }

    /** Whether tokens that exited go on later. */
    boolean waits() {
        return skipped == SkippedKv.DEFER || leaves();
    }

    /** Whether tokens that exited leave K and V that are not those of full depth. */
    boolean leaves() {
        return skipped == SkippedKv.PROPAGATE || skipped == SkippedKv.COPY;
    }

    /** @throws IllegalArgumentException if this policy does not fit the model */
    public void check(DepthModel model) {
        if (!exits()) return;
        List<Stage> stages = model.stages();
        Require.that(tail < stages.size(),
                "tail must leave a stage to exit from, got " + tail + " of " + stages.size() + " stages");
        int end = stages.size() - tail;
        for (ExitPoint point : points) {
            Require.that(point.stage() < end, "exit points must lie before the tail, in stages 0.." + (end - 1)
                    + ", got stage " + point.stage());
            Stage stage = stages.get(point.stage());
            Require.range("depth of an exit point in stage " + point.stage(), point.depth(), 0,
                    stage.shape().depths() - 1);
            Require.that(skipped != SkippedKv.COPY || stage.shape().depths() == 1,
                    "COPY is for layers that do not loop; for stage " + point.stage() + " use ALIAS");
            Require.that(point.stage() < end - 1 || point.depth() < stage.shape().depths() - 1,
                    "nothing is skipped by an exit behind stage " + point.stage() + ", depth " + point.depth());
            Require.that(stage.router() instanceof Router.Always
                            || stage.router() instanceof Router.ExpertChoice && signal instanceof Signal.Always,
                    "exits from a routed stage must be those of a fixed depth (Signal.Always with expert choice)");
            if (skipped == SkippedKv.ALIAS) {
                Require.that(point.stage() == end - 1,
                        "ALIAS needs all skipped passes in the stage of the exit, got an exit in stage "
                                + point.stage() + " of " + end);
            }
            for (int s = point.stage() + 1; s < end && skipped == SkippedKv.COPY; s++) {
                Require.that(stages.get(s).shape().depths() == 1, "COPY is for layers that do not loop; stage " + s
                        + " has " + stages.get(s).shape().depths() + " depths");
                Require.that(sameKv(stages.get(point.stage()), stages.get(s)), "COPY needs the same heads of K and V in"
                        + " stages " + point.stage() + " and " + s);
            }
            for (int s = point.stage(); s < end && skipped == SkippedKv.PROPAGATE; s++) {
                boolean skips = s > point.stage() || point.depth() < stages.get(s).shape().depths() - 1;
                Require.that(!skips || stages.get(s).propagation() != null,
                        "PROPAGATE needs packed key and value weights in stage " + s + ", which has none");
            }
        }
        if (signal instanceof Signal.Classifier classifier) {
            Require.equal("hiddenSize of the classifier", classifier.shape().hiddenSize(), "hiddenSize of the model",
                    model.hiddenSize());
            for (ExitPoint point : points) {
                Require.that(classifier.head(point) >= 0, "the classifier has no head for " + point);
            }
        }
    }

    private static boolean sameKv(Stage a, Stage b) {
        return a.shape().kvHeads() == b.shape().kvHeads() && a.shape().headDim() == b.shape().headDim();
    }
}
