package dev.fathom.depth;

import dev.fathom.Rows;

/** Where a token's K and V of each depth are stored, and what a row at a depth sees. */
public enum KvPolicy {
    /**
     * Recursion-wise caching: every depth stores K and V of its own, and a row sees the tokens that reached its depth.
     * A token that stops early leaves nothing behind at later depths.
     */
    PER_DEPTH {
        @Override
        int lists(int depths) {
            return depths;
        }

        @Override
        void place(KvCache cache, Rows rows, int i, int sequence, int position, int depth) {
            append(cache, rows, i, sequence, position, depth, depth);
        }
    },

    /**
     * Recursive sharing: only depth 0 computes K and V, and a row at any depth sees those of all tokens up to its own.
     */
    FIRST_DEPTH {
        @Override
        int lists(int depths) {
            return 1;
        }

        @Override
        void place(KvCache cache, Rows rows, int i, int sequence, int position, int depth) {
            if (depth == 0) append(cache, rows, i, sequence, position, depth, 0);
            else rows.set(i, cache.start(sequence, 0), position + 1, position, depth, -1);
        }
    };

    /** Lists per sequence. */
    abstract int lists(int depths);

    /** Whether a row at this depth stores K and V. */
    boolean stores(int depth) {
        return lists(depth + 1) > depth;
    }

    /**
     * Fills in row {@code i}: the token at {@code position} about to pass {@code depth}. Takes an entry if it stores
     * one.
     */
    abstract void place(KvCache cache, Rows rows, int i, int sequence, int position, int depth);

    private static void append(KvCache cache, Rows rows, int i, int sequence, int position, int depth, int list) {
        int entry = cache.append(sequence, list, position);
        rows.set(i, cache.start(sequence, list), cache.length(sequence, list), position, depth, entry);
    }
}
