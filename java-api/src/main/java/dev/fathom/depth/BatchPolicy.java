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
    PER_DEPTH;

    /**
     * The policy that suits a model. Where one stage loops it is {@link #PER_DEPTH}: tokens at all depths of that stage
     * share a call. Where several stages loop (layers that are each repeated in place), texts that came at different
     * times would stand in different stages, and every call would read weights for a few of them: {@link #PER_TOKEN}
     * takes all of them through a stage, whose weights stay in the cache from pass to pass, before the next one begins.
     * The sizes of caches do not matter to this.
     */
    public static BatchPolicy of(DepthModel model) {
        Require.notNull("model", model);
        return model.stages().stream().filter(stage -> stage.shape().depths() > 1).count() > 1 ? PER_TOKEN : PER_DEPTH;
    }
}
