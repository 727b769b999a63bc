package dev.fathom.bench.depth;

import dev.fathom.Context;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.ExitPolicy;

/**
 * A model under a policy: one point of the study.
 *
 * @param system   what it is an instance of
 * @param model    name of the trained model
 * @param setting  what distinguishes it from the other points of its system
 * @param depthCap most passes through a stage that loops
 * @param lossless whether its text is that of the full model by construction, so that it is measured for speed alone
 */
record Subject(String system, String model, String setting, Context context, DepthModel weights, ExitPolicy policy,
               int depthCap, boolean lossless) {
    Subject(String system, String model, String setting, Context context, DepthModel weights, ExitPolicy policy) {
        this(system, model, setting, context, weights, policy, Integer.MAX_VALUE, false);
    }

    /** Layers that a token executes that takes every pass. */
    int layers() {
        return weights.stages().stream().mapToInt(s -> s.shape().layers() * s.shape().depths()).sum();
    }
}
