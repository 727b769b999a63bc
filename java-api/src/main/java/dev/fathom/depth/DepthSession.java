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
    private final int[] cap;
    private final boolean[] open;
    private final boolean wholeSequences;
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
        wholeSequences = model.choosesOverWholeSequences();
        length = new int[limits.sequences()];
        prompt = new int[limits.sequences()];
        cap = new int[limits.sequences()];
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
        return open(Integer.MAX_VALUE);
    }

    /**
     * Begins an empty sequence whose tokens take at most so many passes through a stage that loops.
     *
     * @throws CapacityException if all sequences are open
     */
    public int open(int depthCap) {
        Require.atLeast("depthCap", depthCap, 1);
        if (!arena.scope().isAlive()) throw new IllegalStateException("The session is closed.");
        for (int sequence = 0; sequence < open.length; sequence++) {
            if (!open[sequence]) {
                open[sequence] = true;
                prompt[sequence] = 0;
                cap[sequence] = depthCap;
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
        cap[other] = cap[sequence];
        return other;
    }

    /** Ends a sequence and frees its K and V. */
    public void close(int sequence) {
        truncate(sequence, 0);
        pipeline.close(sequence);
        open[sequence] = false;
    }

    /**
     * Reads the source of a sequence, which its tokens attend to: once, before any of them. For models with an encoder.
     */
    public void encode(int sequence, int... source) {
        encode(new int[] {sequence}, new int[][] {source});
    }

    /**
     * Reads the sources of several sequences, as many in one call as {@link Limits#rows} allows. After a failure none
     * of them has a source.
     */
    public void encode(int[] sequences, int[][] sources) {
        Require.that(model.encoder() != null, "the model has no encoder");
        Require.equal("number of sources", Require.notNull("sources", sources).length, "number of sequences",
                Require.notNull("sequences", sequences).length);
        boolean[] seen = new boolean[open.length];
        for (int i = 0; i < sequences.length; i++) {
            int sequence = sequences[i];
            checkSequence(sequence);
            Require.that(!seen[sequence], "sequence " + sequence + " is given twice");
            Require.that(!pipeline.hasSource(sequence), "sequence " + sequence + " has a source already");
            seen[sequence] = true;
            Require.range("number of tokens in a source", Require.notNull("source", sources[i]).length, 1,
                    limits.source());
            for (int id : sources[i]) Require.range("token", id, 0, model.encoder().embedding().vocabSize() - 1);
        }
        pipeline.encode(sequences, sources, sequences.length);
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
     *                           all tokens at full depth. Like after any other failure, no sequence has changed. (If
     *                           a kernel fails while it takes on tokens that have waited since earlier steps, their
     *                           states are lost: then every later call throws IllegalStateException)
     */
    public void run(Step step) {
        check(step);
        step.reserve();
        running = step;
        pipeline.mark();
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
            pipeline.recover();
            throw e;
        } finally {
            running = null;
        }
        for (int i = 0, token = 0; i < step.requests; token += step.requestTokens[i++]) {
            int sequence = step.requestSequence[i];
            length[sequence] += step.requestTokens[i];
            if (!step.exits[token]) prompt[sequence] = length[sequence];
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
        Require.that(!wholeSequences || step.tokens <= limits.rows(), "a router that chooses over whole sequences needs"
                + " a step in one piece: at most " + limits.rows() + " tokens, got " + step.tokens);
        int token = 0;
        for (int i = 0; i < step.requests; i++) {
            int sequence = step.requestSequence[i];
            int count = step.requestTokens[i];
            checkSequence(sequence);
            Require.that(pipeline.hasSource(sequence), "sequence " + sequence + " has no source; encode one first");
            Require.that(!wholeSequences || length[sequence] == 0, "a router that chooses over whole sequences cannot"
                    + " continue one: sequence " + sequence + " has " + length[sequence] + " tokens");
            if (count > limits.tokens() - length[sequence]) {
                throw new CapacityException("sequence " + sequence + " may hold " + limits.tokens() + " tokens, got "
                        + count + " more for its " + length[sequence]);
            }
            boolean exits = step.requestScored[i] || count == 1 && (length[sequence] > 0 || model.encoder() != null);
            for (int k = 0; k < count; k++, token++) {
                step.position[token] = length[sequence] + k;
                step.exits[token] = exits;
            }
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
            flight.cap[slot] = cap[sequence];
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
