package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;

/**
 * Runs one stage: a batch of tokens, each at a depth of its own, through one call of the block. {@link #run} leaves the
 * block's outputs in {@link Workspace#x} and the states as they were; {@link #commit} makes the outputs the states.
 */
final class StageRunner {
    final KvCache cache;
    final KvPolicy kv;
    /** The tokens that the last batch took through the block, in the order of its rows. */
    final int[] passing;
    int passingCount;

    private final Context context;
    private final Stage stage;
    private final BlockShape shape;
    /** Lists of a sequence's own tokens; with cross-attention one more holds those of its source. */
    private final int lists;
    /** Those of all sources at their longest. */
    private final int sourcePages;
    /** The stage's first leg, and the one behind its last. */
    private final int first;
    private final int end;
    private final Pass pass;
    private final Cost cost;
    /** Of a token that takes every depth. */
    private final long routerFlops;
    private final Workspace space;
    private final Flight flight;
    private final Meter done;
    /** Answered tokens leave K and V, but do not pass. */
    private final boolean leaves;
    /** What they leave is copied from the stage where they exited; null: it is made from their states. */
    private final StageRunner[] copies;
    private final Buffer entryOf;
    private final Buffer copiedK;
    private final Buffer copiedV;

    private final int[] depth;
    /** Tokens of which only K and V are computed, their entries and depths. */
    private final int[] leaving;
    private final int[] leavingEntry;
    private final int[] leavingDepth;
    private int leavingCount;
    /** Per token of the batch: items of its list before the call, for the way back. */
    private final int[] lengthBefore;

    private long calls;
    private long rows;
    private long markedCalls;
    private long markedRows;

    /** {@code copies}: all stages, if answered tokens leave copies of what they stored last. */
    StageRunner(Context context, Arena arena, Stage stage, int first, KvPolicy kv, boolean leaves,
            StageRunner[] copies, Limits limits, Workspace space, Flight flight, Meter done) {
        this.context = context;
        this.stage = stage;
        this.first = first;
        this.kv = kv;
        this.leaves = leaves;
        this.copies = copies;
        this.space = space;
        this.flight = flight;
        this.done = done;
        shape = stage.shape();
        end = first + shape.depths();
        pass = Pass.of(stage, context, arena, space, flight, limits.sequences(), done);
        cost = new Cost(shape);
        routerFlops = switch (stage.router()) {
            case Router.Always always -> 0;
            case Router.ExpertChoice choice -> shape.depths() * Cost.routerFlops(choice.shape());
            case Router.TokenChoice choice -> Cost.routerFlops(choice.shape());
        };
        lists = kv.lists(shape.depths());
        boolean cross = shape.cross();
        sourcePages = (int) (limits.sourceEntries() / KvCache.PAGE);
        long entries = limits.entries(lists) + (cross ? limits.sourceEntries() : 0);
        cache = new KvCache(context, arena, shape.kv(entries), limits.sequences(), cross ? lists + 1 : lists,
                cross ? Math.max(limits.tokens(), limits.source()) : limits.tokens());
        int capacity = space.capacity;
        passing = new int[capacity];
        depth = new int[capacity];
        leaving = new int[capacity];
        leavingEntry = new int[capacity];
        leavingDepth = new int[capacity];
        lengthBefore = new int[capacity];
        entryOf = context.allocateShared(arena, 4L * capacity);
        long kvBytes = copies == null ? 0 : 4L * capacity * shape.kvHeads() * shape.headDim();
        copiedK = context.allocate(arena, kvBytes);
        copiedV = context.allocate(arena, kvBytes);
    }

    // ---- a call --------------------------------------------------------------------------------------------------

