package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.SplittableRandom;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

import dev.fathom.Context;
import dev.fathom.DType;

/** Which policies fit together and fit a model, and the arithmetic of thresholds. */
class ExitPolicyTest {
    private static final ExitPoint FIRST = new ExitPoint(0, 0);
    private static final Threshold HALF = new Threshold.Fixed(0.5f);

    private static void refused(String sentence, Executable code) {
        assertEquals(sentence, assertThrows(IllegalArgumentException.class, code).getMessage());
    }

    @Test
    void combinationsThatMakeNoSenseAreRefused() {
        Signal margin = new Signal.Margin();
        refused("a decaying or adaptive threshold needs a signal that rises to 1 with confidence, got Entropy[]",
                () -> ExitPolicy.deferring(new Signal.Entropy(), new Threshold.Decaying(0.9f, 4, 100), FIRST));
        refused("an adaptive threshold learns from deferred tokens: skipped must be DEFER, got HOLES",
                () -> ExitPolicy.of(SkippedKv.HOLES, margin, new Threshold.Adaptive(0.9f, 0.4f), FIRST));
        refused("verification needs deferred tokens: skipped must be DEFER, got PROPAGATE",
                () -> ExitPolicy.of(SkippedKv.PROPAGATE, margin, HALF, FIRST)
                        .withVerification(new Verification.Exact()));
        refused("deferred tokens answer through the tail only as drafts: verification must not be None",
                () -> ExitPolicy.of(SkippedKv.DEFER, new Signal.Always(), HALF, FIRST).withTail(1));
        refused("drafts through a tail have a fixed depth: signal must be Always, got Margin[]",
                () -> ExitPolicy.of(SkippedKv.DEFER, margin, HALF, FIRST).withTail(1));
        refused("PROPAGATE leaves K and V in all later stages: tail must be 0, got 1",
                () -> ExitPolicy.of(SkippedKv.PROPAGATE, margin, HALF, FIRST).withTail(1));
        refused("mostWaiting must be at least 1, got 0", () -> ExitPolicy.never().withMostWaiting(0));
        refused("tail must be at least 0, got -1", () -> ExitPolicy.never().withTail(-1));
        refused("stage must be at least 0, got -1", () -> new ExitPoint(-1, 0));
        refused("depth must be at least 0, got -2", () -> new ExitPoint(0, -2));
        refused("signal must not be null", () -> ExitPolicy.deferring(null, HALF, FIRST));
        refused("value must be a number, got NaN", () -> new Threshold.Fixed(Float.NaN));
        refused("length must be at least 1, got 0", () -> new Threshold.Decaying(0.9f, 4, 0));
        refused("tau must be a finite number >= 0, got -1.0", () -> new Threshold.DecayingScaled(0.9f, -1, 5));
        refused("confidence must be in 0..1, got 1.0", () -> new Threshold.Adaptive(0.5f, 1));
        refused("rate must be in 0..1, got 1.5", () -> new Signal.Forced(1.5, 1, false));
        refused("limit must be a number >= 0, got -1.0", () -> new Verification.CrossEntropy(-1));
    }

