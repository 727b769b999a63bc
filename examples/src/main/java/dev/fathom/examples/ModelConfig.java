package dev.fathom.examples;

import java.util.List;
import java.util.Locale;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.MissingNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.Activation;
import dev.fathom.GateFunction;
import dev.fathom.RouterKind;
import dev.fathom.depth.KvPolicy;

/**
 * What config.json says, for the Llama family and its recursive descendants. {@code layers} counts effective (unrolled)
 * layers; {@code recursion}, {@code lora} and {@code routing} are null where the model has none. {@code kv} is that of
 * looped layers. {@code exits}: layers behind which a token may exit, in rising order.
 */
record ModelConfig(int hiddenSize, int intermediateSize, int layers, int heads, int kvHeads, int headDim, int vocabSize,
        int contextLength, float normEps, Activation activation, boolean tiedEmbeddings, float[] ropeFrequency,
        Recursion recursion, Lora lora, Routing routing, KvPolicy kv, List<Integer> exits) {

    static final int MOST_LAYERS = 1 << 14;
    static final int MOST_RECURSIONS = 64;

    /** How unrolled layers are tied. */
    enum Sharing {
        CYCLE(false), SEQUENCE(false), MIDDLE_CYCLE(true), MIDDLE_SEQUENCE(true);

        /** The first and the last layer have weights of their own. */
        final boolean ownEnds;

        Sharing(boolean ownEnds) {
            this.ownEnds = ownEnds;
        }

        boolean isCycle() {
            return this == CYCLE || this == MIDDLE_CYCLE;
        }

        int ends() {
            return ownEnds ? 2 : 0;
        }
    }

    record Recursion(int depths, Sharing sharing, boolean tiedNorms) {}

    record Lora(int rank, float scale) {}

    /** Expert choice: each depth has a router that keeps or drops a token. Token choice: one router picks the depth. */
    record Routing(boolean tokenChoice, RouterKind router, GateFunction function, float alpha, float temperature,
            boolean weighted, boolean biased, boolean auxiliary) {}

    static ModelConfig read(ModelFiles files) {
        return parse(json(files));
    }

    static ObjectNode json(ModelFiles files) {
        byte[] file = files.read("config.json", Json.MAX_BYTES);
        if (file == null) throw new UserException(files.describe("config.json") + " does not exist.");
        return Json.object(files.describe("config.json"), file);
    }

    static ModelConfig parse(JsonNode root) {
        ConfigReader json = new ConfigReader(root, "config.json: ");
        json.oneOf("model_type", "llama", "llama", "mistral", "qwen2");
        int hidden = json.integer("hidden_size", 1 << 20);
        int heads = json.integer("num_attention_heads", 1 << 16);
        int kvHeads = json.integer("num_key_value_heads", heads, heads);
        if (heads % kvHeads != 0) {
            throw new UserException("config.json: num_attention_heads " + heads
                    + " must be a multiple of num_key_value_heads " + kvHeads + ".");
        }
        int headDim = json.integer("head_dim", Math.max(1, hidden / heads), 256);
        if (headDim < 16 || headDim % 8 != 0) {
            throw new UserException("config.json: head_dim must be a multiple of 8 in 16..256, got " + headDim + ".");
        }
        int context = json.integer("max_position_embeddings", 2048, 1 << 30);
        if (json.flag("use_sliding_window", true) && json.integer("sliding_window", context, 1 << 30) < context) {
            throw new UserException("config.json: a sliding_window shorter than max_position_embeddings"
                    + " is not supported.");
        }
        Recursion recursion = recursion(json.enabled("recursive"));
        Routing routing = routing(json.enabled("mor"));
        if (recursion == null && routing != null) {
            throw new UserException("config.json: mor needs an enabled object recursive beside it.");
        }
        return new ModelConfig(hidden, json.integer("intermediate_size", 1 << 22),
                json.integer("num_hidden_layers", MOST_LAYERS), heads, kvHeads, headDim,
                json.integer("vocab_size", 1 << 24), context, (float) json.positive("rms_norm_eps", 1e-6),
                activation(json), json.flag("tie_word_embeddings", false), ropeFrequency(json, headDim), recursion,
                lora(json.enabled("relaxation")), routing, kv(json.enabled("kv_sharing")),
                exits(json.enabled("exits")));
    }

    /** The same with other exits. */
    ModelConfig withExits(List<Integer> exits) {
        return new ModelConfig(hiddenSize, intermediateSize, layers, heads, kvHeads, headDim, vocabSize, contextLength,
                normEps, activation, tiedEmbeddings, ropeFrequency, recursion, lora, routing, kv, exits);
    }

    private static KvPolicy kv(ConfigReader json) {
        if (json == null) return KvPolicy.PER_DEPTH;
        return json.flag("update_cache", false) ? KvPolicy.FIRST_UPDATED : KvPolicy.FIRST_DEPTH;
    }

    private static List<Integer> exits(ConfigReader json) {
        if (json == null) return List.of();
        json.oneOf("head", "shared", "shared");
        return json.integers("layers", MOST_LAYERS);
    }

    /** How deep a token can go: 1 without recursion. */
    int depths() {
        return recursion == null ? 1 : recursion.depths;
    }

    private static Activation activation(ConfigReader json) {
        String[] known = {"silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"};
        return switch (json.oneOf("hidden_act", "silu", known)) {
            case "silu" -> Activation.SILU;
            case "gelu" -> Activation.GELU;
            case "relu" -> Activation.RELU;
            default -> Activation.GELU_TANH;
        };
    }

    /** transformers 4 has rope_theta and rope_scaling, transformers 5 has both in rope_parameters. */
    private static float[] ropeFrequency(ConfigReader json, int headDim) {
        ConfigReader parameters = json.object("rope_parameters");
        if (parameters == null) parameters = json.object("rope_scaling");
        ConfigReader rope = parameters == null ? json : parameters;
        double theta = rope.positive("rope_theta", json.positive("rope_theta", 10000));
        double part = rope.positive("partial_rotary_factor", json.positive("partial_rotary_factor", 1));
        int rotaryDim = (int) (headDim * part);
        if (rotaryDim < 2 || rotaryDim > headDim || rotaryDim % 2 != 0) {
            throw new UserException("config.json: partial_rotary_factor " + part + " rotates " + rotaryDim + " of "
                    + headDim + " elements, expected an even number of them.");
        }
        return RopeFrequencies.of(theta, rotaryDim, parameters == null ? MissingNode.getInstance() : parameters.node());
    }

    private static Recursion recursion(ConfigReader json) {
        if (json == null) return null;
        String sharing = json.oneOf("sharing", "middle_cycle", "cycle", "sequence", "middle_cycle", "middle_sequence");
        return new Recursion(json.integer("num_recursion", MOST_RECURSIONS),
                Sharing.valueOf(sharing.toUpperCase(Locale.ROOT)), json.flag("ln_share", true));
    }

    private static Lora lora(ConfigReader json) {
        if (json == null) return null;
        ConfigReader lora = json.object("lora");
        if (lora == null) {
            throw new UserException("config.json: relaxation needs an object lora; no other kind is supported.");
        }
        int rank = lora.integer("r", 1 << 16);
        return new Lora(rank, (float) (lora.positive("alpha", rank) / rank));
    }

    private static Routing routing(ConfigReader json) {
        if (json == null) return null;
        String type = json.oneOf("type", "expert", "expert", "token");
        boolean token = type.equals("token");
        ConfigReader inner = json.object(type); // the authors' files keep a type's options in an object of its name
        ConfigReader options = inner == null ? json : inner.within(json);
        String usual = token ? "softmax" : "sigmoid";
        GateFunction function = switch (options.oneOf("router_func", usual, "sigmoid", "tanh", "softmax")) {
            case "sigmoid" -> GateFunction.SIGMOID;
            case "tanh" -> GateFunction.TANH;
            default -> GateFunction.SOFTMAX;
        };
        if (!token && function == GateFunction.SOFTMAX) {
            throw new UserException("config.json: mor.router_func softmax is for token choice;"
                    + " expert choice takes sigmoid or tanh.");
        }
        RouterKind router = options.oneOf("router_type", "linear", "linear", "mlp", "wide_mlp").equals("linear")
                ? RouterKind.LINEAR : RouterKind.MLP;
        boolean lossFree = options.flag("loss_free", false) || options.text("balancing", "loss").equals("loss_free");
        return new Routing(token, router, function,
                (float) options.positive("alpha", function == GateFunction.SOFTMAX ? 1 : 0.1),
                (float) options.positive("temp", 1),
                        options.oneOf("gating", "weighted", "weighted", "additive").equals("weighted"),
                token && lossFree, !token && options.text("sampling", "aux_loss").equals("aux_router"));
    }
}
