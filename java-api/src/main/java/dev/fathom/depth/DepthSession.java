package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Context;

/**
 * Runs a model over many sequences at once. A session holds the K and V of its open sequences and advances any of them,
 * by any number of tokens each, in one {@link Step}. A token's result does not depend on what else is in the step, on
 * how its sequence was cut into steps, or on the number of workers: the bits are the same.
 *
 * <p>Not safe for use by several threads. Memory is allocated here and freed by {@link #close()}.
 */
public final class DepthSession implements AutoCloseable {
    private final Context context;
    private final DepthModel model;
    private final ExitPolicy policy;
    private final Limits limits;
    private final Arena arena = Arena.ofShared();
    private final Pipeline pipeline;
    /** Tokens of each sequence, and how many of them came before those that may exit. */
    private final int[] length;
    private final int[] prompt;
    private final boolean[] open;
    private Step running;
    private long steps;
    private long tokens;

    /** Every token takes every pass that its routers let it take. */
    public DepthSession(Context context, DepthModel model, Limits limits) {
        this(context, model, ExitPolicy.never(), limits);
    }

    /**
     * Tokens may exit as the policy says: single tokens that continue a sequence, and tokens that are scored.
     * Verification needs to know what is generated from the answers, so it is left to the {@link Scheduler}.
     */
    public DepthSession(Context context, DepthModel model, ExitPolicy policy, Limits limits) {
        this.context = Require.notNull("context", context);
        this.model = Require.notNull("model", model);
        this.policy = Require.notNull("policy", policy);
        this.limits = Require.notNull("limits", limits);
        Require.that(!policy.verifies(), "a session does not verify exits: verification must be None; use a Scheduler");
        length = new int[limits.sequences()];
        prompt = new int[limits.sequences()];
        open = new boolean[limits.sequences()];
        try {
            pipeline = new Pipeline(context, arena, model, policy, limits, limits.rows(), new Answering());
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    public DepthModel model() {
        return model;
    }

    public ExitPolicy policy() {
        return policy;
    }

    public Limits limits() {
        return limits;
    }

    // ---- sequences -----------------------------------------------------------------------------------------------

    /**
     * Begins an empty sequence.
     *
     * @return its number, to be used until it is closed
     * @throws CapacityException if all sequences are open
     */
    public int open() {
        for (int sequence = 0; sequence < open.length; sequence++) {
            if (!open[sequence]) {
                open[sequence] = true;
                prompt[sequence] = 0;
                pipeline.begin();
                return sequence;
            }
        }
        throw new CapacityException("all " + open.length + " sequences are open");
    }

    /**
     * Begins a sequence with the tokens of another. Their K and V are stored once. Tokens that wait are {@link
     * #settle settled} first.
     *
     * @throws CapacityException if all sequences are open
     */
    public int fork(int sequence) {
        settle(sequence);
        int other = open();
        pipeline.fork(sequence, other);
        length[other] = length[sequence];
        prompt[other] = prompt[sequence];
        return other;
    }

    /** Ends a sequence and frees its K and V. */
    public void close(int sequence) {
        truncate(sequence, 0);
        open[sequence] = false;
    }

    /** Tokens taken in so far. */
    public int length(int sequence) {
        checkSequence(sequence);
        return length[sequence];
    }

    /** Forgets the tokens from {@code count} on. */
    public void truncate(int sequence, int count) {
        checkSequence(sequence);
        Require.range("count", count, 0, length[sequence]);
        pipeline.truncate(sequence, count);
        length[sequence] = count;
        prompt[sequence] = Math.min(prompt[sequence], count);
    }

    /** Lets the tokens of a sequence that wait go through the passes they have skipped. Changes no result. */
    public void settle(int sequence) {
        checkSequence(sequence);
        if (pipeline.isSettled(sequence)) return;
        pipeline.flush(sequence);
        pipeline.drain();
    }

    private void checkSequence(int sequence) {
        Require.index("sequence", sequence, open.length);
        if (!open[sequence]) throw new IllegalArgumentException("sequence " + sequence + " is not open");
    }

    // ---- steps ---------------------------------------------------------------------------------------------------

    /** An empty step for this session. */
    public Step step() {
        return new Step(this, context);
    }

    /**
     * Takes the step's tokens in.
     *
     * @throws CapacityException if a sequence would exceed its limit or if there might not be room for the K and V of
     *                           all tokens at full depth. Like after any other failure, no sequence has changed
     */
    public void run(Step step) {
        check(step);
        step.reserve();
        running = step;
        try {
            pipeline.answers.keepLogits(step.wantsLogits());
            for (int from = 0; from < step.tokens; from += limits.rows()) {
                load(step, from, Math.min(limits.rows(), step.tokens - from));
                pipeline.drain();
            }
        } catch (RuntimeException | Error e) {
            for (int i = 0; i < step.requests; i++) {
                pipeline.truncate(step.requestSequence[i], length[step.requestSequence[i]]);
            }
            throw e;
        } finally {
            running = null;
        }
        for (int i = 0; i < step.requests; i++) {
            int sequence = step.requestSequence[i];
            length[sequence] += step.requestTokens[i];
            if (!step.requestExits[i]) prompt[sequence] = length[sequence];
        }
        steps++;
        tokens += step.tokens;
        step.hasRun = true;
    }

    /** Refuses what cannot run, and tells the step's tokens their positions. */
    private void check(Step step) {
        Require.that(Require.notNull("step", step).session == this, "step must be one that this session has made");
        if (step.hasRun) throw new IllegalStateException("The step has run; clear it first.");
        Require.that(step.tokens > 0, "step must have at least one token");
        int token = 0;
        for (int i = 0; i < step.requests; i++) {
            int sequence = step.requestSequence[i];
            int count = step.requestTokens[i];
            checkSequence(sequence);
            if (count > limits.tokens() - length[sequence]) {
                throw new CapacityException("sequence " + sequence + " may hold " + limits.tokens() + " tokens, got "
                        + count + " more for its " + length[sequence]);
            }
            for (int k = 0; k < count; k++) step.position[token++] = length[sequence] + k;
        }
        for (int stage = 0; stage < pipeline.stages(); stage++) {
            long pages = 0;
            for (int sequence = 0; sequence < open.length; sequence++) {
                pages += pipeline.pagesFor(stage, sequence, step.tokensOf(sequence));
            }
            if (pages > pipeline.freePages(stage)) {
                throw new CapacityException("the step may need " + pages + " pages of K,V, free are "
                        + pipeline.freePages(stage));
            }
        }
    }

    /** Tokens {@code from .. from + count)} of the step at the beginning of the model. */
    private void load(Step step, int from, int count) {
        int answers = 0;
        for (int token = from; token < from + count; token++) {
            int sequence = step.sequence[token];
            int slot = pipeline.add(sequence, step.position[token], step.id[token]);
            Flight flight = pipeline.flight;
            flight.tag[slot] = token;
            int output = step.outputOf[token];
            if (output != Flight.NONE) {
                flight.asks[slot] = true;
                flight.target[slot] = step.target[output];
                answers++;
            }
            if (step.exits[token]) flight.generated[slot] = step.position[token] - prompt[sequence];
        }
        pipeline.countFull(answers);
        pipeline.embed();
    }

    /** Hands what the pipeline tells to the step that runs. */
    private final class Answering implements Pipeline.Listener {
        @Override
        public void passed(int slot, int legs) {
            if (running == null) return; // settling
            int token = pipeline.flight.tag[slot];
            running.passes[token] = pipeline.flight.passes[slot];
            running.legs[token] = legs;
        }

        @Override
        public void answered(int slot, int row) {
            running.take(running.outputOf[pipeline.flight.tag[slot]], pipeline.answers, row);
        }

        @Override
        public void verified(int slot, int row) {
            throw new AssertionError("a session does not verify");
        }
    }

    KvCache cache(int stage) {
        return pipeline.cache(stage);
    }

    // ---- report --------------------------------------------------------------------------------------------------

    /** What was done since the session began or {@link #resetReport} was called. */
    public DepthReport report() {
        return pipeline.report(steps, tokens);
    }

    /** Starts the report anew; what the sequences hold is not touched. */
    public void resetReport() {
        steps = tokens = 0;
        pipeline.resetReport();
    }

    /** Frees the session's memory. Closing again does nothing. */
    @Override
    public void close() {
        if (arena.scope().isAlive()) arena.close();
    }
}
