package dev.fathom.depth;

/** When a request may take a place in the batch, and which rows share a call. Changes no result. */
public enum BatchPolicy {
    /** A batch is filled once and runs until its last text has ended. */
    STATIC,
    /** A text that ends makes room for the next one between tokens; within a token all go depth by depth. */
    PER_TOKEN,
    /**
     * Continuous depth-wise batching: a call of the block takes tokens at all depths, and a place that an early exit
     * frees is taken in the next step.
     */
    PER_DEPTH
}
