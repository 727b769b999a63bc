package dev.fathom.depth;

/** What a token that exits leaves in the caches of the passes that it skips. */
public enum SkippedKv {
    /** Nothing: later tokens do not see it there. */
    HOLES,
    /** The K and V of the pass that it exited after, for models that loop: see {@link KvPolicy#LATEST}. */
    ALIAS,
    /**
     * The K and V of the last layer before the exit, in every layer behind it, for models that do not loop (DREX, MuE).
     */
    COPY,
    /**
     * K and V computed from its exit state, as soon as a later token goes there: state propagation (CALM). Costs the
     * key and value projections only.
     */
    PROPAGATE,
    /**
     * Exactly what full depth leaves: its state waits until a later token goes deeper, and passes with it in one call
     * (FREE: synchronized parallel decoding). Saves reading weights, not arithmetic.
     */
    DEFER
}