    @Test
    void policiesThatDoNotFitTheModelAreRefused() {
        try (Context context = Context.cpu(1)) {
            DepthModel deep = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 1).pack(context);
            DepthModel loop = RandomModel.of(RandomModel.System.CYCLE, DType.F32, 1).pack(context);
            DepthModel routed = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 1).pack(context);
            Signal margin = new Signal.Margin();
            refused("exit points must lie before the tail, in stages 0..2, got stage 3",
                    () -> holes(margin, new ExitPoint(3, 0)).check(deep));
            refused("depth of an exit point in stage 0 must be in 0..0, got 1",
                    () -> holes(margin, new ExitPoint(0, 1)).check(deep));
            refused("nothing is skipped by an exit behind stage 2, depth 0",
                    () -> holes(margin, new ExitPoint(2, 0)).check(deep));
            refused("nothing is skipped by an exit behind stage 0, depth 2",
                    () -> holes(margin, new ExitPoint(0, 2)).check(loop));
            refused("tail must leave a stage to exit from, got 1 of 1 stages",
                    () -> holes(margin, FIRST).withTail(1).check(loop));
            refused("ALIAS needs all skipped passes in the stage of the exit, got an exit in stage 0 of 3",
                    () -> holes(margin, FIRST).withSkipped(SkippedKv.ALIAS).check(deep));
            refused("PROPAGATE needs packed key and value weights in stage 1, which has none",
                    () -> holes(margin, FIRST).withSkipped(SkippedKv.PROPAGATE).check(deep));
            refused("exits from a routed stage must be those of a fixed depth (Signal.Always with expert choice)",
                    () -> holes(margin, new ExitPoint(1, 0)).withTail(1).check(routed));
            assertDoesNotThrow(() -> ExitPolicy.drafting(new ExitPoint(1, 0), 4, 1).check(routed));
            refused("a session does not verify exits: verification must be None; use a Scheduler",
                    () -> new DepthSession(context, routed, ExitPolicy.drafting(new ExitPoint(1, 0), 4, 1),
                            new Limits(1, 10)).close());
        }
    }

    private static ExitPolicy holes(Signal signal, ExitPoint point) {
        return ExitPolicy.of(SkippedKv.HOLES, signal, HALF, point);
    }

    @Test
    void thresholdsDecay() {
        Threshold.Decaying calm = new Threshold.Decaying(0.8f, 4, 10);
        Threshold.DecayingScaled free = new Threshold.DecayingScaled(0.8f, 4, 10);
        for (int t = 0; t < 20; t++) {
            assertEquals(0.72 + 0.1 * Math.exp(-0.4 * t), calm.at(t), 1e-6);
            assertEquals(0.72 + 0.08 * Math.exp(-0.4 * (t + 1)), free.at(t), 1e-6);
        }
        assertEquals(1, new Threshold.Decaying(1.2f, 4, 10).at(0));
        assertEquals(0, new Threshold.Decaying(-1, 4, 10).at(0));
    }

    @Test
    void decayingThresholdsAreThoseOfTheOracle() throws IOException {
        Path file = Path.of(System.getProperty("fathom.root"), "tests", "golden", "exits", "decay.json");
        int compared = 0;
        for (JsonNode test : new ObjectMapper().readTree(file.toFile()).get("cases")) {
            float start = (float) test.get("start").asDouble();
            float tau = (float) test.get("tau").asDouble();
            int length = test.get("max_tokens").asInt();
            boolean calm = test.get("form").asText().equals("calm");
            for (int i = 0; i < test.get("t").size(); i++) {
                int t = test.get("t").get(i).asInt();
                if (!calm && t == 0) continue; // counts the token itself
                float actual = calm ? new Threshold.Decaying(start, tau, length).at(t)
                        : new Threshold.DecayingScaled(start, tau, length).at(t - 1);
                assertEquals(test.get("threshold").get(i).asDouble(), actual, 1e-6);
                compared++;
            }
        }
        assertTrue(compared > 30);
    }

    @Test
    void forcedExitsHaveTheirRate() {
        for (double rate : new double[] {0, 0.25, 0.9, 1}) {
            Signal.Forced forced = new Signal.Forced(rate, 5, false);
            int exits = 0;
            for (int position = 0; position < 100_000; position++) exits += (int) forced.at(position);
            assertEquals(rate, exits / 100_000.0, 0.01);
        }
    }

    @Test
    void logGammaMatchesFactorials() {
        double log = 0;
        for (int n = 1; n < 60; n++) {
            assertEquals(log, BetaMixture.logGamma(n), 1e-11 * Math.max(1, log), "n " + n);
            log += Math.log(n);
        }
        assertEquals(0.5 * Math.log(Math.PI), BetaMixture.logGamma(0.5), 1e-12);
    }

    @Test
    void adaptiveThresholdSeparatesTheClasses() {
        SplittableRandom random = new SplittableRandom(3);
        BetaMixture mixture = new BetaMixture(0.77f, 0.4f);
        assertEquals(0.77f, mixture.fit(), "nothing to go by");
        for (int i = 0; i < 19; i++) mixture.record(0.2f + 0.01f * i, false);
        for (int i = 0; i < 500; i++) mixture.record(1 - 0.4f * (float) random.nextDouble(), true);
        assertEquals(0.77f, mixture.fit(), "too few that disagree");
        for (int i = 0; i < 500; i++) mixture.record(0.4f * (float) random.nextDouble(), false);
        float threshold = mixture.fit();
        assertTrue(threshold > 0.4f && threshold < 0.65f, "threshold " + threshold);
        BetaMixture flat = new BetaMixture(0.5f, 0.4f);
        for (int i = 0; i < 100; i++) flat.record(0.5f, i % 2 == 0);
        assertEquals(0.5f, flat.fit(), "no spread");
    }
}
