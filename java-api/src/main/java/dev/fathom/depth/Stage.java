package dev.fathom.depth;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.GateShape;

/**
 * A block and how tokens pass it. The block's {@code depths} is the most passes a token takes. A plain stack of layers
 * is a stage with one depth; layers that are each looped in place are consecutive stages of one layer.
 *
 * @param weights     packed weights of the block
 * @param propagation for exits that propagate their state to passes of this stage; null: they cannot
 */
public record Stage(BlockShape shape, Buffer weights, Router router, KvPolicy kv, Propagation propagation) {
    public Stage {
        Require.notNull("shape", shape);
        Require.notNull("weights", weights);
        Require.notNull("kv", kv);
        if (propagation != null) {
            Require.that(kv == KvPolicy.PER_DEPTH && router instanceof Router.Always,
                    "propagation needs a stage without router and K,V per depth");
            Require.equal("hiddenSize of the propagation", propagation.shape().hiddenSize(),
                    "hiddenSize of the block", shape.hiddenSize());
            int sets = propagation.weights().size();
            Require.that(sets == 1 || sets == shape.depths(),
                    "propagation has weights for 1 or " + shape.depths() + " depths, got " + sets);
        }
        Require.that(!shape.cross(), "shape must have no cross-attention: a session is a decoder alone");
        Require.that(shape.relativeWidth() == 0,
                "shape must have no relative bias: a session keeps no entry's position");
        switch (Require.notNull("router", router)) {
            case Router.Always always -> { }
            case Router.ExpertChoice choice -> {
                Require.equal("routers of expert choice", choice.shape().depths(), "depths of the block",
                        shape.depths());
                checkWidth(shape, choice.shape());
            }
            case Router.TokenChoice choice -> {
                Require.equal("outputs of token choice", choice.shape().outputs(), "depths of the block",
                        shape.depths());
                checkWidth(shape, choice.shape());
            }
        }
    }

    /** Without propagation. */
    public Stage(BlockShape shape, Buffer weights, Router router, KvPolicy kv) {
        this(shape, weights, router, kv, null);
    }

    /** Every token takes every depth, with K and V per depth. */
    public Stage(BlockShape shape, Buffer weights) {
        this(shape, weights, new Router.Always(), KvPolicy.PER_DEPTH);
    }

    private static void checkWidth(BlockShape block, GateShape router) {
        Require.equal("hiddenSize of the router", router.hiddenSize(), "hiddenSize of the block", block.hiddenSize());
    }
}
