package dev.fathom.depth;

import dev.fathom.Rows;

/**
 * Where a token's K and V of each depth are stored, and what a row at a depth sees of the tokens before it. All of them
 * are operations on lists; K and V are never copied.
 */
public enum KvPolicy {
    /**
     * Recursion-wise caching: every depth stores K and V of its own, and a row sees the tokens that reached its depth.
     * A token that stops early leaves nothing behind at later depths.
     */
    PER_DEPTH,

    /**
     * Recursive sharing: only depth 0 computes K and V, and a row at any depth sees those of all tokens up to its own.
     */
    FIRST_DEPTH {
        @Override
        int list(int depth) {
            return 0;
        }

        @Override
        boolean stores(int depth) {
            return depth == 0;
        }
    },

    /**
     * Recursive sharing with updates ({@code update_cache} of Mixture-of-Recursions): a row at depth r sees every token
     * up to its own, with the K and V of depth r where the token reached it, else those of depth 0.
     */
    FIRST_UPDATED {
        @Override
        int substitute(KvCache cache, int sequence, int item, int depth) {
            return cache.entry(sequence, 0, item);
        }
    },

    /**
     * A row at depth r sees every token up to its own, with the K and V of depth r where the token reached it, else
     * those of the deepest depth that it did reach.
     */
    LATEST {
        @Override
        int substitute(KvCache cache, int sequence, int item, int depth) {
            return cache.entry(sequence, depth - 1, item);
        }
    };

    /** Lists per sequence. */
    final int lists(int depths) {
        return list(depths - 1) + 1;
    }

    /** The list that a row at this depth reads. */
    int list(int depth) {
        return depth;
    }

    /** Whether a row at this depth stores K and V. */
    boolean stores(int depth) {
        return true;
    }

    /**
     * The entry that stands at this depth for a token that did not reach it; {@link KvCache#NONE}: nothing does.
     *
     * @param item the token's item in list 0, which names every token that came to the stage
     */
    int substitute(KvCache cache, int sequence, int item, int depth) {
        return KvCache.NONE;
    }

    /** Appends what stands for those before item {@code end} of list 0 that did not reach this depth. */
    private void fill(KvCache cache, int sequence, int end, int depth) {
        for (int at = cache.length(sequence, list(depth)); at < end; at++) {
            int entry = substitute(cache, sequence, at, depth);
            if (entry == KvCache.NONE) return;
            cache.alias(sequence, list(depth), entry);
        }
    }

    /**
     * Fills in row {@code i}: the token at {@code position} about to pass {@code depth}. Takes an entry if it stores
     * one. Tokens of a sequence must come in order of their positions.
     */
    final void place(KvCache cache, Rows rows, int i, int sequence, int position, int depth) {
        int list = list(depth);
        int before = depth == 0 || this == PER_DEPTH ? 0 : cache.before(sequence, 0, position);
        fill(cache, sequence, before, depth);
        int entry = stores(depth) ? cache.append(sequence, list, position) : KvCache.NONE;
        int visible = stores(depth) ? cache.length(sequence, list) : before + 1;
        rows.set(i, cache.start(sequence, list), visible, position, depth, entry);
    }
}
