package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;

import dev.fathom.Buffer;
import dev.fathom.Context;

/**
 * Serves requests from one batch: whenever a text ends, the next request takes its place. A server owns one, calls
 * {@link #step} in a loop from one platform thread, and submits from any thread.
 *
 * <p>Requests are served in the order of their submission. One starts when a place is free and the K and V of its whole
 * length at full depth are sure to fit, so a text that has begun never runs out of room; until then it waits, and with
 * it all that came later. One that could never fit is refused. In every step each running text takes in its next token,
 * and prompts share the rows that are left, the oldest first: no text waits for another's prompt.
 *
 * <p>What a request gets does not depend on its company, its arrival, the batch policy or the number of workers: the
 * same tokens, from the same bits. The exception is {@link Threshold.Adaptive} without verification, by design.
 *
 * <p>In steady state a step allocates nothing.
 */
public final class Scheduler implements AutoCloseable {
    private final DepthModel model;
    private final ExitPolicy policy;
    private final BatchPolicy batching;
    private final Limits limits;
    private final Arena arena = Arena.ofShared();
    private final Pipeline pipeline;
    private final Flight flight;

    private final Queue<Generation> incoming = new ConcurrentLinkedQueue<>();
    private final ArrayDeque<Generation> waiting = new ArrayDeque<>();
    /** Some request has been cancelled since the last step. */
    private final AtomicBoolean cancelled = new AtomicBoolean();
    /** By sequence; null: free. And the running ones in the order in which they started. */
    private final Generation[] running;
    private final Generation[] order;
    private int runningCount;
    private int samplers;
    private final int[] started;
    private final int[][] sources;
    /** Pages of each stage that running texts may come to take. */
    private final long[] reserved;
    private final long[] pages;
    private final float[] logits;
    /** Held by whoever steps or closes. */
    private final AtomicBoolean busy = new AtomicBoolean();
    /** A step threw: what is in flight is no longer what it should be. */
    private boolean failed;
    private volatile boolean closed;

    private long generated;
    private long drafted;
    private long rejected;
    private long steps;
    private long tokens;
    private long occupied;
    private long admitted;
    private long waitNanos;
    private long mostWaitNanos;
    private long stepNanos;
    private long mostStepNanos;

