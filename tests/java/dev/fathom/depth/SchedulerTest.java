package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

import dev.fathom.Context;
import dev.fathom.DType;

/** The scheduler against each text alone, token by token: company, arrival and policy of the batch change nothing. */
class SchedulerTest {
    private static final Generation.Receiver NOBODY = new Generation.Receiver() {
        @Override
        public void token(Generation generation, int i) {}

        @Override
        public void ended(Generation generation) {}
    };

    private static final ExitPoint SHALLOW = new ExitPoint(0, 0);

    /** A model and the exits it runs under. */
    record Way(RandomModel.System system, ExitPolicy policy) {}

    static List<Way> ways() {
        Signal margin = new Signal.Margin();
        List<Way> ways = new ArrayList<>();
        for (RandomModel.System system : RandomModel.System.values()) ways.add(new Way(system, ExitPolicy.never()));
        for (SkippedKv skipped : List.of(SkippedKv.HOLES, SkippedKv.DEFER)) {
            ways.add(new Way(RandomModel.System.SHALLOW_DEEP,
                    ExitPolicy.of(skipped, margin, new Threshold.Fixed(0.1f), SHALLOW, new ExitPoint(1, 0))));
        }
        for (SkippedKv skipped : List.of(SkippedKv.HOLES, SkippedKv.ALIAS, SkippedKv.DEFER)) {
            ways.add(new Way(RandomModel.System.CYCLE_RELAXED,
                    ExitPolicy.of(skipped, new Signal.Entropy(), new Threshold.Fixed(3.6f), SHALLOW,
                            new ExitPoint(0, 1))));
        }
        ways.add(new Way(RandomModel.System.SHALLOW_DEEP, ExitPolicy.deferring(margin, new Threshold.Fixed(0.1f),
                SHALLOW).withVerification(new Verification.Exact()).withMostWaiting(5)));
        ways.add(new Way(RandomModel.System.SHALLOW_DEEP, ExitPolicy.deferring(margin, new Threshold.Fixed(0.1f),
                SHALLOW).withVerification(new Verification.CrossEntropy(2)).withMostWaiting(5)));
        ways.add(new Way(RandomModel.System.EXPERT, ExitPolicy.drafting(new ExitPoint(1, 0), 4, 1)));
        ways.add(new Way(RandomModel.System.RECURSIVE, ExitPolicy.of(SkippedKv.HOLES, margin, new Threshold.Fixed(0.1f),
                new ExitPoint(1, 0)).withTail(1)));
        return ways;
    }

    static Stream<Arguments> waysAndBatches() {
        return ways().stream().flatMap(way -> Arrays.stream(BatchPolicy.values())
                .map(batching -> Arguments.of(way, batching)));
    }

    @ParameterizedTest
    @MethodSource("waysAndBatches")
    @DisplayName("6: continuous depth-wise batching: a request has the same answer in any company")
    void companyChangesNothing(Way way, BatchPolicy batching) {
        RandomModel random = RandomModel.of(way.system, DType.BF16, 71);
        List<Request> requests = requests(way.policy, 14, 72);
        try (Context one = Context.cpu(1); Context three = Context.cpu(3)) {
            List<int[]> alone = new ArrayList<>();
            try (Scheduler scheduler = new Scheduler(one, random.pack(one), way.policy, BatchPolicy.PER_TOKEN,
                    new Limits(1, 128, 16, 128))) {
                for (Request request : requests) alone.add(run(scheduler, request).tokens());
            }
            try (Scheduler scheduler = new Scheduler(three, random.pack(three), way.policy, batching,
                    new Limits(4, 128, 7, 300))) {
                List<Generation> together = arriving(scheduler, requests, 73);
                for (int i = 0; i < requests.size(); i++) {
                    assertArrayEquals(alone.get(i), together.get(i).tokens(), "request " + i);
                    assertTrue(together.get(i).isDone());
                }
                assertEquals(0, scheduler.report().work().kvLiveBytes());
                assertFalse(scheduler.step());
            }
        }
    }

    /** Where several stages loop, texts that come at different times share calls only if all take a stage together. */
    @Test
    void thePolicyOfAModel() {
        assertThrows(IllegalArgumentException.class, () -> BatchPolicy.of(null));
        try (Context context = Context.cpu(1)) {
            for (RandomModel.System one : List.of(RandomModel.System.VANILLA, RandomModel.System.RECURSIVE)) {
                assertEquals(BatchPolicy.PER_DEPTH, BatchPolicy.of(RandomModel.of(one, DType.F32, 3).pack(context)));
            }
            DepthModel sequence = RandomModel.of(RandomModel.System.RECURSIVE_SEQUENCE, DType.F32, 3).pack(context);
            assertEquals(BatchPolicy.PER_TOKEN, BatchPolicy.of(sequence));
            assertTrue(callsFor(context, sequence, BatchPolicy.PER_TOKEN)
                    < callsFor(context, sequence, BatchPolicy.PER_DEPTH));
        }
    }

