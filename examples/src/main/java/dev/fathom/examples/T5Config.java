package dev.fathom.examples;

import java.util.List;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.Activation;

/**
 * What config.json says of an encoder-decoder of the T5 family: T5 1.0 and 1.1, mT5, LongT5 with a local encoder.
 *
 * @param gated         whether the MLP has a gate
 * @param localRadius   so many positions to either side are seen by the encoder; 0: all
 * @param exits         decoder layers behind which a token may exit, in rising order
 */
record T5Config(int hiddenSize, int intermediateSize, int headDim, int heads, int encoderLayers, int decoderLayers,
        int vocabSize, int buckets, int mostDistance, float normEps, Activation activation, boolean gated,
        boolean tiedEmbeddings, int startToken, int endToken, int localRadius, List<Integer> exits) {

    /** Whether the file describes such a model. */
    static boolean describes(JsonNode root) {
        return root.path("model_type").asText().matches("m?t5|longt5");
    }

    static T5Config parse(JsonNode root) {
        ConfigReader json = new ConfigReader(root, "config.json: ");
        boolean local = json.text("model_type", "").equals("longt5");
        if (local) json.oneOf("encoder_attention_type", "local", "local");
        int headDim = json.integer("d_kv", 256);
        if (headDim < 16 || headDim % 8 != 0) {
            throw new UserException("config.json: d_kv must be a multiple of 8 in 16..256, got " + headDim + ".");
        }
        int layers = json.integer("num_layers", ModelConfig.MOST_LAYERS);
        int buckets = json.integer("relative_attention_num_buckets", 32, 1 << 16);
        int distance = json.integer("relative_attention_max_distance", 128, 1 << 20);
        if (buckets < 4 || buckets % 4 != 0 || distance <= buckets / 2) {
            throw new UserException("config.json: relative_attention_num_buckets must be a multiple of 4 and less than"
                    + " twice relative_attention_max_distance (" + distance + "), got " + buckets + ".");
        }
        String projection = json.oneOf("feed_forward_proj", "relu", "relu", "gelu", "gated-gelu", "gated-silu");
        Activation activation = switch (projection) {
            case "relu" -> Activation.RELU;
            case "gelu" -> Activation.GELU;
            case "gated-silu" -> Activation.SILU;
            default -> Activation.GELU_TANH;
        };
        ConfigReader exits = json.enabled("exits");
        return new T5Config(json.integer("d_model", 1 << 20), json.integer("d_ff", 1 << 20), headDim,
                json.integer("num_heads", 1024), layers,
                json.integer("num_decoder_layers", layers, ModelConfig.MOST_LAYERS),
                json.integer("vocab_size", 1 << 24), buckets, distance,
                (float) json.positive("layer_norm_epsilon", 1e-6), activation, projection.startsWith("gated"),
                json.flag("tie_word_embeddings", true),
                root.path("decoder_start_token_id").asInt(0), root.path("eos_token_id").asInt(1),
                local ? json.integer("local_radius", 127, 1 << 20) : 0,
                exits == null ? List.of() : exits.integers("layers", ModelConfig.MOST_LAYERS));
    }

    /** The same with other exits. */
    T5Config withExits(List<Integer> exits) {
        return new T5Config(hiddenSize, intermediateSize, headDim, heads, encoderLayers, decoderLayers, vocabSize,
                buckets, mostDistance, normEps, activation, gated, tiedEmbeddings, startToken, endToken, localRadius,
                exits);
    }
}
