package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;

/** Nothing done too late, or from another thread, is worse than an exception. */
class LifetimeTest {
    private static final NormShape SHAPE = new NormShape(NormKind.RMS, 256, 1e-5f);
    private static final long ROW = 256 * 4;
    /** A call with this many rows takes milliseconds. */
    private static final long MANY = 20_000;

    @Test
    void closedContext() {
        Context context = Context.cpu(1);
        Buffer x = context.allocate(ROW);
        context.close();
        context.close();
        assertTrue(context.isClosed());
        assertEquals(", closed", context.toString().substring(context.toString().lastIndexOf(',')));
        try (Arena arena = Arena.ofConfined()) {
            Buffer y = context.allocate(arena, ROW);
            assertThrows(IllegalStateException.class, () -> context.norm(SHAPE, 1, null, y, null, null, y));
        }
        assertThrows(IllegalStateException.class, () -> context.allocate(ROW));
        assertThrows(IllegalStateException.class, context::synchronize);
        assertThrows(IllegalStateException.class, () -> context.kvBytes(new KvShape(1, 1, 64, DType.F32, 64)));
        assertThrows(IllegalStateException.class, () -> x.getFloat(0), "its memory died with it");
    }

    @Test
    void closedArena() {
        try (Context context = Context.cpu(1)) {
            for (long bytes : new long[] {ROW, 4 << 20}) { // from the arena itself, and mapped
                Arena arena = Arena.ofShared();
                Buffer x = context.allocate(arena, bytes);
                context.norm(SHAPE, 1, null, x, null, null, x);
                arena.close();
                assertThrows(IllegalStateException.class, () -> context.norm(SHAPE, 1, null, x, null, null, x));
                assertThrows(IllegalStateException.class, () -> context.allocate(arena, bytes));
            }
        }
    }

    @Test
    void memoryOfAnotherThread() throws InterruptedException {
        try (Context context = Context.cpu(1); Arena arena = Arena.ofConfined()) {
            Buffer x = context.allocate(arena, ROW);
            Throwable thrown = inThread(() -> context.norm(SHAPE, 1, null, x, null, null, x));
            assertInstanceOf(WrongThreadException.class, thrown);
        }
    }

    @Test
    void wrappedMemoryStaysTheCallers() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment memory = arena.allocate(ROW, 4);
            try (Context context = Context.cpu(1)) {
                assumeFalse(context.info().cuda()); // its kernels do not reach it
                Buffer x = context.wrap(memory);
                context.norm(SHAPE, 1, null, x, null, null, x);
            }
            assertDoesNotThrow(() -> memory.fill((byte) 0));
        }
    }

    @Test
    void heapMemoryIsRefused() {
        try (Context context = Context.cpu(1)) {
            String message = assertThrows(IllegalArgumentException.class,
                    () -> context.wrap(MemorySegment.ofArray(new float[256]))).getMessage();
            assertTrue(message.contains("must be native memory"), message);
        }
    }

    @Test
    void secondThreadIsRefusedDuringACall() {
        assertTimeoutPreemptively(Duration.ofSeconds(30), () -> {
            try (Context context = Context.cpu(1)) {
                Buffer x = context.allocate(MANY * ROW);
                Thread first = Thread.ofPlatform().start(() -> {
                    while (!Thread.currentThread().isInterrupted()) {
                        try {
                            context.norm(SHAPE, MANY, null, x, null, null, x);
                        } catch (IllegalStateException e) {
                            // the second thread was in; its call is as good as ours
                        }
                    }
                });
                String message = null;
                while (message == null) {
                    try {
                        context.synchronize();
                    } catch (IllegalStateException e) {
                        message = e.getMessage();
                    }
                }
                first.interrupt();
                first.join();
                assertTrue(message.contains("Another call is running"), message);
            }
        });
    }

    @Test
    void contextsAreIndependent() throws InterruptedException {
        Thread[] threads = new Thread[4];
        AtomicReference<Throwable> failure = new AtomicReference<>();
        for (int i = 0; i < threads.length; i++) {
            threads[i] = Thread.ofPlatform().start(() -> {
                try (Context context = Context.cpu(2)) {
                    Buffer x = context.allocate(64 * ROW);
                    for (int call = 0; call < 200; call++) context.norm(SHAPE, 64, null, x, null, null, x);
                } catch (Throwable e) {
                    failure.set(e);
                }
            });
        }
        for (Thread thread : threads) thread.join();
        assertEquals(null, failure.get());
    }

    @Test
    void closeDuringCalls() {
        assertTimeoutPreemptively(Duration.ofSeconds(30), () -> {
            for (int round = 0; round < 20; round++) {
                Context context = Context.cpu(2);
                Buffer x = context.allocate(MANY * ROW);
                AtomicReference<Throwable> thrown = new AtomicReference<>();
                Thread caller = Thread.ofPlatform().start(() -> {
                    try {
                        while (true) context.norm(SHAPE, 100, null, x, null, null, x);
                    } catch (Throwable e) {
                        thrown.set(e);
                    }
                });
                while (!context.isClosed()) {
                    try {
                        context.close();
                    } catch (IllegalStateException e) {
                        assertTrue(e.getMessage().contains("in use"), e.getMessage());
                    }
                }
                caller.join();
                assertInstanceOf(IllegalStateException.class, thrown.get());
            }
        });
    }

    private static Throwable inThread(Runnable body) throws InterruptedException {
        AtomicReference<Throwable> thrown = new AtomicReference<>();
        Thread thread = Thread.ofPlatform().start(() -> {
            try {
                body.run();
            } catch (Throwable e) {
                thrown.set(e);
            }
        });
        thread.join();
        return thrown.get();
    }
}
