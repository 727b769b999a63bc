package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.depth.Generation.State;

/** What a receiver does in the middle of a step, and what it must not. */
class ReceiverTest {
    private final Context context = Context.cpu(1);
    private final DepthModel model = RandomModel.of(RandomModel.System.CYCLE, DType.F32, 1).pack(context);

    @AfterEach
    void close() {
        context.close();
    }

    private Scheduler scheduler() {
        return new Scheduler(context, model, ExitPolicy.never(), BatchPolicy.PER_DEPTH, new Limits(2, 64, 8, 128));
    }

    private static Request request(int tokens) {
        return new Request(new int[] {1, 2}, tokens);
    }

    /** Runs something at every token and at the end, and counts both. */
    private static final class Acting implements Generation.Receiver {
        final Runnable atToken;
        final Runnable atEnd;
        int tokens;
        int ends;

        Acting(Runnable atToken, Runnable atEnd) {
            this.atToken = atToken;
            this.atEnd = atEnd;
        }

        @Override
        public void token(Generation generation, int i) {
            tokens++;
            atToken.run();
        }

        @Override
        public void ended(Generation generation) {
            ends++;
            atEnd.run();
        }
    }

    private static void nothing() {}

    @Test
    void stepAndCloseAreRefusedInsideAStep() {
        try (Scheduler scheduler = scheduler()) {
            List<String> refusals = new ArrayList<>();
            Runnable tries = () -> {
                refusals.add(assertThrows(IllegalStateException.class, scheduler::step).getMessage());
                refusals.add(assertThrows(IllegalStateException.class, scheduler::close).getMessage());
            };
            Acting acting = new Acting(tries, tries);
            Generation g = scheduler.submit(request(5), acting);
            scheduler.run();
            assertEquals(State.COMPLETE, g.state());
            assertEquals(5, acting.tokens);
            assertEquals(1, acting.ends);
            assertEquals(12, refusals.size());
            assertEquals(1, refusals.stream().distinct().count());
            assertEquals("The scheduler is in use: by another thread, or by the step that called.", refusals.get(0));
        }
    }

    @Test
    void submitAndCancelAreAllowedInsideAStep() {
        try (Scheduler scheduler = scheduler()) {
            List<Generation> more = new ArrayList<>();
            Acting quiet = new Acting(ReceiverTest::nothing, ReceiverTest::nothing);
            Generation g = scheduler.submit(request(5), new Acting(() -> more.forEach(Generation::cancel),
                    () -> more.add(scheduler.submit(request(3), quiet))));
            scheduler.run();
            assertEquals(State.COMPLETE, g.state());
            assertEquals(State.COMPLETE, more.get(0).state());
        }
    }

    @Test
    void whatIsSubmittedWhenTheLastOneIsCancelledIsSomethingToDo() {
        try (Scheduler scheduler = scheduler()) {
            List<Generation> next = new ArrayList<>();
            Acting quiet = new Acting(ReceiverTest::nothing, ReceiverTest::nothing);
            scheduler.submit(request(5), new Acting(ReceiverTest::nothing,
                    () -> next.add(scheduler.submit(request(3), quiet)))).cancel();
            scheduler.run();
            assertEquals(State.COMPLETE, next.get(0).state());
        }
    }

    @Test
    void afterAReceiverThrewNothingGoesOnAndEveryTextEndsOnce() {
        for (boolean inToken : new boolean[] {true, false}) {
            Runnable throwing = () -> {
                throw new ArithmeticException("of the receiver");
            };
            Acting bad = new Acting(inToken ? throwing : ReceiverTest::nothing, throwing);
            Acting good = new Acting(ReceiverTest::nothing, ReceiverTest::nothing);
            Scheduler scheduler = scheduler();
            Generation first = scheduler.submit(request(2), bad);
            Generation second = scheduler.submit(request(9), good);
            Generation third = scheduler.submit(request(9), good);
            assertThrows(ArithmeticException.class, scheduler::run);
            assertEquals("A step failed: close the scheduler.",
                    assertThrows(IllegalStateException.class, scheduler::step).getMessage());
            if (inToken) assertThrows(ArithmeticException.class, scheduler::close);
            else scheduler.close();
            assertEquals(1, bad.ends);
            assertEquals(2, good.ends);
            assertEquals(inToken ? State.CANCELLED : State.COMPLETE, first.state());
            assertEquals(State.CANCELLED, second.state());
            assertEquals(State.CANCELLED, third.state());
            assertThrows(IllegalStateException.class, () -> scheduler.submit(request(1), good));
            scheduler.close();
        }
    }

    /** A text counts in the step in which it ends. */
    @Test
    void placesAreCountedWhileTheyAreInUse() {
        try (Scheduler scheduler = scheduler()) {
            Acting quiet = new Acting(ReceiverTest::nothing, ReceiverTest::nothing);
            for (int i = 0; i < 4; i++) scheduler.submit(request(1), quiet);
            scheduler.run();
            assertEquals(2, scheduler.report().occupancy());
            assertFalse(scheduler.step());
        }
    }

    /** Tokens that were taken in and then cancelled have no depth. */
    @Test
    void meanDepthIsThatOfTokensThatHaveOne() {
        try (Scheduler scheduler = scheduler()) {
            Acting quiet = new Acting(ReceiverTest::nothing, ReceiverTest::nothing);
            Generation g = scheduler.submit(request(30), quiet);
            for (int i = 0; i < 7; i++) scheduler.step();
            g.cancel();
            scheduler.run();
            assertTrue(scheduler.report().work().depths().get(2) > 0);
            assertEquals(3, scheduler.report().work().meanDepth());
        }
    }
}
