package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

import dev.fathom.ffi.fth_head_stats;

/** What {@link Context#head} tells of each row's logits: an array of {@code fth_head_stats} in a buffer. */
public final class HeadStats {
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    static final long BYTES = fth_head_stats.layout().byteSize();
    private static final long ARGMAX = fth_head_stats.argmax$offset();
    private static final long SECOND = fth_head_stats.second$offset();
    private static final long TOP1 = fth_head_stats.top1$offset();
    private static final long TOP2 = fth_head_stats.top2$offset();
    private static final long LSE = fth_head_stats.lse$offset();
    private static final long ENTROPY = fth_head_stats.entropy$offset();

    private final Buffer buffer;

    private HeadStats(Buffer buffer) {
        this.buffer = buffer;
    }

    /** Room for {@code capacity} rows that lives as long as the context. */
    public static HeadStats allocate(Context context, int capacity) {
        return new HeadStats(context.allocateShared(Check.atLeast("capacity", capacity, 0) * BYTES));
    }

    /** Room for {@code capacity} rows that lives as long as the arena. */
    public static HeadStats allocate(Context context, Arena arena, int capacity) {
        return new HeadStats(context.allocateShared(arena, Check.atLeast("capacity", capacity, 0) * BYTES));
    }

    /** As many rows as the buffer holds. */
    public static HeadStats of(Buffer buffer) {
        return new HeadStats(Check.notNull("buffer", buffer));
    }

    public Buffer buffer() {
        return buffer;
    }

    /** Copies what is told of row {@code from} to row {@code to} of another. */
    public void copy(int from, HeadStats target, int to) {
        buffer.copy(from * BYTES, target.buffer, to * BYTES, BYTES);
    }

    /** Id of the largest logit, the lowest one on ties. */
    public int argmax(int i) {
        return told().get(INT, i * BYTES + ARGMAX);
    }

    /** Id of the second largest logit; -1 if the vocabulary has one word. */
    public int second(int i) {
        return told().get(INT, i * BYTES + SECOND);
    }

    /** The largest logit. */
    public float top1(int i) {
        return told().get(FLOAT, i * BYTES + TOP1);
    }

    /** The second largest logit; -infinity if the vocabulary has one word. */
    public float top2(int i) {
        return told().get(FLOAT, i * BYTES + TOP2);
    }

    /** Log of the sum of exp of all logits. */
    public float lse(int i) {
        return told().get(FLOAT, i * BYTES + LSE);
    }

    /** Entropy of softmax(logits), in nats. */
    public float entropy(int i) {
        return told().get(FLOAT, i * BYTES + ENTROPY);
    }

    /** Probability of the most likely word. */
    public float maxProbability(int i) {
        return (float) Math.exp(top1(i) - lse(i));
    }

    /** Probability of the most likely word less that of the second. */
    public float margin(int i) {
        return (float) (Math.exp(top1(i) - lse(i)) - Math.exp(top2(i) - lse(i)));
    }

    /** Waits for the call that tells. */
    private MemorySegment told() {
        return buffer.readByCall();
    }
}
