package dev.fathom.depth;

import java.util.Arrays;

/**
 * The tokens in flight: taken in, but not through all passes yet. A token has a slot, which is also the row of its
 * hidden state; the tokens of a sequence are linked in order of their positions.
 *
 * <p>The order that everything rests on: <b>an older token of a sequence is never behind a younger one</b>, for a pass
 * reads the K and V that older tokens left at the same leg.
 */
final class Flight {
    static final int NONE = -1;

    final int[] sequence;
    final int[] position;
    /** The leg that the token takes next. */
    final int[] leg;
    /** Most passes that the token took in a stage so far. */
    final int[] passes;
    /** Most passes that it may take in a stage. */
    final int[] cap;
    /** Tokens that its sequence had generated before it: what decaying thresholds count. -1: it may not exit. */
    final int[] generated;
    /** What the caller knows the token by. */
    final int[] tag;
    /** Whether its answer is wanted: what comes next. */
    final boolean[] asks;
    /** The token that should come next, for its likelihood; {@link #NONE}: none. */
    final int[] target;
    /** Goes on by itself. Otherwise it waits until a younger token needs what it leaves at its leg. */
    final boolean[] moving;
    /** Has answered at an exit; what it still does is for others, or to be verified. */
    final boolean[] answered;
    /** The waiting token for which this one runs the tail of the model ahead of its turn; {@link #NONE}: no draft. */
    final int[] draftOf;
    /** Router's gate of the next pass, and its choice of a depth. */
    final float[] gate;
    final int[] choice;
    /** The exit signal of a token that was tested, and the exit's answer if it was computed; else NaN and NONE. */
    final float[] signal;
    final int[] testedAt;
    final int[] exitArgmax;
    /** The stage behind which it exited. */
    final int[] exitStage;
    /** Entry that stands for a token at all depths it skips, once it is computed. */
    final int[] entry;

    private final int[] older;
    private final int[] younger;
    private final int[] oldest;
    private final int[] youngest;
    private final int[] free;
    private int freeCount;

    Flight(int capacity, int sequences) {
        sequence = new int[capacity];
        position = new int[capacity];
        leg = new int[capacity];
        passes = new int[capacity];
        cap = new int[capacity];
        generated = new int[capacity];
        tag = new int[capacity];
        asks = new boolean[capacity];
        target = new int[capacity];
        moving = new boolean[capacity];
        answered = new boolean[capacity];
        draftOf = new int[capacity];
        gate = new float[capacity];
        choice = new int[capacity];
        signal = new float[capacity];
        testedAt = new int[capacity];
        exitArgmax = new int[capacity];
        exitStage = new int[capacity];
        entry = new int[capacity];
        older = new int[capacity];
        younger = new int[capacity];
        oldest = new int[sequences];
        youngest = new int[sequences];
        free = new int[capacity];
        Arrays.fill(sequence, NONE);
        Arrays.fill(oldest, NONE);
        Arrays.fill(youngest, NONE);
        for (int slot = capacity - 1; slot >= 0; slot--) free[freeCount++] = slot;
    }

    int capacity() {
        return free.length;
    }

    int freeSlots() {
        return freeCount;
    }

    int count() {
        return free.length - freeCount;
    }

    boolean isFree(int slot) {
        return sequence[slot] == NONE;
    }

    int oldest(int sequence) {
        return oldest[sequence];
    }

    int youngest(int sequence) {
        return youngest[sequence];
    }

    int younger(int slot) {
        return younger[slot];
    }

    int older(int slot) {
        return older[slot];
    }

    /** A token behind all others of its sequence, at the first leg. */
    int add(int sequence, int position) {
        int slot = free[--freeCount];
        this.sequence[slot] = sequence;
        this.position[slot] = position;
        leg[slot] = 0;
        passes[slot] = 0;
        cap[slot] = Integer.MAX_VALUE;
        generated[slot] = NONE;
        tag[slot] = NONE;
        asks[slot] = false;
        target[slot] = NONE;
        moving[slot] = true;
        answered[slot] = false;
        draftOf[slot] = NONE;
        signal[slot] = Float.NaN;
        exitArgmax[slot] = NONE;
        entry[slot] = NONE;
        older[slot] = youngest[sequence];
        younger[slot] = NONE;
        if (youngest[sequence] == NONE) oldest[sequence] = slot;
        else younger[youngest[sequence]] = slot;
        youngest[sequence] = slot;
        return slot;
    }

    void remove(int slot) {
        int s = sequence[slot];
        if (older[slot] == NONE) oldest[s] = younger[slot];
        else younger[older[slot]] = younger[slot];
        if (younger[slot] == NONE) youngest[s] = older[slot];
        else older[younger[slot]] = older[slot];
        sequence[slot] = NONE;
        free[freeCount++] = slot;
    }

    /** Removes the tokens of a sequence from {@code position} on. */
    void removeFrom(int sequence, int position) {
        while (youngest[sequence] != NONE && this.position[youngest[sequence]] >= position) remove(youngest[sequence]);
    }
}
