package dev.fathom.depth;

import java.util.Arrays;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A request in a {@link Scheduler} and what became of it so far. Tokens that can be read are final. The thread that
 * runs the scheduler writes it; other threads may read it at any time and {@link #cancel} it.
 */
public final class Generation {
    public enum State { WAITING, RUNNING, COMPLETE, STOPPED, CANCELLED }

    /**
     * Told of what is final, by the thread that runs the scheduler, in the middle of a step: it may submit and cancel,
     * but neither step nor close. What it throws comes out of the step, which then was the last one.
     */
    public interface Receiver {
        /** Token {@code i} of the text is there. */
        void token(Generation generation, int i);

        /** The text has ended; {@link Generation#state} says how. */
        void ended(Generation generation);
    }

    final Request request;
    final Receiver receiver;
    /** Null: greedy. */
    final Sampler sampler;
    /** Known tokens, of which the first {@link #count} are final. */
    final int[] id;
    final int[] depth;
    int known;
    /** Tokens taken in, the prompt's among them. */
    int taken;
    int sequence = Flight.NONE;

    private volatile int count;
    private volatile State state = State.WAITING;
    private volatile boolean cancelled;
    private final AtomicBoolean attention;
    private final long submitted = System.nanoTime();
    private volatile long started;
    private volatile long first;
    private volatile long ended;

    /** {@code attention} is set when it is cancelled. */
    Generation(Request request, Receiver receiver, AtomicBoolean attention) {
        this.request = request;
        this.receiver = receiver;
        this.attention = attention;
        sampler = request.sampling().isGreedy() ? null : new Sampler(request.sampling());
        id = new int[request.tokens()];
        depth = new int[request.tokens()];
    }

    public Request request() {
        return request;
    }

    public State state() {
        return state;
    }

    public boolean isDone() {
        return state.compareTo(State.RUNNING) > 0;
    }

    /** Final tokens so far. */
    public int count() {
        return count;
    }

    public int token(int i) {
        Require.index("token", i, count);
        return id[i];
    }

    /** Passes that the token before it took to predict it: the most of any stage. */
    public int depth(int i) {
        Require.index("token", i, count);
        return depth[i];
    }

    /** A copy of the final tokens. */
    public int[] tokens() {
        return Arrays.copyOf(id, count);
    }

    /** Ends the text, wherever it is, when the next step begins; a step that runs now may still add to it. */
    public void cancel() {
        cancelled = true;
        attention.set(true);
    }

    /** Nanoseconds it waited for a place; so far, if it still does. */
    public long waitedNanos() {
        if (state == State.WAITING) return System.nanoTime() - submitted; // first: times are written before the state
        return (started != 0 ? started : ended) - submitted;
    }

    /** Nanoseconds from submission to the first token; 0 without one. */
    public long firstTokenNanos() {
        return first == 0 ? 0 : first - submitted;
    }

    /** Nanoseconds from submission to the end; 0 before it. */
    public long totalNanos() {
        return ended == 0 ? 0 : ended - submitted;
    }

    // ---- the scheduler's side ------------------------------------------------------------------------------------

    boolean isCancelled() {
        return cancelled;
    }

    void start(int sequence) {
        this.sequence = sequence;
        started = System.nanoTime();
        state = State.RUNNING;
    }

    void end(State how) {
        ended = System.nanoTime();
        state = how;
        receiver.ended(this);
    }

    /** Tokens that the text has with the prompt. */
    int length() {
        return request.length() + known;
    }

    int at(int position) {
        return position < request.length() ? request.promptToken(position) : id[position - request.length()];
    }

    boolean isReadingPrompt() {
        return taken < request.length();
    }

    /** What comes behind {@code position}, which took so many passes. What was known from there on is forgotten. */
    void set(int position, int token, int passes) {
        int i = position + 1 - request.length();
        id[i] = token;
        depth[i] = passes;
        known = i + 1;
    }

    /** All tokens up to the one behind {@code position} are final. */
    void confirm(int position) {
        int to = position + 2 - request.length();
        if (count == 0 && to > 0) first = System.nanoTime();
        while (count < to) {
            count++;
            receiver.token(this, count - 1);
        }
    }

    /** Whether the known tokens end the text. */
    boolean knowsEnd() {
        return known == id.length || known > 0 && id[known - 1] == request.stop();
    }

    /** Whether the final tokens do. */
    boolean hasEnded() {
        return count == id.length || count > 0 && id[count - 1] == request.stop();
    }

    State ending() {
        return count > 0 && id[count - 1] == request.stop() ? State.STOPPED : State.COMPLETE;
    }
}
