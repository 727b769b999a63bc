package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.HeadStats;
import dev.fathom.Rows;

/**
 * The states of the tokens in flight, and the scratch that everything shares. A token's row in {@link #hidden} is its
 * slot; {@link #x} and {@link #y} hold rows in the order of a call.
 */
final class Workspace {
    final int width;
    final int capacity;
    final Buffer hidden;
    /** Of tokens that loop under token choice: the row that loops, while {@link #hidden} keeps what it is added to. */
    final Buffer looped;
    final Buffer x;
    final Buffer y;
    final Rows rows;
    /** What cross-attention sees; null without an encoder. */
    final Rows crossRows;
    final Rows others;
    final Buffer index;
    final Buffer gate;
    final Buffer choice;
    final HeadStats stats;
    final int[] ints;
    final float[] floats;

    private final Context context;

    Workspace(Context context, Arena arena, int capacity, int width, boolean loops, boolean crosses) {
        this.context = context;
        this.capacity = capacity;
        this.width = width;
        ints = new int[capacity];
        floats = new float[capacity];
        rows = Rows.allocate(context, arena, capacity);
        crossRows = crosses ? Rows.allocate(context, arena, capacity) : null;
        others = Rows.allocate(context, arena, capacity);
        hidden = context.allocate(arena, 4L * capacity * width);
        looped = loops ? context.allocate(arena, 4L * capacity * width) : hidden;
        x = context.allocate(arena, 4L * capacity * width);
        y = context.allocate(arena, 4L * capacity * width);
        index = context.allocateShared(arena, 4L * capacity);
        gate = context.allocateShared(arena, 4L * capacity);
        choice = context.allocateShared(arena, 4L * capacity);
        stats = HeadStats.allocate(context, arena, capacity);
    }

    /** target[i] = source[which[i]] for the first {@code count}; the source has {@link #capacity} rows. */
    void gather(int[] which, int count, Buffer source, Buffer target) {
        index.write(0, which, 0, count);
        context.gather(width, capacity, count, index, source, target);
    }

    /** target[to[i]] = source[i]; the target has {@link #capacity} rows. */
    void scatter(int[] to, int count, Buffer source, Buffer target) {
        index.write(0, to, 0, count);
        context.scatter(width, capacity, count, index, source, target);
    }

    /** hidden[to[i]] += gate[i] source[i], with the gates in {@link #floats}; or without gates. */
    void scatterAdd(int[] to, int count, boolean weighted, Buffer source) {
        index.write(0, to, 0, count);
        if (weighted) gate.write(0, floats, 0, count);
        context.scatterAdd(width, capacity, count, index, weighted ? gate : null, source, hidden);
    }

    /** Rows of {@code from} at places {@code [first, first + count)}, times {@link #width}. */
    Buffer slice(Buffer from, int first, int count) {
        return from.slice(4L * width * first, 4L * width * count);
    }
}
