package dev.fathom.examples;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Writes GGUF files, sound ones and others. */
final class GgufWriter {
    static final int U32 = 4;
    static final int I32 = 5;
    static final int F32 = 6;
    static final int BOOL = 7;
    static final int STRING = 8;
    static final int ARRAY = 9;
    static final int U64 = 10;
    static final int F64 = 12;

    /** A tensor whose sizes are innermost first, as the file has them. */
    private record Described(String name, long[] sizes, int type, byte[] data) {}

    private final Map<String, byte[]> values = new LinkedHashMap<>();
    private final List<Described> tensors = new ArrayList<>();
    int version = 3;
    int alignment = 32;

    private static final class Bytes extends ByteArrayOutputStream {
        private Bytes put(int bytes, long value) {
            for (int i = 0; i < bytes; i++) write((int) (value >>> 8 * i));
            return this;
        }

        private Bytes put(String text) {
            byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
            put(8, utf8.length).writeBytes(utf8);
            return this;
        }
    }

    private static void put(Bytes bytes, int type, Object value) {
        switch (type) {
            case U32, I32 -> bytes.put(4, ((Number) value).longValue());
            case F32 -> bytes.put(4, Float.floatToIntBits(((Number) value).floatValue()));
            case BOOL -> bytes.put(1, (Boolean) value ? 1 : 0);
            case STRING -> bytes.put((String) value);
            case U64 -> bytes.put(8, ((Number) value).longValue());
            case F64 -> bytes.put(8, Double.doubleToLongBits(((Number) value).doubleValue()));
            default -> throw new IllegalArgumentException("type " + type);
        }
    }

    GgufWriter put(String key, int type, Object value) {
        Bytes bytes = new Bytes().put(4, type);
        put(bytes, type, value);
        values.put(key, bytes.toByteArray());
        return this;
    }

    GgufWriter putAll(String key, int type, List<?> elements) {
        Bytes bytes = new Bytes().put(4, ARRAY).put(4, type).put(8, elements.size());
        for (Object element : elements) put(bytes, type, element);
        values.put(key, bytes.toByteArray());
        return this;
    }

    /** The type and what follows it. */
    GgufWriter putRaw(String key, byte[] typeAndValue) {
        values.put(key, typeAndValue);
        return this;
    }

    GgufWriter remove(String key) {
        values.remove(key);
        return this;
    }

    GgufWriter tensor(String name, int type, byte[] data, long... sizes) {
        tensors.add(new Described(name, sizes, type, data));
        return this;
    }

    GgufWriter removeTensor(String name) {
        tensors.removeIf(tensor -> tensor.name.equals(name));
        return this;
    }

    byte[] bytes() {
        Bytes file = new Bytes();
        file.writeBytes("GGUF".getBytes(StandardCharsets.US_ASCII));
        file.put(4, version).put(8, tensors.size()).put(8, values.size());
        values.forEach((key, value) -> file.put(key).writeBytes(value));
        long offset = 0;
        for (Described tensor : tensors) {
            file.put(tensor.name).put(4, tensor.sizes.length);
            for (long size : tensor.sizes) file.put(8, size);
            file.put(4, tensor.type).put(8, offset);
            offset = align(offset + tensor.data.length);
        }
        for (Described tensor : tensors) {
            while (file.size() != align(file.size())) file.write(0);
            file.writeBytes(tensor.data);
        }
        return file.toByteArray();
    }

    private long align(long at) {
        return Math.ceilDiv(at, alignment) * alignment;
    }

    // ---- models --------------------------------------------------------------------------------------------------

    /** The code of a type. */
    static int code(String type) {
        return switch (type) {
            case "F32" -> 0;
            case "F16" -> 1;
            case "Q4_0" -> 2;
            case "Q4_1" -> 3;
            case "Q8_0" -> 8;
            case "Q6_K" -> 14;
            case "BF16" -> 30;
            default -> throw new IllegalArgumentException(type);
        };
    }

    /** A vanilla model as a converter to the architecture llama writes it, norms in f32. */
    static GgufWriter of(TestModel model) {
        var config = model.config;
        int heads = config.get("num_attention_heads").intValue();
        int kvHeads = config.get("num_key_value_heads").intValue();
        int headDim = config.get("head_dim").intValue();
        GgufWriter file = new GgufWriter();
        file.put("general.architecture", STRING, "llama")
                .put("general.name", STRING, "a model")
                .put("llama.block_count", U32, config.get("num_hidden_layers").intValue())
                .put("llama.context_length", U32, config.get("max_position_embeddings").intValue())
                .put("llama.embedding_length", U32, config.get("hidden_size").intValue())
                .put("llama.feed_forward_length", U32, config.get("intermediate_size").intValue())
                .put("llama.attention.head_count", U32, heads)
                .put("llama.attention.head_count_kv", U32, kvHeads)
                .put("llama.attention.key_length", U32, headDim)
                .put("llama.attention.value_length", U32, headDim)
                .put("llama.attention.layer_norm_rms_epsilon", F32, config.get("rms_norm_eps").floatValue())
                .put("llama.rope.freq_base", F32, config.path("rope_theta").floatValue())
                .put("llama.rope.dimension_count", U32, headDim)
                .put("llama.vocab_size", U32, config.get("vocab_size").intValue());
        model.weights.forEach((name, weight) -> {
            int rows = name.contains("q_proj") ? heads : name.contains("k_proj") ? kvHeads : 0;
            byte[] data = rows == 0 ? weight.data() : interleaved(weight.data(), rows, headDim);
            long[] sizes = weight.shape().clone();
            for (int i = 0; i < sizes.length; i++) sizes[i] = weight.shape()[sizes.length - 1 - i];
            file.tensor(name(name), code(weight.dtype()), data, sizes);
        });
        return file;
    }

    /** As converters permute Q and K: [head, half, pair, ...] becomes [head, pair, half, ...]. */
    private static byte[] interleaved(byte[] data, int heads, int headDim) {
        int bytes = data.length / heads / headDim;
        ByteBuffer to = ByteBuffer.allocate(data.length).order(ByteOrder.LITTLE_ENDIAN);
        for (int head = 0; head < heads; head++) {
            for (int pair = 0; pair < headDim / 2; pair++) {
                for (int half = 0; half < 2; half++) {
                    to.put(data, (head * headDim + half * headDim / 2 + pair) * bytes, bytes);
                }
            }
        }
        return to.array();
    }

    static String name(String huggingFace) {
        return huggingFace.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm")
                .replace("lm_head", "output").replace("model.layers", "blk").replace("input_layernorm", "attn_norm")
                .replace("post_attention_layernorm", "ffn_norm").replace("self_attn.o_proj", "attn_output")
                .replace("self_attn.", "attn_").replace("mlp.", "ffn_").replace("_proj", "");
    }
}
