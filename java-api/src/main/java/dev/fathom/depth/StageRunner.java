package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.KvShape;

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
    /** The stage's first leg, and the one behind its last. */
    private final int first;
    private final int end;
    private final Pass pass;
    private final Cost cost;
    private final Workspace space;
    private final Flight flight;
    private final Meter done;
    /** Answered tokens leave K and V, but do not pass. */
    private final boolean propagates;
    private final Buffer entryOf;

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

    StageRunner(Context context, Arena arena, Stage stage, int first, KvPolicy kv, boolean propagates, Limits limits,
            Workspace space, Flight flight, Meter done) {
        this.context = context;
        this.stage = stage;
        this.first = first;
        this.kv = kv;
        this.propagates = propagates;
        this.space = space;
        this.flight = flight;
        this.done = done;
        shape = stage.shape();
        end = first + shape.depths();
        pass = Pass.of(stage, context, arena, space, flight, done);
        cost = new Cost(shape);
        int lists = kv.lists(shape.depths());
        KvShape pool = shape.kv(limits.entries(lists));
        cache = new KvCache(context, arena, pool, limits.sequences(), lists, limits.tokens());
        int capacity = space.capacity;
        passing = new int[capacity];
        depth = new int[capacity];
        leaving = new int[capacity];
        leavingEntry = new int[capacity];
        leavingDepth = new int[capacity];
        lengthBefore = new int[capacity];
        entryOf = context.allocate(arena, 4L * capacity);
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
            propagate();
            if (passingCount == 0) return;
            space.gather(passing, passingCount, pass.state(), space.x);
            context.block(shape, passingCount, space.rows, null, stage.weights(), cache.entries(), null,
                    cache.shape().entries(), cache.pool(), space.x);
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
        depth[passingCount] = at;
        passing[passingCount++] = slot;
    }

    private void unplace(Batch batch, int i) {
        cache.truncate(flight.sequence[batch.slot[i]], kv.list(batch.leg[i] - first), lengthBefore[i]);
    }

    private boolean isLeaving(int slot) {
        return propagates && flight.answered[slot];
    }

    /** The token's entry at a depth that it skips: one to compute, or the one it has, where all depths are equal. */
    private void leave(int slot, int at) {
        int sequence = flight.sequence[slot];
        if (at > 0 && stage.propagation().sharesEntry() && flight.entry[slot] != Flight.NONE) {
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
            Propagation propagation = stage.propagation();
            context.backfill(propagation.shape(), cache.shape(), count, space.others, space.y,
                    propagation.weights(at), propagation.frequency(), entryOf, cache.pool());
            cost.propagate(done, count);
        }
    }

    /** The outputs become the states, and every token's leg the one that it takes next. */
    void commit(Batch batch) {
        if (passingCount > 0) {
            for (int i = 0; i < passingCount; i++) {
                int slot = passing[i];
                flight.passes[slot] = Math.max(flight.passes[slot], depth[i] + 1);
                cost.row(done, space.rows.visible(i), kv.stores(depth[i]));
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

    // ---- room and report -----------------------------------------------------------------------------------------

    /**
     * Pages that the sequence takes if {@code count} further tokens, and those in flight that have not been here, take
     * every depth.
     */
    long pagesFor(int sequence, int count) {
        long pages = 0;
        for (int list = 0; list < cache.lists(); list++) {
            int coming = count;
            for (int slot = flight.oldest(sequence); slot != Flight.NONE; slot = flight.younger(slot)) {
                if (flight.leg[slot] <= first + list) coming++;
            }
            pages += cache.pagesFor(sequence, list, coming);
        }
        return pages;
    }

    /** Adds what the token costs at every depth. */
    void countFullDepth(Meter full, int position) {
        for (int at = first; at < end; at++) cost.row(full, position + 1, kv.stores(at - first));
        switch (stage.router()) {
            case Router.Always always -> { }
            case Router.ExpertChoice choice -> full.compute(shape.depths() * Cost.routerFlops(choice.shape()));
            case Router.TokenChoice choice -> full.compute(Cost.routerFlops(choice.shape()));
        }
    }

    /** The stage's weights, once per depth. */
    void countFullWeights(Meter full) {
        full.readWeights(shape.depths() * cost.weightBytes);
    }

    StageReport report() {
        return new StageReport(calls, rows, cache.liveBytes(), cache.heldBytes(), cache.poolBytes());
    }

    void resetCounts() {
        calls = rows = 0;
    }
}
