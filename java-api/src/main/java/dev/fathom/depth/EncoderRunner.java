package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.BlockShape;
import dev.fathom.Context;

/** Runs an encoder over the sources of several sequences at once. Every row sees its whole source. */
final class EncoderRunner {
    /** Told where in {@link Workspace#y} the output of source {@code i} begins. */
    interface Receiver {
        void take(int i, int row);
    }

    private final Context context;
    private final Encoder encoder;
    private final Workspace space;
    private final int rows;
    private final int sources;
    private final KvCache[] caches;
    private final Cost[] costs;
    private final Meter done;
    private final Meter full;
    private final int[] ids;

    EncoderRunner(Context context, Arena arena, Encoder encoder, Workspace space, Limits limits, Meter done,
            Meter full) {
        Require.atLeast("source of the limits, for a model with an encoder,", limits.source(), 1);
        Require.that(limits.source() <= space.capacity, "source must be at most rows (" + space.capacity + "), for all"
                + " of a source is in one call; got " + limits.source());
        this.context = context;
        this.encoder = encoder;
        this.space = space;
        this.done = done;
        this.full = full;
        rows = space.capacity;
        sources = Math.min(limits.sequences(), rows);
        ids = new int[rows];
        caches = new KvCache[encoder.stages().size()];
        costs = new Cost[caches.length];
        int pages = Math.min(sources * Math.ceilDiv(limits.source(), KvCache.PAGE),
                Math.ceilDiv(rows, KvCache.PAGE) + sources);
        for (int s = 0; s < caches.length; s++) {
            BlockShape shape = encoder.stages().get(s).shape();
            costs[s] = new Cost(shape);
            caches[s] = new KvCache(context, arena, shape.kv((long) pages * KvCache.PAGE), sources, 1, limits.source());
        }
    }

    /** As many sources per call as there are rows for. */
    void run(int[][] source, int count, Receiver receiver) {
        for (int from = 0, to; from < count; from = to) {
            int tokens = 0;
            for (to = from; to < count && to - from < sources && tokens + source[to].length <= rows; to++) {
                System.arraycopy(source[to], 0, ids, tokens, source[to].length);
                tokens += source[to].length;
            }
            try {
                encode(source, from, to, tokens);
            } finally {
                for (KvCache cache : caches) {
                    for (int i = 0; i < to - from; i++) cache.rewind(i, 0);
                }
            }
            for (int i = from, row = 0; i < to; row += source[i++].length) receiver.take(i, row);
        }
    }

    /** Sources {@code from .. to)}, whose ids stand in {@link #ids}, into {@link Workspace#y}. */
    private void encode(int[][] source, int from, int to, int tokens) {
        space.index.write(0, ids, 0, tokens);
        context.embed(encoder.embedding(), tokens, space.index, encoder.table(), space.x);
        for (int s = 0; s < caches.length; s++) {
            Stage stage = encoder.stages().get(s);
            KvCache cache = caches[s];
            for (int i = from, row = 0; i < to; i++) {
                for (int at = 0; at < source[i].length; at++, row++) {
                    place(cache, s, i - from, source[i].length, at, row);
                }
            }
            context.block(stage.shape(), tokens, space.rows, null, stage.weights(), cache.entries(), null,
                    cache.shape().entries(), cache.pool(), space.x);
            done.readWeights(costs[s].weightBytes);
            full.readWeights(costs[s].weightBytes);
        }
        for (int row = 0; row < tokens; row++) space.rows.start(row, 0);
        context.norm(encoder.norm(), tokens, null, space.x, encoder.gain(), encoder.normBias(), space.y);
    }

    private void place(KvCache cache, int stage, int sequence, int length, int at, int row) {
        int entry = cache.append(sequence, 0, at);
        int radius = encoder.radius() == 0 ? length : encoder.radius();
        int begin = Math.max(0, at - radius);
        int end = Math.min(length, at + radius + 1);
        space.rows.set(row, cache.start(sequence, 0), end, at, 0, entry).start(row, begin);
        costs[stage].row(done, end - begin, 0, true);
        costs[stage].row(full, end - begin, 0, true);
    }
}