    /** Calls of all stages for four texts, each of which comes a step after the one before it. */
    private static long callsFor(Context context, DepthModel model, BatchPolicy batching) {
        try (Scheduler scheduler = new Scheduler(context, model, ExitPolicy.never(), batching,
                new Limits(4, 64, 16, 256))) {
            for (int i = 0; i < 4; i++) {
                scheduler.submit(new Request(new int[] {i}, 40), NOBODY);
                scheduler.step();
            }
            scheduler.run();
            return scheduler.report().work().stages().stream().mapToLong(StageReport::calls).sum();
        }
    }

    private static List<Request> requests(ExitPolicy policy, int count, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        return IntStream.range(0, count).mapToObj(i -> {
            int[] prompt = random.ints(1 + random.nextInt(30), 0, RandomModel.VOCAB).toArray();
            Request request = new Request(prompt, 1 + random.nextInt(40));
            if (random.nextInt(4) == 0) request = request.withStop(random.nextInt(RandomModel.VOCAB));
            if (!policy.verifies() && random.nextInt(3) == 0) {
                request = request.withSampling(new Sampling(0.9f, 20, random.nextLong()));
            }
            return random.nextInt(4) == 0 && !policy.verifies() ? request.withDepthCap(1 + random.nextInt(2)) : request;
        }).toList();
    }

    private static Generation run(Scheduler scheduler, Request request) {
        Generation generation = scheduler.submit(request, NOBODY);
        scheduler.run();
        return generation;
    }

    /** Submits the requests while earlier ones run. */
    private static List<Generation> arriving(Scheduler scheduler, List<Request> requests, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        List<Generation> generations = new ArrayList<>();
        while (generations.size() < requests.size()) {
            for (int i = random.nextInt(3); i > 0 && generations.size() < requests.size(); i--) {
                generations.add(scheduler.submit(requests.get(generations.size()), NOBODY));
            }
            for (int i = random.nextInt(4); i > 0; i--) scheduler.step();
        }
        scheduler.run();
        return generations;
    }

    // ---- lossless --------------------------------------------------------------------------------------------------

    static List<Way> losslessWays() {
        ExitPolicy rollback = ExitPolicy.deferring(new Signal.Margin(), new Threshold.Fixed(0.05f), SHALLOW)
                .withVerification(new Verification.Exact());
        return List.of(
                new Way(RandomModel.System.SHALLOW_DEEP, rollback),
                new Way(RandomModel.System.SHALLOW_DEEP, rollback.withMostWaiting(3).withRideAlong(false)),
                new Way(RandomModel.System.SHALLOW_DEEP, ExitPolicy.drafting(new ExitPoint(1, 0), 6, 0)),
                new Way(RandomModel.System.CYCLE, ExitPolicy.drafting(SHALLOW, 4, 0)),
                new Way(RandomModel.System.EXPERT, ExitPolicy.drafting(new ExitPoint(1, 0), 5, 1)),
                new Way(RandomModel.System.EXPERT_SHARED_KV, ExitPolicy.drafting(new ExitPoint(1, 1), 5, 1)),
                // Without verification, but with a threshold that no signal reaches.
                new Way(RandomModel.System.CYCLE, ExitPolicy.of(SkippedKv.HOLES, new Signal.Margin(),
                        new Threshold.Fixed(1), SHALLOW)));
    }

    /** 10,000 tokens of each way are those of greedy decoding at full depth. */
    @ParameterizedTest
    @MethodSource("losslessWays")
    @DisplayName("lossless ways lose nothing in 10,000 tokens")
    void losslessWaysLoseNothing(Way way) {
        RandomModel random = RandomModel.of(way.system, DType.BF16, 81);
        SplittableRandom seeds = new SplittableRandom(82);
        try (Context context = Context.cpu(2)) {
            DepthModel model = random.pack(context);
            Limits limits = new Limits(16, 224, 64, 16 * 224);
            List<Request> requests = IntStream.range(0, 52)
                    .mapToObj(i -> new Request(seeds.ints(1 + i % 20, 0, RandomModel.VOCAB).toArray(), 200)).toList();
            List<int[]> full = new ArrayList<>();
            try (Scheduler scheduler = new Scheduler(context, model, ExitPolicy.never(), BatchPolicy.PER_DEPTH,
                    limits)) {
                for (Generation g : submitAll(scheduler, requests)) full.add(g.tokens());
            }
            try (Scheduler scheduler = new Scheduler(context, model, way.policy, BatchPolicy.PER_DEPTH, limits)) {
                List<Generation> generations = submitAll(scheduler, requests);
                for (int i = 0; i < requests.size(); i++) {
                    assertArrayEquals(full.get(i), generations.get(i).tokens(), "request " + i);
                }
                SchedulerReport report = scheduler.report();
                assertEquals(52 * 200, report.generated());
                if (way.policy.verifies()) {
                    assertTrue(report.drafted() > 1000, "drafted " + report.drafted());
                    assertTrue(report.rejected() > 50, "some drafts must be wrong, got " + report.rejected());
                }
            }
        }
    }

    private static List<Generation> submitAll(Scheduler scheduler, List<Request> requests) {
        List<Generation> generations = requests.stream().map(request -> scheduler.submit(request, NOBODY)).toList();
        scheduler.run();
        return generations;
    }
}
