package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;

import dev.fathom.Context;

/**
 * Moves tokens through a model. A token stands before the leg that it takes next; a stage takes every token that may
 * enter, of any sequence and at any of its depths, in one call. What may enter is decided by one rule (see
 * {@link Flight}): no token gets ahead of an older one of its sequence.
 *
 * <p>A token that has answered at an exit and whose K and V are to be made good later stays where it is, and waits
 * until a younger token goes on from there: then both enter together.
 */
final class Pipeline {
    /** Told of answers, in the order of the tokens of a sequence. It may truncate sequences, but add nothing. */
    interface Listener {
        /** A token has taken {@code legs} legs and takes no more for itself; told once of every token. */
        void passed(int slot, int legs);

        /** A token's answer is row {@code row} of the {@link Answers}. It may still be verified. */
        void answered(int slot, int row);

        /** A token that had answered at an exit has been through all passes, with this answer. */
        void verified(int slot, int row);
    }

    final Flight flight;
    final Answers answers;
    final Meter done = new Meter();
    final Meter full = new Meter();

    private final Context context;
    private final DepthModel model;
    private final ExitPolicy policy;
    private final int sequences;
    private final Legs legs;
    /** The first leg of the tail. */
    private final int tail;
    private final StageRunner[] stages;
    /** Null: the model is a decoder alone. */
    private final EncoderRunner encoder;
    private final Workspace space;
    private final Exits exits;
    private final Listener listener;
    private final Batch batch;

    private final int[] tested;
    private final int[] testedLeg;
    private final boolean[] leaves;
    private final int[] finished;
    private final boolean[] pushed;
    private final boolean[] called;
    private final int[] added;
    private final int[] addedId;
    private int addedCount;

    private final long[] depths;
    private final long[] answeredBehind;
    private final long[] markedDepths;
    private final long[] markedAnswers;
    private final Meter markedDone = new Meter();
    private final Meter markedFull = new Meter();
    /** A call failed when the states of its batch were being replaced. */
    private boolean broken;

    Pipeline(Context context, Arena arena, DepthModel model, ExitPolicy policy, Limits limits, int rows,
            Listener listener) {
        policy.check(model);
        Require.that(model.encoder() != null || limits.source() == 0, "source of the limits must be 0 for a model"
                + " without encoder, got " + limits.source());
        this.context = context;
        this.model = model;
        this.policy = policy;
        this.listener = listener;
        sequences = limits.sequences();
        legs = new Legs(model.stages());
        int waiting = policy.waits() ? Math.min(policy.mostWaiting(), limits.tokens()) : 0;
        int drafts = policy.tail() > 0 && policy.waits() ? 1 : 0;
        int capacity = Math.toIntExact(Math.min(rows + (long) sequences * (waiting + drafts), Integer.MAX_VALUE));
        flight = new Flight(capacity, sequences);
        boolean loops = model.stages().stream().anyMatch(stage -> stage.router() instanceof Router.TokenChoice);
        space = new Workspace(context, arena, capacity, model.hiddenSize(), loops, model.encoder() != null);
        answers = new Answers(context, arena, model.head(), space, flight, done);
        exits = new Exits(context, arena, model, policy, legs, space, flight, answers, done);
        int tailStage = model.stages().size() - policy.tail();
        tail = legs.first(tailStage);
        stages = new StageRunner[model.stages().size()];
        for (int s = 0; s < stages.length; s++) {
            Stage stage = model.stages().get(s);
            boolean aliases = policy.exits() && policy.skipped() == SkippedKv.ALIAS && s == tailStage - 1
                    && stage.kv() == KvPolicy.PER_DEPTH;
            stages[s] = new StageRunner(context, arena, stage, legs.first(s), aliases ? KvPolicy.LATEST : stage.kv(),
                    policy.exits() && policy.leaves(), policy.skipped() == SkippedKv.COPY ? stages : null, limits,
                    space, flight, done);
        }
        encoder = model.encoder() == null ? null
                : new EncoderRunner(context, arena, model.encoder(), space, limits, done, full);
        batch = new Batch(capacity);
        tested = new int[capacity];
        testedLeg = new int[capacity];
        leaves = new boolean[capacity];
        finished = new int[capacity];
        pushed = new boolean[capacity];
        called = new boolean[legs.count];
        added = new int[capacity];
        addedId = new int[capacity];
        depths = new long[model.depths()];
        answeredBehind = new long[legs.count];
        markedDepths = new long[depths.length];
        markedAnswers = new long[legs.count];
    }

    // ---- tokens and sequences ------------------------------------------------------------------------------------

    /** A sequence begins. */
    void begin() {
        exits.begin();
    }

