package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

import dev.fathom.Context;
import dev.fathom.HeadShape;

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
    private final Limits limits;
    private final Arena arena = Arena.ofShared();
    private final Workspace space;
    private final List<StageRunner> stages = new ArrayList<>();
    private final HeadShape choosing;
    private final long headFlops;
    private final long headBytes;
    /** Tokens of each sequence. */
    private final int[] length;
    private final boolean[] open;

    private final Meter done = new Meter();
    private final Meter full = new Meter();
    private final long[] depths;
    private long steps;
    private long tokens;

    public DepthSession(Context context, DepthModel model, Limits limits) {
        this.context = Require.notNull("context", context);
        this.model = Require.notNull("model", model);
        this.limits = Require.notNull("limits", limits);
        length = new int[limits.sequences()];
        open = new boolean[limits.sequences()];
        depths = new long[model.depths()];
        choosing = model.head().choosing();
        HeadShape head = model.head().shape();
        headFlops = 2L * head.hiddenSize() * head.vocabSize();
        headBytes = (long) head.hiddenSize() * head.vocabSize() * head.weightType().bytes();
        try {
            space = new Workspace(context, arena, limits.rows(), model.hiddenSize());
            for (Stage stage : model.stages()) {
                stages.add(new StageRunner(context, arena, stage, limits, space, done, full));
            }
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    public DepthModel model() {
        return model;
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
                return sequence;
            }
        }
        throw new CapacityException("all " + open.length + " sequences are open");
    }

    /**
     * Begins a sequence with the tokens of another. Their K and V are stored once.
     *
     * @throws CapacityException if all sequences are open
     */
    public int fork(int sequence) {
        checkSequence(sequence);
        int other = open();
        for (StageRunner stage : stages) stage.cache.fork(sequence, other);
        length[other] = length[sequence];
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
        rewind(sequence, count);
        length[sequence] = count;
    }

    private void rewind(int sequence, int count) {
        for (StageRunner stage : stages) stage.cache.rewind(sequence, count);
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
        try {
            int outputs = 0;
            for (int from = 0; from < step.tokens; from += space.count) {
                load(step, from);
                for (StageRunner stage : stages) stage.run();
                outputs = keepOutputs(step, from, outputs);
            }
            for (int from = 0; from < step.outputs; from += limits.rows()) {
                runHead(step, from, Math.min(limits.rows(), step.outputs - from));
            }
        } catch (RuntimeException | Error e) {
            for (int i = 0; i < step.requests; i++) rewind(step.requestSequence[i], length[step.requestSequence[i]]);
            throw e;
        }
        for (int i = 0; i < step.requests; i++) length[step.requestSequence[i]] += step.requestTokens[i];
        for (int i = 0; i < step.tokens; i++) depths[step.passes[i] - 1]++;
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
        for (StageRunner stage : stages) {
            long pages = 0;
            for (int i = 0; i < step.requests; i++) {
                pages += stage.pagesFor(step.requestSequence[i], step.requestTokens[i]);
            }
            if (pages > stage.cache.freePages()) {
                throw new CapacityException("the step may need " + pages + " pages of K,V, free are "
                        + stage.cache.freePages());
            }
        }
    }

    /** The next tokens of the step into the workspace, embedded. */
    private void load(Step step, int from) {
        int count = Math.min(space.capacity(), step.tokens - from);
        System.arraycopy(step.sequence, from, space.sequence, 0, count);
        System.arraycopy(step.position, from, space.position, 0, count);
        Arrays.fill(space.passes, 0, count, 0);
        space.count = count;
        space.index.write(0, step.id, from, count);
        context.embed(model.embedding(), count, space.index, model.table(), space.hidden);
    }

    /** Stores what the step wants of the workspace's tokens, which are its tokens from {@code from} on. */
    private int keepOutputs(Step step, int from, int firstOutput) {
        System.arraycopy(space.passes, 0, step.passes, from, space.count);
        int output = firstOutput;
        for (; output < step.outputs && step.outputToken[output] < from + space.count; output++) {
            space.picked[output - firstOutput] = step.outputToken[output] - from;
        }
        int count = output - firstOutput;
        if (count > 0) space.gather(space.picked, count, space.count, space.hidden, step.hiddenFrom(firstOutput));
        return output;
    }

    private void runHead(Step step, int from, int count) {
        Head head = model.head();
        HeadShape shape = step.hasTargets ? choosing : head.shape();
        context.head(shape, count, step.hiddenFrom(from), head.gain(), head.normBias(), head.weights(),
                step.targetsFrom(from), step.statsFrom(from), step.targetLogitsFrom(from), step.logitsFrom(from));
        done.compute(count * headFlops);
        done.readWeights(headBytes);
        full.compute(count * headFlops);
        full.readWeights(headBytes);
    }

    // ---- report --------------------------------------------------------------------------------------------------

    /** What was done since the session began or {@link #resetReport} was called. */
    public DepthReport report() {
        long calls = 0;
        long rows = 0;
        long live = 0;
        long held = 0;
        long pool = 0;
        for (StageRunner stage : stages) {
            calls += stage.calls();
            rows += stage.rows();
            live += stage.cache.liveBytes();
            held += stage.cache.heldBytes();
            pool += stage.cache.poolBytes();
        }
        List<Long> histogram = Arrays.stream(depths).boxed().toList();
        return new DepthReport(steps, tokens, histogram, calls, rows, done.work(), full.work(), live, held, pool);
    }

    /** Starts the report anew; what the sequences hold is not touched. */
    public void resetReport() {
        steps = tokens = 0;
        Arrays.fill(depths, 0);
        done.reset();
        full.reset();
        for (StageRunner stage : stages) stage.resetCounts();
    }

    /** Frees the session's memory. Closing again does nothing. */
    @Override
    public void close() {
        if (arena.scope().isAlive()) arena.close();
    }
}
