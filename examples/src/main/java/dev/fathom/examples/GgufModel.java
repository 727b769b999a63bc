package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * A GGUF file of the Llama family in the words of a Hugging Face directory: its config.json, its tokenizer.json, the
 * names of its tensors and the order of their rows. {@code docs/gguf.md} has the rules.
 *
 * @param tokenizer null: the file has none, or one of an unknown kind
 */
record GgufModel(Path path, Gguf gguf, ObjectNode config, byte[] tokenizer, String withoutTokenizer)
        implements ModelFiles {

    /** Names of tensors in the file and in Hugging Face's Llama, without {@code .weight} or {@code .bias}. */
    private static final Map<String, String> MODULES = Map.of(
            "token_embd", "model.embed_tokens", "output_norm", "model.norm", "output", "lm_head");
    private static final Map<String, String> LAYER_MODULES = Map.of(
            "attn_norm", "input_layernorm", "ffn_norm", "post_attention_layernorm",
            "attn_q", "self_attn.q_proj", "attn_k", "self_attn.k_proj", "attn_v", "self_attn.v_proj",
            "attn_output", "self_attn.o_proj",
            "ffn_gate", "mlp.gate_proj", "ffn_up", "mlp.up_proj", "ffn_down", "mlp.down_proj");
    private static final Pattern NAME = Pattern.compile("(?:blk\\.([0-9]{1,5})\\.)?([a-z_]+)\\.(weight|bias)");
    private static final String EMBEDDING = "token_embd.weight";
    private static final String ROPE_FACTORS = "rope_freqs.weight";
    /** Keys of architectures that share the names but compute something else. */
    private static final Set<String> OTHER_COMPUTATIONS = Set.of("expert_count", "attention.scale",
            "attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale", "embedding_scale", "residual_scale");
    private static final int MOST_FACTORS = 1 << 10;

    static GgufModel read(Path path) {
        try (Contents file = open(path)) {
            Gguf gguf = Gguf.read(path.toString(), file);
            ConfigReader metadata = new ConfigReader(gguf.metadata(), path + ": ");
            if (metadata.integer("split.count", 1, 1 << 16) > 1) {
                throw new UserException(path + " is one of several files of a model, which must be in one.");
            }
            ObjectNode config = config(path, metadata, gguf, file);
            try {
                ModelConfig.parse(config);
            } catch (UserException e) {
                throw new UserException(path + ", read as a " + e.getMessage());
            }
            GgufTokenizer tokenizer = new GgufTokenizer(metadata);
            ObjectNode json = tokenizer.json();
            return new GgufModel(path, gguf, config, json == null ? null : Json.bytes(json),
                    tokenizer.without(path));
        }
    }

    static Contents open(Path path) {
        try {
            return Contents.of(path);
        } catch (IOException e) {
            throw new UserException(path + " cannot be read: " + Main.reason(e) + ".");
        }
    }

    @Override
    public Contents open(String name) {
        return switch (name) {
            case "config.json" -> Contents.of(Json.bytes(config));
            case "tokenizer.json" -> tokenizer != null ? Contents.of(tokenizer) : beside().open(name);
            default -> null;
        };
    }

    private Directory beside() {
        return new Directory(path.toAbsolutePath().getParent());
    }

    @Override
    public String describe(String name) {
        return name.equals("tokenizer.json") && tokenizer == null ? beside().describe(name)
                : path + ", read as a " + name + ",";
    }

    // ---- config.json ---------------------------------------------------------------------------------------------

    private static ObjectNode config(Path path, ConfigReader metadata, Gguf gguf, Contents file) {
        String family = metadata.oneOf("general.architecture", "nothing", "llama", "qwen2");
        String prefix = family + ".";
        for (String key : OTHER_COMPUTATIONS) {
            if (gguf.metadata().path(prefix + key).asDouble(0) != 0) {
                throw new UserException(path + ": " + prefix + key + " changes what is computed and is not supported.");
            }
        }
        if (!metadata.flag(prefix + "attention.causal", true)) {
            throw new UserException(path + ": only causal attention is supported.");
        }
        int hidden = metadata.integer(prefix + "embedding_length", 1 << 20);
        int heads = metadata.integer(prefix + "attention.head_count", 1 << 16);
        int headDim = metadata.integer(prefix + "attention.key_length", Math.max(1, hidden / heads), 256);
        for (String key : List.of("attention.value_length", "rope.dimension_count")) {
            int length = metadata.integer(prefix + key, headDim, 256);
            if (length != headDim) {
                throw new UserException(path + ": " + prefix + key + " must be the length of a key, " + headDim
                        + ", got " + length + ".");
            }
        }
        ObjectNode config = JsonNodeFactory.instance.objectNode();
        config.putArray("architectures").add(family.equals("llama") ? "LlamaForCausalLM" : "Qwen2ForCausalLM");
        config.put("model_type", family).put("hidden_size", hidden)
                .put("intermediate_size", metadata.integer(prefix + "feed_forward_length", 1 << 22))
                .put("num_hidden_layers", metadata.integer(prefix + "block_count", ModelConfig.MOST_LAYERS))
                .put("num_attention_heads", heads)
                .put("num_key_value_heads", metadata.integer(prefix + "attention.head_count_kv", heads, 1 << 16))
                .put("head_dim", headDim)
                .put("rms_norm_eps", metadata.positive(prefix + "attention.layer_norm_rms_epsilon"))
                .put("vocab_size", embeddings(path, gguf).shape()[0])
                .put("tie_word_embeddings", gguf.tensors().stream().noneMatch(t -> t.name().equals("output.weight")))
                .put("max_position_embeddings", metadata.integer(prefix + "context_length", 2048, 1 << 30))
                .put("hidden_act", "silu");
        if (metadata.has(prefix + "attention.sliding_window")) {
            config.put("sliding_window", metadata.integer(prefix + "attention.sliding_window", 1 << 30));
        }
        double theta = metadata.positive(prefix + "rope.freq_base", 10000);
        config.put("rope_theta", theta);
        JsonNode scaling = scaling(path, metadata, prefix, theta, gguf, file);
        if (scaling != null) config.set("rope_scaling", scaling);
        for (String token : List.of("bos", "eos")) {
            JsonNode id = gguf.metadata().path("tokenizer.ggml." + token + "_token_id");
            if (id.isIntegralNumber()) config.set(token + "_token_id", id);
        }
        return config;
    }

    private static Gguf.Info embeddings(Path path, Gguf gguf) {
        return gguf.tensors().stream().filter(t -> t.name().equals(EMBEDDING) && t.shape().length == 2).findFirst()
                .orElseThrow(() -> new UserException(path + " has no matrix " + EMBEDDING + "."));
    }

    /** Null: none. */
    private static JsonNode scaling(Path path, ConfigReader metadata, String prefix, double theta, Gguf gguf,
            Contents file) {
        Gguf.Info factors = gguf.tensors().stream().filter(t -> t.name().equals(ROPE_FACTORS)).findFirst().orElse(null);
        boolean linear = metadata.oneOf(prefix + "rope.scaling.type", "none", "none", "linear").equals("linear");
        double factor = metadata.positive(prefix + (linear ? "rope.scaling.factor" : "rope.scale_linear"), 1);
        if (factors == null) return factor == 1 ? null : scaling("linear").put("factor", factor);
        if (factor != 1 || factors.shape().length != 1 || factors.shape()[0] > MOST_FACTORS) {
            throw new UserException(path + ": " + ROPE_FACTORS
                    + " must be a short vector, without other rope scaling.");
        }
        return scaling(theta, factors.in(file).toFloats());
    }

    private static ObjectNode scaling(String type) {
        return JsonNodeFactory.instance.objectNode().put("rope_type", type);
    }

    /** That of Llama 3, if the factors are what converters make of it. */
    private static ObjectNode scaling(double theta, float[] factors) {
        ObjectNode exact = scaling("factors");
        float largest = 0;
        for (float factor : factors) {
            exact.withArray("factors").add(factor);
            largest = Math.max(largest, factor);
        }
        float[] given = RopeFrequencies.of(theta, 2 * factors.length, exact);
        ObjectNode llama3 = scaling("llama3").put("factor", largest).put("low_freq_factor", 1.0)
                .put("high_freq_factor", 4.0).put("original_max_position_embeddings", 8192);
        float[] computed = RopeFrequencies.of(theta, 2 * factors.length, llama3);
        for (int i = 0; i < given.length; i++) {
            if (Math.abs(given[i] - computed[i]) > 1e-6f * computed[i]) return exact;
        }
        return llama3;
    }

    // ---- tensors -------------------------------------------------------------------------------------------------

    /** Those of the file, which is open, as Hugging Face names and orders them. */
    List<Tensor> tensors(Contents file) {
        return gguf.tensors().stream().filter(info -> !info.name().equals(ROPE_FACTORS))
                .map(info -> translated(info, file)).toList();
    }

    /** A name that has no translation stays; nothing will ask for it. */
    private Tensor translated(Gguf.Info info, Contents file) {
        Tensor tensor = info.in(file);
        Matcher name = NAME.matcher(info.name());
        if (!name.matches()) return tensor;
        String layer = name.group(1);
        String module = (layer == null ? MODULES : LAYER_MODULES).get(name.group(2));
        if (module == null) return tensor;
        String translated = (layer == null ? "" : "model.layers." + layer + ".") + module + "." + name.group(3);
        if (name.group(2).matches("attn_[qk]")) tensor = byHalves(tensor, name.group(2).equals("attn_q"));
        return new Tensor(translated, tensor.dtype(), tensor.shape(), tensor.file(), tensor.offset(), tensor.bytes());
    }

    /**
     * Converters to the architecture llama, and to no other here, move the two elements of each rotated pair of Q and K
     * together. Rows of another number than config.json calls for are refused later.
     */
    private Tensor byHalves(Tensor tensor, boolean query) {
        int headDim = config.get("head_dim").intValue();
        int rows = headDim * config.get(query ? "num_attention_heads" : "num_key_value_heads").intValue();
        if (!config.get("model_type").textValue().equals("llama") || tensor.shape()[0] != rows) return tensor;
        if (tensor.bytes() % rows != 0 || tensor.shape().length == 1 && tensor.type().quantised()) {
            throw new UserException(path + ": tensor " + tensor.name() + " cannot be of type " + tensor.dtype() + ".");
        }
        Contents ordered = new RowOrder(tensor.file(), tensor.offset(), tensor.bytes() / rows, rows, headDim);
        return new Tensor(tensor.name(), tensor.dtype(), tensor.shape(), ordered, 0, tensor.bytes());
    }
}
