package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.Rows;

/**
 * The tokens that go through the stages together, and the scratch that the stages share. A token's number here is its
 * row in {@link #hidden}; {@link #active} lists the tokens that take the current pass, in that order.
 */
final class Workspace {
    final int width;

    /** The tokens: how many, and of each its sequence, its position and the most passes it took in a stage so far. */
    int count;
    final int[] sequence;
    final int[] position;
    final int[] passes;

    int active;
    final int[] token;

    final Rows rows;
    final Buffer hidden;
    /** Two stacks of compacted rows; {@link #swap} exchanges them. */
    Buffer x;
    Buffer y;
    final Buffer index;
    final Buffer gate;
    final Buffer choice;
    final float[] gates;
    final int[] choices;
    final int[] picked;

    private final Context context;

    Workspace(Context context, Arena arena, int capacity, int width) {
        this.context = context;
        this.width = width;
        sequence = new int[capacity];
        position = new int[capacity];
        passes = new int[capacity];
        token = new int[capacity];
        gates = new float[capacity];
        choices = new int[capacity];
        picked = new int[capacity];
        rows = Rows.allocate(context, arena, capacity);
        hidden = context.allocate(arena, 4L * capacity * width);
        x = context.allocate(arena, 4L * capacity * width);
        y = context.allocate(arena, 4L * capacity * width);
        index = context.allocate(arena, 4L * capacity);
        gate = context.allocate(arena, 4L * capacity);
        choice = context.allocate(arena, 4L * capacity);
    }

    int capacity() {
        return token.length;
    }

    /** All tokens are active. */
    void activateAll() {
        active = count;
        for (int i = 0; i < count; i++) token[i] = i;
    }

    /** x = hidden rows of the active tokens. */
    void gatherActive() {
        gather(token, active, count, hidden, x);
    }

    /** target[i] = source[which[i]] for {@code number} rows out of {@code of}. */
    void gather(int[] which, int number, int of, Buffer source, Buffer target) {
        index.write(0, which, 0, number);
        context.gather(width, of, number, index, source, target);
    }

    /** Adds row i of {@code source}, times gate i if {@code weighted}, to the hidden row of token {@code to[i]}. */
    void scatterAdd(int[] to, int number, boolean weighted, Buffer source) {
        index.write(0, to, 0, number);
        context.scatterAdd(width, count, number, index, weighted ? gate : null, source, hidden);
    }

    /** Takes what the router said of the first {@code number} rows to this side. */
    void readRouting(int number) {
        gate.read(0, gates, 0, number);
        choice.read(0, choices, 0, number);
    }

    void swap() {
        Buffer other = x;
        x = y;
        y = other;
    }
}
