package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

import dev.fathom.ffi.fth_row;

/**
 * The rows of a call: an array of {@code fth_row} in a buffer. A row is one token at one depth; each operation reads
 * the fields it names and ignores the rest. Fresh rows are {@link #clear cleared}.
 */
public final class Rows {
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED;
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;

    static final long BYTES = fth_row.layout().byteSize();
    private static final long LIST = fth_row.list$offset();
    private static final long TREE = fth_row.tree$offset();
    private static final long VISIBLE = fth_row.visible$offset();
    private static final long START = fth_row.start$offset();
    private static final long POSITION = fth_row.position$offset();
    private static final long DEPTH = fth_row.depth$offset();
    private static final long ENTRY = fth_row.entry$offset();
    private static final long SEQUENCE = fth_row.sequence$offset();

    private final Buffer buffer;
    private final MemorySegment segment;
    private final int capacity;

    private Rows(Buffer buffer, int capacity) {
        this.buffer = buffer;
        this.segment = buffer.segment(); // calls copy rows before they return, so nobody waits for them
        this.capacity = capacity;
    }

    /** Rows that live as long as the context. */
    public static Rows allocate(Context context, int capacity) {
        return cleared(context.allocateShared(Check.atLeast("capacity", capacity, 0) * BYTES), capacity);
    }

    /** Rows that live as long as the arena. */
    public static Rows allocate(Context context, Arena arena, int capacity) {
        return cleared(context.allocateShared(arena, Check.atLeast("capacity", capacity, 0) * BYTES), capacity);
    }

    private static Rows cleared(Buffer buffer, int capacity) {
        Rows rows = new Rows(buffer, capacity);
        for (int i = 0; i < capacity; i++) rows.clear(i);
        return rows;
    }

    /** As many rows as the buffer holds, as they are. */
    public static Rows of(Buffer buffer) {
        return new Rows(Check.notNull("buffer", buffer), (int) Math.min(buffer.bytes() / BYTES, Integer.MAX_VALUE));
    }

    public int capacity() {
        return capacity;
    }

    public Buffer buffer() {
        return buffer;
    }

    /** Rows {@code from .. from + count)}; they share the memory. */
    public Rows slice(int from, int count) {
        return new Rows(buffer.slice(from * BYTES, count * BYTES), count);
    }

    /** All fields 0, except {@code tree} = all ones and {@code entry} = -1. */
    public Rows clear(int i) {
        set(i, 0, 0, 0, 0, -1);
        start(i, 0);
        sequence(i, 0);
        return tree(i, ~0L);
    }

    /** Sets the five fields that most rows have; the others keep their values. */
    public Rows set(int i, long list, int visible, int position, int depth, int entry) {
        list(i, list);
        visible(i, visible);
        position(i, position);
        depth(i, depth);
        return entry(i, entry);
    }

    /** Where in the array of list items the row's list begins. */
    public long list(int i) {
        return segment.get(LONG, i * BYTES + LIST);
    }

    public Rows list(int i, long list) {
        segment.set(LONG, i * BYTES + LIST, list);
        return this;
    }

    /** Bit b: the row sees list item {@code visible - 1 - b}, b < 64; items further back are all seen. */
    public long tree(int i) {
        return segment.get(LONG, i * BYTES + TREE);
    }

    public Rows tree(int i, long tree) {
        segment.set(LONG, i * BYTES + TREE, tree);
        return this;
    }

    /** The row sees the first {@code visible} items of its list. */
    public int visible(int i) {
        return segment.get(INT, i * BYTES + VISIBLE);
    }

    public Rows visible(int i, int visible) {
        segment.set(INT, i * BYTES + VISIBLE, visible);
        return this;
    }

    /** The first list item that the row sees: a sliding window. */
    public int start(int i) {
        return segment.get(INT, i * BYTES + START);
    }

    public Rows start(int i, int start) {
        segment.set(INT, i * BYTES + START, start);
        return this;
    }

    /** The token's true position in its sequence. */
    public int position(int i) {
        return segment.get(INT, i * BYTES + POSITION);
    }

    public Rows position(int i, int position) {
        segment.set(INT, i * BYTES + POSITION, position);
        return this;
    }

    /** 0-based pass through the block. */
    public int depth(int i) {
        return segment.get(INT, i * BYTES + DEPTH);
    }

    public Rows depth(int i, int depth) {
        segment.set(INT, i * BYTES + DEPTH, depth);
        return this;
    }

    /** The pool entry that receives the row's K and V, or -1. */
    public int entry(int i) {
        return segment.get(INT, i * BYTES + ENTRY);
    }

    public Rows entry(int i, int entry) {
        segment.set(INT, i * BYTES + ENTRY, entry);
        return this;
    }

    /** Which of the dense sequences the row reads. */
    public int sequence(int i) {
        return segment.get(INT, i * BYTES + SEQUENCE);
    }

    public Rows sequence(int i, int sequence) {
        segment.set(INT, i * BYTES + SEQUENCE, sequence);
        return this;
    }
}