    /** If this fails, nothing has changed but what is scratch. */
    void run(Batch batch) {
        int entering = 0;
        while (entering < batch.count && batch.leg[entering] == first) entering++;
        if (entering > 0) pass.enter(batch.slot, entering);
        passingCount = leavingCount = 0;
        int placed = 0;
        try {
            while (placed < batch.count) place(batch, placed++);
            if (copies == null) propagate();
            else copy();
            if (passingCount == 0) return;
            space.gather(passing, passingCount, pass.state(), space.x);
            context.block(shape, passingCount, space.rows, shape.cross() ? space.crossRows : null, stage.weights(),
                    cache.entries(), shape.relativeWidth() > 0 ? cache.positions() : null, cache.shape().entries(),
                    cache.pool(), space.x);
        } catch (RuntimeException | Error e) {
            while (placed > 0) unplace(batch, --placed);
            throw e;
        }
    }

    private void place(Batch batch, int i) {
        int slot = batch.slot[i];
        int at = batch.leg[i] - first;
        int sequence = flight.sequence[slot];
        lengthBefore[i] = cache.length(sequence, kv.list(at));
        if (isLeaving(slot)) {
            leave(slot, at);
            return;
        }
        kv.place(cache, space.rows, passingCount, sequence, flight.position[slot], at);
        if (shape.cross()) {
            space.crossRows.list(passingCount, cache.start(sequence, lists));
            space.crossRows.visible(passingCount, cache.length(sequence, lists));
        }
        depth[passingCount] = at;
        passing[passingCount++] = slot;
    }

    private void unplace(Batch batch, int i) {
        cache.truncate(flight.sequence[batch.slot[i]], kv.list(batch.leg[i] - first), lengthBefore[i]);
    }

    private boolean isLeaving(int slot) {
        return leaves && flight.answered[slot];
    }

    /** The token's entry at a depth that it skips: one to compute, or the one it has, where all depths are equal. */
    private void leave(int slot, int at) {
        int sequence = flight.sequence[slot];
        if (at > 0 && flight.entry[slot] != Flight.NONE && stage.propagation().sharesEntry()) {
            cache.alias(sequence, at, flight.entry[slot]);
            return;
        }
        leavingEntry[leavingCount] = cache.append(sequence, at, flight.position[slot]);
        leavingDepth[leavingCount] = at;
        leaving[leavingCount++] = slot;
    }

    /** Computes K and V of the tokens that only leave them, depth by depth. */
    private void propagate() {
        for (int from = 0, to; from < leavingCount; from = to) {
            int at = leavingDepth[from];
            int count = 0;
            for (to = from; to < leavingCount && leavingDepth[to] == at; to++, count++) {
                space.ints[count] = leaving[to];
                space.others.position(count, flight.position[leaving[to]]);
            }
            entryOf.write(0, leavingEntry, from, count);
            space.gather(space.ints, count, space.hidden, space.y);
            KvProjection propagation = stage.propagation();
            context.backfill(propagation.shape(), cache.shape(), count, space.others, space.y,
                    propagation.weights(at), propagation.frequency(), entryOf, cache.pool());
            cost.propagate(done, count);
        }
    }

    /** K and V that the last layer before the exit stored, into all layers here. Tokens of an exit come together. */
    private void copy() {
        for (int from = 0, to; from < leavingCount; from = to) {
            StageRunner source = copies[flight.exitStage[leaving[from]]];
            for (to = from; to < leavingCount && copies[flight.exitStage[leaving[to]]] == source; to++) {
                int slot = leaving[to];
                int sequence = flight.sequence[slot];
                space.ints[to - from] = source.cache.entryAt(sequence, 0, flight.position[slot]);
                space.others.entry(to - from, leavingEntry[to]);
            }
            int count = to - from;
            entryOf.write(0, space.ints, 0, count);
            int last = source.shape.layers() - 1;
            context.kvRead(source.cache.shape(), last, count, entryOf, source.cache.pool(), copiedK, copiedV);
            for (int layer = 0; layer < shape.layers(); layer++) {
                context.kvWrite(cache.shape(), layer, count, space.others, copiedK, copiedV, cache.pool());
            }
            cost.store(done, count);
        }
    }

