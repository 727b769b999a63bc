package dev.fathom.examples;

import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.RouterKind;
import dev.fathom.depth.Router;
import dev.fathom.examples.ModelConfig.Routing;

/** Packs the routers of a Mixture-of-Recursions checkpoint. */
final class RouterLoader {
    private final Packing packing;
    private final ModelConfig config;
    private final Routing routing;
    private final Checkpoint checkpoint;
    /** Number of the first routed layer. */
    private final int first;

    RouterLoader(Packing packing, ModelConfig config, Checkpoint checkpoint) {
        this.packing = packing;
        this.config = config;
        this.checkpoint = checkpoint;
        routing = config.routing();
        first = config.recursion().sharing().ends() / 2;
    }

    Router load(StagePlan plan) {
        Router.Gating gating = routing.weighted() ? Router.Gating.WEIGHTED : Router.Gating.ADDITIVE;
        if (routing.tokenChoice()) {
            GateShape shape = shape("mor_router", plan.depths(), 1, routing.temperature());
            return new Router.TokenChoice(shape, weights("mor_router", shape), bias(plan.depths()), gating);
        }
        GateShape shape = shape("mor_router", 1, plan.depths(), routing.temperature());
        Router.Selector selector = null;
        if (routing.auxiliary()) { // it reads the state as it is, whatever the temperature of the main router
            GateShape deciding = shape("mlp_router", 1, plan.depths(), 1);
            selector = new Router.Selector(deciding, weights("mlp_router", deciding));
        }
        return new Router.ExpertChoice(shape, weights("mor_router", shape), gating, selector, null);
    }

    private GateShape shape(String name, int outputs, int routers, float temperature) {
        int inner = 0;
        if (routing.router() == RouterKind.MLP) {
            Tensor tensor = checkpoint.peek(prefix(name, 0) + "0.weight");
            boolean told = tensor != null && tensor.shape().length > 0;
            inner = told ? (int) Math.clamp(tensor.shape()[0], 1, Integer.MAX_VALUE) : 2 * config.hiddenSize();
        }
        return new GateShape(config.hiddenSize(), inner, outputs, routers, routing.router(), routing.function(),
                temperature, routing.alpha(), 0);
    }

    private String prefix(String name, int depth) {
        return "model.layers." + (first + depth) + "." + name + ".router.";
    }

    private Buffer weights(String name, GateShape shape) {
        Buffer weights = packing.allocate("the routers", packing.context().gateBytes(shape));
        int hidden = config.hiddenSize();
        for (int depth = 0; depth < shape.depths(); depth++) {
            String prefix = prefix(name, depth);
            if (shape.router() == RouterKind.MLP) {
                int inner = shape.innerSize();
                packing.gate(shape, depth, GatePart.W1, checkpoint.get(prefix + "0.weight", inner, hidden), weights);
                packing.gate(shape, depth, GatePart.W2, checkpoint.get(prefix + "2.weight", shape.outputs(), inner),
                        weights);
            } else {
                packing.gate(shape, depth, GatePart.W1, checkpoint.get(prefix + "weight", shape.outputs(), hidden),
                        weights);
            }
        }
        return weights;
    }

    /** The bias of loss-free balancing, under any of the names it has had; null without. */
    private Buffer bias(int outputs) {
        String prefix = "model.layers." + first + ".";
        Buffer bias = null;
        for (String name : List.of("router_bias", "mor_router.router_bias", "mor_router.bias")) {
            Tensor tensor = checkpoint.find(prefix + name, outputs);
            if (tensor != null && bias == null) bias = packing.vector(tensor);
        }
        if (bias == null && routing.biased()) checkpoint.get(prefix + "router_bias", outputs);
        return bias;
    }
}
