package dev.fathom.examples;

import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;

import dev.fathom.Part;

/** A linear of a layer: its name below the layer's prefix, W [out, in]. */
record Linear(Part part, String name, int out, int in) {

    /** The seven of a layer, in the order of {@link Part}. */
    static List<Linear> of(ModelConfig config) {
        int hidden = config.hiddenSize();
        int inner = config.intermediateSize();
        int q = config.heads() * config.headDim();
        int kv = config.kvHeads() * config.headDim();
        return List.of(
                new Linear(Part.Q, "self_attn.q_proj", q, hidden),
                new Linear(Part.K, "self_attn.k_proj", kv, hidden),
                new Linear(Part.V, "self_attn.v_proj", kv, hidden),
                new Linear(Part.O, "self_attn.o_proj", hidden, q),
                new Linear(Part.GATE, "mlp.gate_proj", inner, hidden),
                new Linear(Part.UP, "mlp.up_proj", inner, hidden),
                new Linear(Part.DOWN, "mlp.down_proj", hidden, inner));
    }

    private static final Pattern WEIGHT =
            Pattern.compile("model\\.layers\\..*\\.(self_attn\\.[qkvo]|mlp\\.(gate|up|down))_proj\\.weight");

    /** Whether a tensor of that name is the weight of a layer's linear. */
    static boolean isWeight(String name) {
        return WEIGHT.matcher(name).matches();
    }

    /** How the command line calls the part. */
    static String shortName(Part part) {
        return part.name().toLowerCase(Locale.ROOT);
    }

    /** The name of its module, which is the same in every layer. */
    String module() {
        return name.substring(name.indexOf('.') + 1);
    }
}
