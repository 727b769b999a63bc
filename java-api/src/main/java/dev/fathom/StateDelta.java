package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

import dev.fathom.ffi.fth_delta_stats;

/**
 * How far {@link Context#stateDelta} found each row's hidden state to have moved: an array of {@code fth_delta_stats}
 * in a buffer. A state that is zero moved infinitely far, relative to itself, unless it did not move. Numbers that
 * need the state before last are NaN without it, which no threshold accepts.
 */
public final class StateDelta {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    static final long BYTES = fth_delta_stats.layout().byteSize();
    private static final long DOT = fth_delta_stats.dot$offset();
    private static final long NOW = fth_delta_stats.now$offset();
    private static final long BEFORE = fth_delta_stats.before$offset();
    private static final long STEP = fth_delta_stats.step$offset();
    private static final long ACCELERATION = fth_delta_stats.acceleration$offset();

    private final Buffer buffer;

    private StateDelta(Buffer buffer) {
        this.buffer = buffer;
    }

    /** Room for {@code capacity} rows that lives as long as the context. */
    public static StateDelta allocate(Context context, int capacity) {
        return new StateDelta(context.allocateShared(Check.atLeast("capacity", capacity, 0) * BYTES));
    }

    /** Room for {@code capacity} rows that lives as long as the arena. */
    public static StateDelta allocate(Context context, Arena arena, int capacity) {
        return new StateDelta(context.allocateShared(arena, Check.atLeast("capacity", capacity, 0) * BYTES));
    }

    /** As many rows as the buffer holds. */
    public static StateDelta of(Buffer buffer) {
        return new StateDelta(Check.notNull("buffer", buffer));
    }

    public Buffer buffer() {
        return buffer;
    }

    /** {@code now . before}. */
    public float dot(int i) {
        return told().get(FLOAT, i * BYTES + DOT);
    }

    /** {@code |now|^2}. */
    public float nowSquared(int i) {
        return told().get(FLOAT, i * BYTES + NOW);
    }

    /** {@code |before|^2}. */
    public float beforeSquared(int i) {
        return told().get(FLOAT, i * BYTES + BEFORE);
    }

    /** {@code |now - before|^2}. */
    public float stepSquared(int i) {
        return told().get(FLOAT, i * BYTES + STEP);
    }

    /** {@code |(now - before) - (before - before2)|^2}; NaN without {@code before2}. */
    public float accelerationSquared(int i) {
        return told().get(FLOAT, i * BYTES + ACCELERATION);
    }

    /**
     * Cosine of the angle between now and before, in -1..1; exactly 1 for equal states, two zeros among them, and 0 if
     * one of them alone is zero.
     */
    public float cosine(int i) {
        double now = nowSquared(i), before = beforeSquared(i);
        if (now == 0 || before == 0) return now == before ? 1 : 0;
        return (float) Math.clamp(dot(i) / Math.sqrt(now * before), -1, 1);
    }

    /** {@code |now - before| / |now|}. */
    public float relativeStep(int i) {
        return relative(stepSquared(i), nowSquared(i));
    }

    /** {@code |(now - before) - (before - before2)| / |now|}. */
    public float relativeAcceleration(int i) {
        return relative(accelerationSquared(i), nowSquared(i));
    }

    private static float relative(double movedSquared, double nowSquared) {
        return movedSquared == 0 ? 0 : (float) Math.sqrt(movedSquared / nowSquared);
    }

    /** Waits for the call that tells. */
    private MemorySegment told() {
        return buffer.readByCall();
    }
}