    /** Adds a token behind the others of its sequence; {@link #embed} must follow. */
    int add(int sequence, int position, int id) {
        int slot = flight.add(sequence, position);
        added[addedCount] = slot;
        addedId[addedCount++] = id;
        return slot;
    }

    /** Embeds what was added. */
    void embed() {
        int count = addedCount;
        addedCount = 0;
        if (count == 0) return;
        space.index.write(0, addedId, 0, count);
        context.embed(model.embedding(), count, space.index, model.table(), space.x);
        space.scatter(added, count, space.x, space.hidden);
    }

    /** Counts a call's added tokens as full depth would have done them. */
    void countFull(int answerCount) {
        for (int i = 0; i < addedCount; i++) {
            int slot = added[i];
            for (StageRunner stage : stages) stage.countFullDepth(full, flight.sequence[slot], flight.position[slot]);
        }
        for (StageRunner stage : stages) stage.countFullWeights(full);
        answers.countFull(full, answerCount);
    }

    /** Forgets the tokens of a sequence from {@code position} on. */
    void truncate(int sequence, int position) {
        flight.removeFrom(sequence, position);
        for (StageRunner stage : stages) stage.rewind(sequence, position);
    }

    /** Forgets a sequence and its source. */
    void close(int sequence) {
        flight.removeFrom(sequence, 0);
        for (StageRunner stage : stages) stage.close(sequence);
    }

    /** Reads the sources of some sequences, which have none yet; after a failure, still none. */
    void encode(int[] sequence, int[][] source, int count) {
        try {
            encoder.run(source, count, (i, row) -> {
                for (StageRunner stage : stages) stage.source(sequence[i], row, source[i].length);
            });
        } catch (RuntimeException | Error e) {
            for (int i = 0; i < count; i++) {
                for (StageRunner stage : stages) stage.forgetSource(sequence[i]);
            }
            throw e;
        }
    }

    boolean hasSource(int sequence) {
        return model.encoder() == null || stages[0].sourceLength(sequence) > 0;
    }

    /** Lets the empty sequence {@code to} go on from where {@code from} is. Nothing of it may be in flight. */
    void fork(int from, int to) {
        for (StageRunner stage : stages) stage.cache.fork(from, to);
    }