    /**
     * @param limits {@code sequences} texts run at once, of at most {@code tokens} tokens with their prompts; a step
     *               takes in at most {@code rows} tokens; K and V of {@code poolTokens} tokens are kept
     */
    public Scheduler(Context context, DepthModel model, ExitPolicy policy, BatchPolicy batching, Limits limits) {
        Require.notNull("context", context);
        this.model = Require.notNull("model", model);
        this.policy = Require.notNull("policy", policy);
        this.batching = Require.notNull("batching", batching);
        this.limits = Require.notNull("limits", limits);
        Require.that(limits.rows() >= limits.sequences(), "rows must be at least sequences (" + limits.sequences()
                + "), so that every text can go on in every step; got " + limits.rows());
        Require.that(!model.choosesOverWholeSequences(), "a router that chooses over whole sequences cannot generate");
        running = new Generation[limits.sequences()];
        order = new Generation[limits.sequences()];
        started = new int[limits.sequences()];
        sources = new int[limits.sequences()][];
        logits = new float[model.vocabSize()];
        int rows = Math.addExact(limits.rows(), limits.sequences()); // prompts fill the rows, texts come on top
        try {
            pipeline = new Pipeline(context, arena, model, policy, limits, rows, new Answering());
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
        flight = pipeline.flight;
        reserved = new long[pipeline.stages()];
        pages = new long[pipeline.stages()];
        for (int stage = 0; stage < pages.length; stage++) {
            pages[stage] = pipeline.freePages(stage);
        }
    }

    // ---- requests ------------------------------------------------------------------------------------------------

    /**
     * Queues a request; any thread may.
     *
     * @throws CapacityException if it could not run even alone
     */
    public Generation submit(Request request, Generation.Receiver receiver) {
        Require.notNull("request", request);
        Require.notNull("receiver", receiver);
        if (closed) throw new IllegalStateException("The scheduler is closed.");
        for (int i = 0; i < request.length(); i++) {
            Require.range("token of the prompt", request.promptToken(i), 0, model.vocabSize() - 1);
        }
        int source = request.sourceTokens().length;
        if (model.encoder() == null) Require.that(source == 0, "the model has no encoder: source must be empty");
        else Require.range("number of tokens in the source", source, 1, limits.source());
        for (int id : request.sourceTokens()) {
            Require.range("token of the source", id, 0, model.encoder().embedding().vocabSize() - 1);
        }
        Require.range("stop", request.stop(), -1, model.vocabSize() - 1);
        Require.that(!policy.verifies() || request.sampling().isGreedy(),
                "verified exits decode greedily: temperature must be 0, got " + request.sampling().temperature());
        long length = (long) request.length() + request.tokens();
        if (length > limits.tokens()) {
            throw new CapacityException("a text may have " + limits.tokens() + " tokens, got a request for "
                    + request.length() + " and " + request.tokens() + " more");
        }
        for (int stage = 0; stage < pages.length; stage++) {
            long needed = pipeline.pagesOf(stage, (int) length);
            if (needed > pages[stage]) {
                throw new CapacityException("the request may need " + needed + " pages of K,V, there are "
                        + pages[stage]);
            }
        }
        Generation generation = new Generation(request, receiver, cancelled);
        incoming.add(generation);
        if (closed && incoming.remove(generation)) throw new IllegalStateException("The scheduler is closed.");
        return generation;
    }

    private void admit() {
        for (Generation g = incoming.poll(); g != null; g = incoming.poll()) waiting.add(g);
        if (cancelled.getAndSet(false)) waiting.removeIf(Scheduler::endIfCancelled);
        if (batching == BatchPolicy.STATIC && runningCount > 0) return;
        int before = runningCount;
        while (!waiting.isEmpty()) {
            Generation next = waiting.peekFirst();
            if (!fits(next)) break;
            waiting.removeFirst();
            start(next);
        }
        encode(before);
    }

    private static boolean endIfCancelled(Generation g) {
        if (!g.isCancelled()) return false;
        g.end(Generation.State.CANCELLED);
        return true;
    }

    /** Reads the sources of the texts that have just started. */
    private void encode(int from) {
        if (model.encoder() == null || from == runningCount) return;
        for (int i = from; i < runningCount; i++) {
            started[i - from] = order[i].sequence;
            sources[i - from] = order[i].request.sourceTokens();
        }
        pipeline.encode(started, sources, runningCount - from);
    }

    private boolean fits(Generation g) {
        if (runningCount == running.length) return false;
        for (int stage = 0; stage < pages.length; stage++) {
            long needed = pipeline.pagesOf(stage, g.request.length() + g.id.length);
            if (reserved[stage] + needed > pages[stage]) return false;
        }
        return true;
    }

    private void start(Generation g) {
        int sequence = 0;
        while (running[sequence] != null) sequence++;
        running[sequence] = g;
        order[runningCount++] = g;
        reserve(g, 1);
        if (g.sampler != null) samplers++;
        g.start(sequence);
        pipeline.begin();
        admitted++;
        waitNanos += g.waitedNanos();
        mostWaitNanos = Math.max(mostWaitNanos, g.waitedNanos());
    }

    private void reserve(Generation g, int sign) {
        for (int stage = 0; stage < pages.length; stage++) {
            reserved[stage] += sign * pipeline.pagesOf(stage, g.request.length() + g.id.length);
        }
    }

    /** Frees the places of texts that have ended. */
    private void release() {
        int kept = 0;
        for (int i = 0; i < runningCount; i++) {
            Generation g = order[i];
            boolean ended = g.hasEnded();
            if (!ended && !g.isCancelled()) {
                order[kept++] = g;
                continue;
            }
            pipeline.close(g.sequence);
            running[g.sequence] = null;
            reserve(g, -1);
            if (g.sampler != null) samplers--;
            g.end(ended ? g.ending() : Generation.State.CANCELLED);
        }
        for (int i = kept; i < runningCount; i++) order[i] = null;
        runningCount = kept;
    }

    private void enter() {
        if (busy.compareAndSet(false, true)) return;
        throw new IllegalStateException("The scheduler is in use: by another thread, or by the step that called.");
    }

    // ---- steps ---------------------------------------------------------------------------------------------------

    /**
     * Lets every running text go on. If it throws, what was handed out so far is right, and nothing can go on:
     * close the scheduler.
     *
     * @return false if there is nothing to do: no request runs or waits
     * @throws IllegalStateException if the scheduler is closed or an earlier step threw, and inside a step: of another
     *                               thread, or of the one that tells a {@link Generation.Receiver}
     */
    public boolean step() {
        enter();
        try {
            if (closed) throw new IllegalStateException("The scheduler is closed.");
            if (failed) throw new IllegalStateException("A step failed: close the scheduler.");
            failed = true;
            boolean worked = advance();
            failed = false;
            return worked;
        } finally {
            busy.set(false);
        }
    }

    private boolean advance() {
        long begin = System.nanoTime();
        release();
        admit();
        if (runningCount == 0) return !incoming.isEmpty();
        int places = runningCount;
        int fed = feed();
        pipeline.answers.keepLogits(samplers > 0);
        pipeline.embed();
        if (batching == BatchPolicy.PER_DEPTH) pipeline.tick();
        else pipeline.drain();
        release();
        steps++;
        tokens += fed;
        occupied += places;
        long nanos = System.nanoTime() - begin;
        stepNanos += nanos;
        mostStepNanos = Math.max(mostStepNanos, nanos);
        return true;
    }

    /** Steps until there is nothing to do. */
    public void run() {
        while (step()) { }
    }

    /** Takes in the next token of each text that knows it, then as much of the prompts as there is room for. */
    private int feed() {
        int room = limits.rows() - moving();
        int fed = 0;
        int asking = 0;
        for (int i = 0; i < runningCount; i++) {
            Generation g = order[i];
            if (g.isReadingPrompt() || !canGoOn(g)) continue;
            take(g);
            fed++;
            asking++;
        }
        for (int i = 0; i < runningCount; i++) {
            Generation g = order[i];
            for (; fed < room && g.isReadingPrompt(); fed++) take(g);
            if (!g.isReadingPrompt() && g.length() == g.taken && g.known == 0) asking++;
        }
        pipeline.countFull(asking);
        return fed;
    }

    /** Tokens in flight that go on to their answers in this step. Those that have answered have places beside them. */
    private int moving() {
        int moving = 0;
        for (int i = 0; i < runningCount; i++) {
            for (int slot = flight.oldest(order[i].sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                if (flight.moving[slot] && !flight.answered[slot]) moving++;
            }
        }
        return moving;
    }

    private boolean canGoOn(Generation g) {
        if (policy.verifies() && g.knowsEnd()) pipeline.flush(g.sequence);
        return g.taken < g.length() && !g.knowsEnd() && !pipeline.isVerifying(g.sequence);
    }

    private void take(Generation g) {
        int position = g.taken++;
        int slot = pipeline.add(g.sequence, position, g.at(position));
        flight.cap[slot] = g.request.depthCap();
        flight.asks[slot] = position >= g.request.length() - 1;
        // Behind an encoder the start token alone is no prompt: what it predicts is the first of the text.
        boolean start = model.encoder() != null && g.request.length() == 1;
        int generated = position - g.request.length() + (start ? 1 : 0);
        if (generated >= 0) flight.generated[slot] = generated;
    }

    /** Hands what the pipeline tells to the texts. */
    private final class Answering implements Pipeline.Listener {
        @Override
        public void passed(int slot, int legs) {}

        @Override
        public void answered(int slot, int row) {
            Generation g = running[flight.sequence[slot]];
            int position = flight.position[slot];
            int id = draw(g, row);
            g.set(position, id, flight.passes[slot]);
            if (policy.verifies() && flight.answered[slot]) {
                drafted++;
                if (policy.verification() instanceof Verification.CrossEntropy) flight.target[slot] = id;
            } else {
                confirm(g, position);
            }
        }

        @Override
        public void verified(int slot, int row) {
            Generation g = running[flight.sequence[slot]];
            int position = flight.position[slot];
            if (!holds(g, position, row)) {
                rejected++;
                g.set(position, pipeline.answers.stats().argmax(row), flight.passes[slot]);
                g.taken = position + 1;
                pipeline.truncate(g.sequence, position + 1);
            }
            confirm(g, position);
        }
    }

    private void confirm(Generation g, int position) {
        int before = g.count();
        g.confirm(position);
        generated += g.count() - before;
    }

    private boolean holds(Generation g, int position, int row) {
        int drawn = g.at(position + 1);
        return switch (policy.verification()) {
            case Verification.None none -> true;
            case Verification.Exact exact -> pipeline.answers.stats().argmax(row) == drawn;
            case Verification.CrossEntropy bound -> pipeline.answers.nll(row) <= bound.limit();
        };
    }

    private int draw(Generation g, int row) {
        if (g.sampler == null) return pipeline.answers.stats().argmax(row);
        pipeline.answers.logits().read(4L * row * logits.length, logits, 0, logits.length);
        return g.sampler.draw(logits);
    }

    // ---- report --------------------------------------------------------------------------------------------------

    /** What was done since the scheduler was made or {@link #resetReport} was called. For the thread that steps. */
    public SchedulerReport report() {
        return new SchedulerReport(pipeline.report(steps, tokens), generated, drafted, rejected, steps,
                mean(occupied, steps), mean(tokens, steps), waiting.size() + incoming.size(), admitted,
                Math.round(mean(waitNanos, admitted)), mostWaitNanos, Math.round(mean(stepNanos, steps)),
                mostStepNanos);
    }

    private static double mean(long sum, long count) {
        return count == 0 ? 0 : (double) sum / count;
    }

    /** Starts the report anew. */
    public void resetReport() {
        generated = drafted = rejected = steps = tokens = occupied = admitted = 0;
        waitNanos = mostWaitNanos = stepNanos = mostStepNanos = 0;
        pipeline.resetReport();
    }

    /**
     * Cancels what runs and waits, and frees the memory. Closing again does nothing.
     *
     * @throws IllegalStateException inside a step, of another thread or of this one; nothing is closed then
     */
    @Override
    public void close() {
        enter();
        try {
            if (closed) return;
            closed = true;
            for (int i = runningCount - 1; i >= 0; i--) waiting.addFirst(order[i]);
            for (Generation g = incoming.poll(); g != null; g = incoming.poll()) waiting.add(g);
            cancelWaiting();
        } finally {
            if (arena.scope().isAlive()) arena.close();
            busy.set(false);
        }
    }

    /** Every text ends; what the first of the receivers that throw has thrown comes last. */
    private void cancelWaiting() {
        RuntimeException thrown = null;
        for (Generation g = waiting.poll(); g != null; g = waiting.poll()) {
            if (g.isDone()) continue; // a receiver threw in the step that ended it
            try {
                g.end(Generation.State.CANCELLED);
            } catch (RuntimeException e) {
                if (thrown == null) thrown = e;
            }
        }
        if (thrown != null) throw thrown;
    }
}
