package dev.fathom.examples;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.IntBinaryOperator;

import dev.fathom.depth.ExitPoint;
import dev.fathom.examples.ModelConfig.Recursion;

/**
 * Layers that run one after the other, {@code depths} times, and where a checkpoint keeps each of them. The stages of a
 * model in order are its unrolled layers.
 */
record StagePlan(int layers, int depths, boolean routed, Prefix prefix) {

    /** The beginning of the names of a layer's tensors as they are used in one pass. */
    interface Prefix {
        String of(int layer, int depth);
    }

    /** The prefixes of all passes through a layer: its tied copies. */
    List<String> copies(int layer) {
        Set<String> names = new LinkedHashSet<>();
        for (int depth = 0; depth < depths; depth++) names.add(prefix.of(layer, depth));
        return List.copyOf(names);
    }

    static List<StagePlan> of(ModelConfig config, Checkpoint checkpoint) {
        if (config.recursion() == null) return vanilla(config);
        return config.routing() == null ? recursive(config, checkpoint) : routed(config, checkpoint);
    }

    /** One stage; with exits one up to each of them, and one for the rest. */
    private static List<StagePlan> vanilla(ModelConfig config) {
        List<StagePlan> stages = new ArrayList<>();
        int begin = 0;
        for (int exit : config.exits()) {
            if (exit >= config.layers()) {
                throw new UserException("An exit behind layer " + exit + " of " + config.layers() + " skips nothing.");
            }
            stages.add(layers(begin, exit));
            begin = exit;
        }
        stages.add(layers(begin, config.layers()));
        return stages;
    }

    private static StagePlan layers(int begin, int end) {
        return unrolled(end - begin, 1, (layer, depth) -> begin + layer);
    }

    /** The passes behind which so many layers have been executed. */
    static List<ExitPoint> exits(List<StagePlan> stages, List<Integer> layers) {
        List<ExitPoint> points = new ArrayList<>();
        for (int wanted : layers) {
            int executed = 0;
            for (int stage = 0; stage < stages.size(); stage++) {
                for (int depth = 0; depth < stages.get(stage).depths(); depth++) {
                    executed += stages.get(stage).layers();
                    if (executed == wanted) points.add(new ExitPoint(stage, depth));
                }
            }
        }
        if (points.size() == layers.size()) return points;
        throw new UserException("Exits must stand at the end of a pass through the shared layers,"
                + " got exits behind layers " + layers + ".");
    }

    /** Recursion without routers keeps the unrolled names. */
    private static List<StagePlan> recursive(ModelConfig config, Checkpoint checkpoint) {
        Recursion recursion = config.recursion();
        int ends = recursion.sharing().ends();
        // With own ends the last layer is always stored, so the checkpoint itself says how many there are.
        int total = ends > 0 ? 1 + checkpoint.largestIndex("model.layers.") : config.layers();
        int depths = recursion.depths();
        if (total <= ends || (total - ends) % depths != 0) {
            throw new UserException("config.json: " + total + " layers less " + ends
                    + " unshared ones do not divide into " + depths + " recursions.");
        }
        LayerTying tying = new LayerTying(recursion.sharing(), total, depths);
        List<StagePlan> stages = new ArrayList<>();
        if (ends > 0) stages.add(unrolled(1, 1, (layer, depth) -> 0));
        if (recursion.sharing().isCycle()) {
            stages.add(unrolled(tying.slots(), depths, tying::layer));
        } else {
            for (int i = 0; i < tying.slots(); i++) {
                int slot = i;
                stages.add(unrolled(1, depths, (layer, depth) -> tying.layer(slot, depth)));
            }
        }
        if (ends > 0) stages.add(unrolled(1, 1, (layer, depth) -> total - 1));
        return stages;
    }

    /** The names of the Mixture-of-Recursions release: a module per depth, or one with a list of depths. */
    private static List<StagePlan> routed(ModelConfig config, Checkpoint checkpoint) {
        Recursion recursion = config.recursion();
        if (!recursion.sharing().isCycle()) {
            throw new UserException("config.json: mor needs recursive.sharing cycle or middle_cycle.");
        }
        int first = recursion.sharing().ends() / 2;
        boolean token = config.routing().tokenChoice();
        Prefix prefix = token
                ? (layer, depth) -> "model.layers." + first + ".block_list." + depth + "." + layer + "."
                : (layer, depth) -> "model.layers." + (first + depth) + ".block." + layer + ".";
        int layers = 0; // the checkpoint's own count: num_hidden_layers is often that of the base model
        while (checkpoint.hasUnder(prefix.of(layers, 0))) layers++;
        if (layers == 0) {
            throw new UserException("The checkpoint has no layer " + prefix.of(0, 0) + "*, which mor calls for.");
        }
        StagePlan shared = new StagePlan(layers, recursion.depths(), true, prefix);
        if (first == 0) return List.of(shared);
        int last = token ? 2 : 1 + recursion.depths();
        return List.of(unrolled(1, 1, (layer, depth) -> 0), shared, unrolled(1, 1, (layer, depth) -> last));
    }

    private static StagePlan unrolled(int layers, int depths, IntBinaryOperator index) {
        return new StagePlan(layers, depths, false,
                (layer, depth) -> "model.layers." + index.applyAsInt(layer, depth) + ".");
    }
}