    /** Waiting tokens of the sequence go on by themselves. Drafts of the tail are taken back. */
    void flush(int sequence) {
        for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
            if (flight.moving[slot]) continue;
            if (flight.leg[slot] <= tail && tail < legs.count) rewindTail(sequence, flight.position[slot]);
            flight.moving[slot] = true;
        }
    }

    private void rewindTail(int sequence, int position) {
        for (int s = stages.length - policy.tail(); s < stages.length; s++) stages[s].rewind(sequence, position);
    }

    /** Whether nothing of the sequence is in flight: no token waits or is being verified. */
    boolean isSettled(int sequence) {
        return flight.oldest(sequence) == Flight.NONE;
    }

    /** Whether tokens of the sequence that have answered go on by themselves; until they are through, it waits. */
    boolean isVerifying(int sequence) {
        for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
            if (flight.answered[slot] && flight.moving[slot]) return true;
        }
        return false;
    }

    // ---- failures ------------------------------------------------------------------------------------------------

    /** Remembers what was counted so far. */
    void mark() {
        markedDone.set(done);
        markedFull.set(full);
        System.arraycopy(depths, 0, markedDepths, 0, depths.length);
        System.arraycopy(answeredBehind, 0, markedAnswers, 0, answeredBehind.length);
        for (StageRunner stage : stages) stage.markCounts();
    }

    /**
     * After a failure, when the tokens that were added since {@link #mark} are gone again: counts as before. If the
     * failed call had replaced states of older tokens, nothing can go on.
     */
    void recover() {
        addedCount = 0;
        done.set(markedDone);
        full.set(markedFull);
        System.arraycopy(markedDepths, 0, depths, 0, depths.length);
        System.arraycopy(markedAnswers, 0, answeredBehind, 0, answeredBehind.length);
        for (StageRunner stage : stages) stage.restoreCounts();
        boolean older = false;
        for (int i = 0; broken && i < batch.count; i++) older |= !flight.isFree(batch.slot[i]);
        broken = older;
    }

    // ---- moving --------------------------------------------------------------------------------------------------

    /** One call of every stage that a token can enter, in order. False if nothing could move. */
    boolean tick() {
        boolean moved = false;
        for (int s = 0; s < stages.length; s++) moved |= call(s);
        moved |= finish();
        flushFull();
        return moved;
    }

    /** Moves all tokens to the end or to where they wait; a stage begins when all have left the one before it. */
    void drain() {
        do {
            for (int s = 0; s < stages.length; s++) {
                while (call(s)) { }
            }
            finish();
        } while (flushFull());
    }

    private boolean call(int s) {
        if (broken) throw new IllegalStateException("A call failed halfway: close what ran it.");
        collect(s);
        if (batch.count == 0) return false;
        StageRunner stage = stages[s];
        stage.run(batch);
        broken = true; // until states, legs and caches agree again
        exits.compare(stage);
        stage.commit(batch);
        broken = false;
        test();
        draftLeavers();
        return true;
    }

    /** The tokens that enter the stage now. */
    private void collect(int s) {
        int first = legs.first(s);
        int end = legs.first(s + 1);
        batch.clear();
        if (policy.waits() && policy.rideAlong()) markCalled(first, end);
        for (int sequence = 0; sequence < sequences; sequence++) {
            if (flight.oldest(sequence) == Flight.NONE) continue;
            push(sequence);
            int front = legs.count;
            for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                int leg = flight.leg[slot];
                boolean draft = flight.draftOf[slot] != Flight.NONE;
                boolean enters = leg >= first && leg < end && (draft || leg <= front)
                        && (flight.moving[slot] || pushed[slot] || called[leg] && rides(slot));
                if (enters) batch.add(slot, leg);
                if (!draft) front = Math.min(front, leg);
            }
        }
        batch.sortByLeg(first, end);
        Arrays.fill(called, first, end, false);
    }

    /** Marks the waiting tokens that a moving younger one needs at its leg or has to overtake. */
    private void push(int sequence) {
        int furthest = Flight.NONE;
        for (int slot = flight.youngest(sequence); slot != Flight.NONE; slot = flight.older(slot)) {
            if (flight.draftOf[slot] != Flight.NONE) continue;
            pushed[slot] = flight.leg[slot] <= furthest;
            if (flight.moving[slot]) furthest = Math.max(furthest, flight.leg[slot]);
        }
    }

    /** Marks the legs that some token enters by itself. */
    private void markCalled(int first, int end) {
        for (int sequence = 0; sequence < sequences; sequence++) {
            int front = legs.count;
            for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                int leg = flight.leg[slot];
                if (leg >= first && leg < end && leg <= front && flight.moving[slot]) called[leg] = true;
                front = Math.min(front, leg);
            }
        }
    }

    /** Not into the tail, where its draft has been: what that left there is taken back when it moves by itself. */
    private boolean rides(int slot) {
        return policy.skipped() == SkippedKv.DEFER && flight.draftOf[slot] == Flight.NONE && flight.leg[slot] < tail;
    }

    // ---- exits ---------------------------------------------------------------------------------------------------

    /** Lets tokens of the batch leave that the policy lets leave. */
    private void test() {
        if (!policy.exits()) return;
        int count = 0;
        for (int i = 0; i < batch.count; i++) {
            int slot = batch.slot[i];
            boolean tests = exits.at(batch.leg[i]) && flight.moving[slot] && !flight.answered[slot]
                    && flight.generated[slot] >= 0 && flight.draftOf[slot] == Flight.NONE && flight.leg[slot] < tail;
            if (!tests) continue;
            testedLeg[count] = batch.leg[i];
            tested[count++] = slot;
        }
        if (count == 0) return;
        exits.test(tested, testedLeg, count, leaves);
        boolean answersThere = policy.signal().usesHead();
        int left = 0;
        for (int i = 0; i < count; i++) {
            if (!leaves[i]) continue;
            if (tail < legs.count) {
                flight.exitStage[tested[i]] = legs.stage(testedLeg[i]);
                if (policy.skipped() == SkippedKv.DEFER) draft(tested[i]);
                else flight.leg[tested[i]] = tail;
            } else if (answersThere) {
                exit(tested[i], testedLeg[i], i);
            } else {
                testedLeg[left] = testedLeg[i];
                tested[left++] = tested[i];
            }
        }
        if (left == 0) return;
        answers.run(tested, left);
        for (int i = 0; i < left; i++) {
            flight.exitArgmax[tested[i]] = answers.stats().argmax(i);
            exit(tested[i], testedLeg[i], i);
        }
    }

    private void exit(int slot, int leg, int row) {
        if (flight.isFree(slot)) return; // taken back by a listener
        count(slot, leg + 1);
        flight.answered[slot] = true;
        flight.moving[slot] = false;
        flight.exitStage[slot] = legs.stage(leg);
        if (flight.asks[slot]) listener.answered(slot, row);
        if (!policy.waits() && !flight.isFree(slot)) flight.remove(slot);
    }

    private void count(int slot, int taken) {
        depths[flight.passes[slot] - 1]++;
        answeredBehind[taken - 1]++;
        listener.passed(slot, taken);
    }

    /** A copy of the token runs the tail as a draft, while the token waits for its turn. */
    private void draft(int slot) {
        flight.answered[slot] = true;
        flight.moving[slot] = false;
        int copy = flight.add(flight.sequence[slot], flight.position[slot]);
        flight.leg[copy] = tail;
        flight.passes[copy] = flight.passes[slot];
        flight.draftOf[copy] = slot;
        space.ints[0] = slot;
        space.gather(space.ints, 1, space.hidden, space.y);
        space.ints[0] = copy;
        space.scatter(space.ints, 1, space.y, space.hidden);
    }

    /** Tokens that a router sent to the tail, but that would have to overtake waiting ones, answer as drafts too. */
    private void draftLeavers() {
        if (tail == legs.count || policy.skipped() != SkippedKv.DEFER) return;
        for (int i = 0; i < batch.count; i++) {
            int slot = batch.slot[i];
            if (flight.leg[slot] != tail || flight.answered[slot] || flight.draftOf[slot] != Flight.NONE) continue;
            int before = flight.older(slot);
            if (before != Flight.NONE && !flight.moving[before]) draft(slot);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /** Answers and ends the tokens that are behind the last leg. */
    private boolean finish() {
        int asking = 0;
        boolean any = false;
        for (int sequence = 0; sequence < sequences; sequence++) {
            boolean inOrder = true;
            for (int slot = flight.oldest(sequence), next; slot != Flight.NONE; slot = next) {
                next = flight.younger(slot);
                boolean draft = flight.draftOf[slot] != Flight.NONE;
                boolean ends = flight.leg[slot] == legs.count && (draft || inOrder);
                inOrder &= draft || ends;
                if (!ends) continue;
                any = true;
                boolean verifies = flight.answered[slot] && (policy.verifies() || exits.learns());
                boolean asks = flight.asks[slot] && !flight.answered[slot];
                if (draft || verifies || asks) finished[asking++] = slot;
                else end(slot, Flight.NONE);
            }
        }
        if (asking == 0) return any;
        answers.run(finished, asking);
        for (int i = 0; i < asking; i++) {
            int slot = finished[i];
            if (flight.isFree(slot)) continue; // taken back by a listener
            int argmax = answers.stats().argmax(i);
            if (flight.draftOf[slot] != Flight.NONE) {
                flight.exitArgmax[flight.draftOf[slot]] = argmax;
                listener.answered(flight.draftOf[slot], i);
                if (!flight.isFree(slot)) flight.remove(slot);
                continue;
            }
            exits.learn(slot, argmax);
            end(slot, i);
        }
        return true;
    }

    /** {@code row} of the answers is the token's; NONE: nobody wants it. */
    private void end(int slot, int row) {
        boolean exited = flight.answered[slot];
        if (!exited || tail < legs.count) count(slot, legs.count);
        if (row != Flight.NONE && !exited) listener.answered(slot, row);
        if (row != Flight.NONE && exited && policy.verifies()) listener.verified(slot, row);
        if (!flight.isFree(slot)) flight.remove(slot);
    }

    /** Lets go on what has waited as long as it may. Whether anything does. */
    private boolean flushFull() {
        if (!policy.waits()) return false;
        boolean flushed = false;
        for (int sequence = 0; sequence < sequences; sequence++) {
            int waiting = 0;
            boolean drafting = false;
            for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                if (!flight.moving[slot]) waiting++;
                drafting |= flight.draftOf[slot] != Flight.NONE;
            }
            if (waiting < policy.mostWaiting() || drafting) continue;
            flush(sequence);
            flushed = true;
        }
        return flushed;
    }

    // ---- room and report -----------------------------------------------------------------------------------------

    /** Pages that {@code count} more tokens of the sequence and those in flight may take in a stage. */
    long pagesFor(int stage, int sequence, int count) {
        return stages[stage].pagesFor(sequence, count);
    }

    /** Pages that a sequence of so many tokens takes in a stage at full depth. */
    long pagesOf(int stage, int count) {
        return (long) stages[stage].lists() * Math.ceilDiv(count, KvCache.PAGE);
    }

    int stages() {
        return stages.length;
    }

    /** Pages that tokens may still take in a stage. */
    int freePages(int stage) {
        return stages[stage].freePages();
    }

    KvCache cache(int stage) {
        return stages[stage].cache;
    }

    DepthReport report(long steps, long tokens) {
        List<Long> histogram = Arrays.stream(depths).boxed().toList();
        List<Long> behind = Arrays.stream(answeredBehind).boxed().toList();
        List<StageReport> reports = Arrays.stream(stages).map(StageRunner::report).toList();
        return new DepthReport(steps, tokens, histogram, behind, reports, done.work(), full.work());
    }

    void resetReport() {
        Arrays.fill(depths, 0);
        Arrays.fill(answeredBehind, 0);
        done.reset();
        full.reset();
        for (StageRunner stage : stages) stage.resetCounts();
    }

}
