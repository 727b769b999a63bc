package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

import dev.fathom.BlockShape;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.NormKind;

/** Exits beside loops, routers, shared K and V and full pools: combinations that the systems of the papers lack. */
class ExitCombinationsTest {
    private static final ExitPoint SHALLOW = new ExitPoint(0, 0);

    private static final Generation.Receiver NOBODY = new Generation.Receiver() {
        @Override
        public void token(Generation generation, int i) {}

        @Override
        public void ended(Generation generation) {}
    };

    private static int[] text(int count, long seed) {
        return new SplittableRandom(seed).ints(count, 0, RandomModel.VOCAB).toArray();
    }

    /** A block that loops eight times. */
    private static DepthModel deep(Context context) {
        DepthModel model = RandomModel.of(RandomModel.System.CYCLE, DType.F32, 1).pack(context);
        BlockShape shape = BlockShape.builder(2, RandomModel.HIDDEN, 72, 3).kvHeads(1).headDim(16).depths(8)
                .norm(NormKind.RMS, RandomModel.EPS).build();
        return model.withStages(List.of(new Stage(shape, model.stages().get(0).weights())));
    }

    private static ExitPolicy always(SkippedKv skipped, ExitPoint... points) {
        return ExitPolicy.of(skipped, new Signal.Always(), new Threshold.Fixed(0), points);
    }

