package dev.fathom.depth;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.GateShape;

/**
 * A block and how tokens pass it. The block's {@code depths} is the most passes a token takes. A plain stack of layers
 * is a stage with one depth; layers that are each looped in place are consecutive stages of one layer.
 *
 * @param weights     packed weights of the block
 * @param propagation makes K and V of tokens that exit before this stage or in it; null: they cannot propagate
 * @param source      makes K and V of the block's cross-attention from the encoder's output; null: it has none
 */
public record Stage(BlockShape shape, Buffer weights, Router router, KvPolicy kv, KvProjection propagation,
                    KvProjection source) {
    public Stage {
        Require.notNull("shape", shape);
        Require.notNull("weights", weights);
        Require.notNull("kv", kv);
        if (propagation != null) {
            Require.that(kv == KvPolicy.PER_DEPTH && router instanceof Router.Always,
                    "propagation needs a stage without router and K,V per depth");
            checkWidth(shape, propagation);
            int sets = propagation.weights().size();
            Require.that(sets == 1 || sets == shape.depths(),
                    "propagation has weights for 1 or " + shape.depths() + " depths, got " + sets);
        }
        Require.that(shape.cross() == (source != null), shape.cross() ? "a block with cross-attention needs a source"
                : "a block without cross-attention must have no source");
        if (source != null) {
            Require.that(source.sharesEntry(), "all depths share the K and V of the source: it has one weight");
            checkWidth(shape, source);
        }
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

    /** Without propagation, of a decoder without encoder. */
    public Stage(BlockShape shape, Buffer weights, Router router, KvPolicy kv) {
        this(shape, weights, router, kv, null, null);
    }

    /** Every token takes every depth, with K and V per depth. */
    public Stage(BlockShape shape, Buffer weights) {
        this(shape, weights, new Router.Always(), KvPolicy.PER_DEPTH);
    }

    private static void checkWidth(BlockShape block, KvProjection projection) {
        Require.equal("hiddenSize of the projection", projection.shape().hiddenSize(), "hiddenSize of the block",
                block.hiddenSize());
    }

    private static void checkWidth(BlockShape block, GateShape router) {
        Require.equal("hiddenSize of the router", router.hiddenSize(), "hiddenSize of the block", block.hiddenSize());
    }

    /** The same with another router. */
    public Stage withRouter(Router router) {
        return new Stage(shape, weights, router, kv, propagation, source);
    }
}
