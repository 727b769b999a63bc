package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.depth.Generation.State;

/** Random arrivals, exits, cancellations and pool sizes against what an obvious scheduler would have done. */
class SchedulerPropertyTest {
    /** Lists per stage of the expert-choice model: a first layer, a loop of three, a last layer. */
    private static final int[] LISTS = {1, 3, 1};
    private static final int DEPTHS = 3;

    /** A request, and what is known of it. */
    private static final class Watched implements Generation.Receiver {
        final Request request;
        Generation generation;
        boolean started;
        boolean cancelled;
        int tokens;
        int ends;
        int lastTokenStep;
        int steps;

        Watched(Request request) {
            this.request = request;
        }

        @Override
        public void token(Generation g, int i) {
            assertEquals(tokens++, i, "tokens come in order");
            lastTokenStep = steps;
        }

        @Override
        public void ended(Generation g) {
            ends++;
        }

        long pages(int stage) {
            return LISTS[stage] * Math.ceilDiv(request.length() + request.tokens(), (long) KvCache.PAGE);
        }
    }

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4, 5, 6})
    void doesWhatAnObviousSchedulerDoes(long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        BatchPolicy batching = BatchPolicy.values()[(int) (seed % BatchPolicy.values().length)];
        boolean drafts = seed % 2 == 0;
        ExitPolicy policy = drafts ? ExitPolicy.drafting(new ExitPoint(1, 0), 3, 1) : ExitPolicy.never();
        Limits limits = new Limits(1 + random.nextInt(5), 200, 8 + random.nextInt(30), 200 + random.nextInt(300));
        try (Context context = Context.cpu(2)) {
            DepthModel model = RandomModel.of(RandomModel.System.EXPERT, DType.BF16, seed).pack(context);
            List<Watched> all = new ArrayList<>();
            Map<Watched, int[]> alone = new HashMap<>();
            try (Scheduler one = new Scheduler(context, model, ExitPolicy.never(), BatchPolicy.PER_TOKEN,
                    new Limits(1, 200, 32, 200))) {
                for (int i = 0; i < 25; i++) {
                    int prompt = 1 + random.nextInt(random.nextInt(4) == 0 ? 100 : 20);
                    Watched watched = new Watched(new Request(random.ints(prompt, 0, RandomModel.VOCAB).toArray(),
                            1 + random.nextInt(60)).withStop(random.nextInt(3) == 0 ? random.nextInt(96) : -1));
                    Generation g = one.submit(watched.request, new Watched(watched.request));
                    one.run();
                    alone.put(watched, g.tokens());
                    all.add(watched);
                }
            }
            try (Scheduler scheduler = new Scheduler(context, model, policy, batching, limits)) {
                long[] pages = new long[LISTS.length];
                for (int s = 0; s < pages.length; s++) pages[s] = limits.entries(LISTS[s]) / KvCache.PAGE;
                run(scheduler, batching, limits, pages, all, random);
                assertEquals(0, scheduler.report().work().kvLiveBytes());
                assertEquals(0, scheduler.report().waiting());
                assertTrue(scheduler.report().occupancy() <= limits.sequences());
            }
            for (Watched w : all) {
                assertEquals(1, w.ends, "ended exactly once");
                assertEquals(w.tokens, w.generation.count());
                int[] expected = alone.get(w);
                if (w.generation.state() == State.CANCELLED) expected = Arrays.copyOf(expected, w.tokens);
                assertArrayEquals(expected, w.generation.tokens());
            }
        }
    }

    private static void run(Scheduler scheduler, BatchPolicy batching, Limits limits, long[] pages, List<Watched> all,
            SplittableRandom random) {
        int submitted = 0;
        boolean busy = true;
        while (busy || submitted < all.size()) {
            for (int i = random.nextInt(3); i > 0 && submitted < all.size(); i--, submitted++) {
                Watched w = all.get(submitted);
                w.generation = scheduler.submit(w.request, w);
            }
            if (submitted > 0 && random.nextInt(12) == 0) {
                Watched w = all.get(random.nextInt(submitted));
                w.cancelled |= !w.generation.isDone();
                w.generation.cancel();
            }
            List<Watched> before = running(all, submitted);
            busy = scheduler.step();
            check(batching, limits, pages, all.subList(0, submitted), before);
        }
    }

    private static List<Watched> running(List<Watched> all, int submitted) {
        return all.subList(0, submitted).stream().filter(w -> w.generation.state() == State.RUNNING).toList();
    }

    private static void check(BatchPolicy batching, Limits limits, long[] pages, List<Watched> all,
            List<Watched> before) {
        List<Watched> running = running(all, all.size());
        assertTrue(running.size() <= limits.sequences());
        for (int s = 0; s < pages.length; s++) {
            int stage = s;
            assertTrue(running.stream().mapToLong(w -> w.pages(stage)).sum() <= pages[s], "the pool is not overbooked");
        }
        Watched head = null;
        for (Watched w : all) {
            w.steps++;
            State state = w.generation.state();
            if (w.cancelled) assertTrue(w.generation.isDone(), "cancelled in the step behind it");
            w.started |= state == State.RUNNING || state == State.COMPLETE || state == State.STOPPED;
            if (state == State.WAITING && head == null) head = w;
            if (head != null) assertFalse(w.started && w != head, "first come, first served");
            boolean speaks = state == State.RUNNING && before.contains(w) && w.tokens > 0;
            if (speaks && batching == BatchPolicy.PER_DEPTH) {
                // A token per pass of the loop; drafts wait for three more and for being verified.
                assertTrue(w.steps - w.lastTokenStep <= 8 * DEPTHS, "every running text goes on");
            }
        }
        if (head == null || batching == BatchPolicy.STATIC) return;
        // The first in the queue waits for a reason: it did not fit beside those that ran when it was looked at.
        Watched waiting = head;
        List<Watched> beside = before;
        boolean places = beside.size() >= limits.sequences();
        boolean room = false;
        for (int s = 0; s < pages.length; s++) {
            int stage = s;
            room |= beside.stream().mapToLong(w -> w.pages(stage)).sum() + waiting.pages(s) > pages[s];
        }
        boolean others = running.stream().anyMatch(w -> !before.contains(w)); // taken by those before it in the queue
        boolean shortlived = all.stream().anyMatch(w -> w.generation.isDone() && w.steps <= 1);
        assertTrue(places || room || others || shortlived, "nobody waits without a reason");
    }

    @Test
    void requestsThatCanNeverFitAreRefused() {
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 9).pack(context);
            try (Scheduler scheduler = new Scheduler(context, model, ExitPolicy.never(), BatchPolicy.PER_DEPTH,
                    new Limits(2, 300, 16, 128))) {
                Watched watched = new Watched(new Request(new int[3], 1));
                assertEquals("a text may have 300 tokens, got a request for 200 and 101 more",
                        refused(scheduler, new Request(new int[200], 101), watched));
                assertEquals("the request may need 5 pages of K,V, there are 3",
                        refused(scheduler, new Request(new int[200], 100), watched));
                assertThrows(IllegalArgumentException.class,
                        () -> scheduler.submit(new Request(new int[] {96}, 1), watched));
                assertThrows(IllegalArgumentException.class, () -> scheduler.submit(null, watched));
                Generation g = scheduler.submit(new Request(new int[] {1}, 2), watched);
                scheduler.close();
                assertEquals(State.CANCELLED, g.state());
                assertEquals(1, watched.ends);
                assertThrows(IllegalStateException.class, scheduler::step);
                assertThrows(IllegalStateException.class, () -> scheduler.submit(watched.request, watched));
            }
            assertThrows(IllegalArgumentException.class, () -> new Scheduler(context, model, ExitPolicy.never(),
                    BatchPolicy.PER_DEPTH, new Limits(20, 300, 16, 128)));
        }
    }

    private static String refused(Scheduler scheduler, Request request, Watched watched) {
        return assertThrows(CapacityException.class, () -> scheduler.submit(request, watched)).getMessage();
    }

    /** What is compiled allocates nothing; how long that takes is the virtual machine's business. */
    @Test
    void steadyStepsAllocateNothing() {
        var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        ExitPolicy policy = ExitPolicy.deferring(new Signal.Margin(), new Threshold.Fixed(0.3f), new ExitPoint(0, 0));
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 10).pack(context);
            double least = Double.POSITIVE_INFINITY;
            for (int round = 0; round < 100 && least > 1; round++) {
                try (Scheduler scheduler = new Scheduler(context, model, policy, BatchPolicy.PER_DEPTH,
                        new Limits(8, 400, 16, 8 * 400))) {
                    for (int i = 0; i < 8; i++) {
                        Request request = new Request(new int[] {i}, 390);
                        scheduler.submit(request, new Watched(request));
                    }
                    for (int i = 0; i < 20; i++) scheduler.step();
                    long before = threads.getCurrentThreadAllocatedBytes();
                    for (int i = 0; i < 300; i++) scheduler.step();
                    least = Math.min(least, (threads.getCurrentThreadAllocatedBytes() - before) / 300.0);
                }
            }
            assertTrue(least <= 1, "bytes allocated per step: " + least);
        }
    }
}