    /** A token that exits before a stage is not in its lists at all; those that are there see one another. */
    @ParameterizedTest
    @EnumSource(KvPolicy.class)
    void holesBeforeAStageThatLoops(KvPolicy kv) {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.RECURSIVE, DType.F32, 4).pack(context);
            List<Stage> stages = new ArrayList<>(model.stages());
            Stage loop = stages.get(1);
            stages.set(1, new Stage(loop.shape(), loop.weights(), loop.router(), kv));
            DepthModel other = model.withStages(stages);
            // Who comes to the loop takes every depth, so PER_DEPTH and those that store every depth are the same.
            ExitPolicy policy = ExitPolicy.of(SkippedKv.HOLES, new Signal.Forced(0.5, 5, false),
                    new Threshold.Fixed(0.5f), SHALLOW);
            int[] ids = text(60, 6);
            double[] expected = scores(context, model, policy, ids, 60);
            double[] actual = scores(context, other, policy, ids, 60);
            if (kv != KvPolicy.FIRST_DEPTH) assertArrayEquals(expected, actual);
            assertArrayEquals(actual, scores(context, other, policy, ids, 1), "the cut changes nothing");
            assertArrayEquals(actual, crowded(context, other, policy, ids), "nor do others");
        }
    }

    private static double[] scores(Context context, DepthModel model, ExitPolicy policy, int[] ids, int piece) {
        try (DepthSession session = new DepthSession(context, model, policy, new Limits(2, 64, 16, 128))) {
            return scores(session, session.open(), ids, piece);
        }
    }

    private static double[] scores(DepthSession session, int sequence, int[] ids, int piece) {
        double[] nll = new double[ids.length];
        Step step = session.step();
        for (int from = 0; from < ids.length; from += piece) {
            int[] part = Arrays.copyOfRange(ids, from, from + piece);
            step.clear().score(sequence, part, part);
            session.run(step);
            for (int i = 0; i < piece; i++) nll[from + i] = step.nll(i);
        }
        return nll;
    }

    private static double[] crowded(Context context, DepthModel model, ExitPolicy policy, int[] ids) {
        try (DepthSession session = new DepthSession(context, model, policy, new Limits(3, 64, 16, 192))) {
            Step step = session.step();
            step.add(session.open(), text(64, 7)).add(session.open(), text(64, 8));
            session.run(step);
            session.close(0);
            return scores(session, session.open(), ids, 20);
        }
    }

    /** What a router leaves out is no exit. */
    @Test
    void aliasesAreForTheStageOfTheExit() {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 9).pack(context);
            Stage loop = RandomModel.of(RandomModel.System.CYCLE, DType.F32, 10).pack(context).stages().get(0);
            DepthModel looping = model.withStages(List.of(model.stages().get(0), model.stages().get(1), loop));
            ExitPolicy policy = ExitPolicy.of(SkippedKv.ALIAS, new Signal.Margin(), new Threshold.Fixed(1),
                    new ExitPoint(2, 0));
            int[] ids = text(60, 11);
            assertArrayEquals(scores(context, looping, ExitPolicy.never(), ids, 20),
                    scores(context, looping, policy, ids, 20));
        }
    }

    @Test
    void copiesNeedStagesThatDoNotLoop() {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.RECURSIVE, DType.F32, 12).pack(context);
            ExitPolicy policy = always(SkippedKv.COPY, SHALLOW);
            assertEquals("COPY is for layers that do not loop; stage 1 has 3 depths",
                    assertThrows(IllegalArgumentException.class, () -> policy.check(model)).getMessage());
        }
    }

    @Test
    void anExitIsGivenOnce() {
        assertEquals("points must differ, got ExitPoint[stage=0, depth=0] twice",
                assertThrows(IllegalArgumentException.class, () -> always(SkippedKv.HOLES, SHALLOW, SHALLOW))
                        .getMessage());
    }

    /** Only of a token whose answer at the exit was computed can it be said whether full depth agrees. */
    @Test
    void aNewTokenHasNoAnswerOfItsPredecessors() {
        Flight flight = new Flight(1, 1);
        int slot = flight.add(0, 0);
        flight.exitArgmax[slot] = 7;
        flight.remove(slot);
        assertEquals(Flight.NONE, flight.exitArgmax[flight.add(0, 0)]);
    }

    /** t of a decaying threshold counts what was generated, whoever counts. */
    @Test
    void scoredTokensCountAsGenerated() {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 14).pack(context);
            // The threshold is 1.018 at t = 0 and 0.993 at t = 1: all but the first exit.
            ExitPolicy policy = ExitPolicy.of(SkippedKv.HOLES, new Signal.Always(),
                    new Threshold.DecayingScaled(1.087f, 1, 1), SHALLOW);
            try (DepthSession session = new DepthSession(context, model, policy, new Limits(1, 64))) {
                int sequence = session.open();
                Step step = session.step();
                int[] legs = new int[6];
                int[] ids = text(6, 15);
                for (int t = 0; t < 6; t++) {
                    step.clear();
                    if (t < 3) step.score(sequence, new int[] {ids[t]}, new int[] {0});
                    else step.add(sequence, ids[t]);
                    session.run(step);
                    legs[t] = step.legs(0);
                }
                assertArrayEquals(new int[] {3, 1, 1, 1, 1, 1}, legs);
            }
        }
    }

    @Test
    void promptsGoOnWhateverOthersHaveDeferred() {
        try (Context context = Context.cpu(1)) {
            ExitPolicy policy = always(SkippedKv.DEFER, SHALLOW).withMostWaiting(8);
            Limits limits = new Limits(4, 400, 4, 1600);
            try (Scheduler scheduler = new Scheduler(context, deep(context), policy, BatchPolicy.PER_DEPTH, limits)) {
                for (int i = 0; i < 3; i++) {
                    scheduler.submit(new Request(new int[] {i}, 390), NOBODY);
                    for (int k = 0; k < 5; k++) scheduler.step();
                }
                Generation late = scheduler.submit(new Request(text(20, 3), 1), NOBODY);
                for (int k = 0; k < 100; k++) scheduler.step();
                assertTrue(late.isDone(), "20 tokens, about 4 at a time through 8 passes; the others run longer");
            }
        }
    }

    /** Tokens that wait ride along as far as the tail, where their drafts have left K and V. */
    @Test
    void draftsThatRideAlongStopBeforeTheTail() {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.RECURSIVE, DType.F32, 16).pack(context);
            ExitPolicy drafting = ExitPolicy.drafting(SHALLOW, 4, 1);
            List<int[]> full = texts(context, model, ExitPolicy.never());
            for (ExitPolicy policy : List.of(drafting, drafting.withRideAlong(true))) {
                List<int[]> texts = texts(context, model, policy);
                for (int i = 0; i < full.size(); i++) assertArrayEquals(full.get(i), texts.get(i));
            }
        }
    }

    private static List<int[]> texts(Context context, DepthModel model, ExitPolicy policy) {
        try (Scheduler scheduler = new Scheduler(context, model, policy, BatchPolicy.PER_DEPTH,
                new Limits(3, 80, 5, 240))) {
            List<Generation> generations = new ArrayList<>();
            for (int i = 0; i < 12; i++) {
                generations.add(scheduler.submit(new Request(text(1 + i, i), 10 + 3 * i), NOBODY));
                scheduler.step();
            }
            scheduler.run();
            return generations.stream().map(Generation::tokens).toList();
        }
    }
}