    /** The outputs become the states, and every token's leg the one that it takes next. */
    void commit(Batch batch) {
        if (passingCount > 0) {
            for (int i = 0; i < passingCount; i++) {
                int slot = passing[i];
                flight.passes[slot] = Math.max(flight.passes[slot], depth[i] + 1);
                cost.row(done, space.rows.visible(i), shape.cross() ? space.crossRows.visible(i) : 0,
                        kv.stores(depth[i]));
            }
            done.readWeights(cost.weightBytes);
            calls++;
            rows += passingCount;
            pass.leave(passing, depth, passingCount);
            for (int i = 0; i < passingCount; i++) flight.leg[passing[i]] = first + depth[i];
        }
        for (int i = 0; i < leavingCount; i++) flight.entry[leaving[i]] = leavingEntry[i];
        for (int i = 0; i < batch.count; i++) {
            int slot = batch.slot[i];
            if (!isLeaving(slot)) continue;
            flight.leg[slot]++;
            if (flight.leg[slot] == end) flight.entry[slot] = Flight.NONE; // the next stage has a pool of its own
        }
    }

    // ---- sequences -----------------------------------------------------------------------------------------------

    /** Forgets the tokens of a sequence from {@code position} on, but not its source. */
    void rewind(int sequence, int position) {
        for (int list = 0; list < lists; list++) cache.rewind(sequence, list, position);
    }

    /** Forgets all of a sequence. */
    void close(int sequence) {
        cache.rewind(sequence, 0);
    }

    /**
     * Takes in the source of a sequence: K and V of the cross-attention from the encoder's output.
     *
     * @param from {@code count} rows of {@link Workspace#y} from this one on
     */
    void source(int sequence, int from, int count) {
        for (int i = 0; i < count; i++) {
            space.ints[i] = cache.append(sequence, lists, i);
            space.others.position(i, i);
        }
        entryOf.write(0, space.ints, 0, count);
        KvProjection projection = stage.source();
        context.backfill(projection.shape(), cache.shape(), count, space.others, space.slice(space.y, from, count),
                projection.weights(0), null, entryOf, cache.pool());
        cost.propagate(done, count);
    }

    /** Forgets the source of a sequence. */
    void forgetSource(int sequence) {
        cache.truncate(sequence, lists, 0);
    }

    int sourceLength(int sequence) {
        return cache.length(sequence, lists);
    }

    // ---- room and report -----------------------------------------------------------------------------------------

    /**
     * Pages that the sequence takes if {@code count} further tokens, and those in flight that have not been here, take
     * every depth.
     */
    long pagesFor(int sequence, int count) {
        long pages = 0;
        for (int list = 0; list < lists; list++) {
            int coming = count;
            for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                if (flight.leg[slot] <= first + list) coming++;
            }
            pages += cache.pagesFor(sequence, list, coming);
        }
        return pages;
    }

    /** Free pages that are not kept for sources. */
    int freePages() {
        return cache.freePages() - (shape.cross() ? sourcePages - cache.ownedPages(lists) : 0);
    }

    /** Adds what the token costs at every depth. */
    void countFullDepth(Meter full, int sequence, int position) {
        int seen = shape.cross() ? sourceLength(sequence) : 0;
        for (int at = first; at < end; at++) cost.row(full, position + 1, seen, kv.stores(at - first));
        full.compute(routerFlops);
    }

    /** The stage's weights, once per depth. */
    void countFullWeights(Meter full) {
        full.readWeights(shape.depths() * cost.weightBytes);
    }

    /** Lists of a sequence's own tokens. */
    int lists() {
        return lists;
    }

    StageReport report() {
        return new StageReport(calls, rows, cache.liveBytes(), cache.heldBytes(), cache.poolBytes());
    }

    void resetCounts() {
        calls = rows = 0;
    }

    void markCounts() {
        markedCalls = calls;
        markedRows = rows;
    }

    void restoreCounts() {
        calls = markedCalls;
        rows = markedRows;
    }
}
