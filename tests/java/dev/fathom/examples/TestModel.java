package dev.fathom.examples;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.LongStream;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;

/** A model directory under construction: a golden one to be changed and written elsewhere. */
final class TestModel {
    static final Path GOLDEN = Path.of(System.getProperty("fathom.root"), "tests", "golden", "models");
    private static final ObjectMapper JSON = new ObjectMapper();

    record Weight(String dtype, long[] shape, byte[] data) {}

    final ObjectNode config;
    final Map<String, Weight> weights = new TreeMap<>();

    private TestModel(ObjectNode config) {
        this.config = config;
    }

    /**
     * A vanilla model with weights of that type, norms in f32, whose rows are multiples of 32 long: a small one with
     * random values.
     */
    static TestModel random(DType type, boolean tied) {
        return random(type, tied, 64);
    }

    static TestModel random(DType type, boolean tied, int hidden) {
        TestModel model = new TestModel(JSON.createObjectNode());
        model.config.put("model_type", "llama").put("hidden_size", hidden).put("intermediate_size", 96)
                .put("num_hidden_layers", 2).put("num_attention_heads", 4).put("num_key_value_heads", 2)
                .put("head_dim", 16).put("rms_norm_eps", 1e-5f).put("vocab_size", 256)
                .put("tie_word_embeddings", tied).put("max_position_embeddings", 128).put("rope_theta", 10000);
        Random random = new Random(7);
        model.put(random, "model.embed_tokens.weight", type, 256, hidden);
        if (!tied) model.put(random, "lm_head.weight", type, 256, hidden);
        model.put(random, "model.norm.weight", DType.F32, hidden);
        for (int layer = 0; layer < 2; layer++) {
            String prefix = "model.layers." + layer + ".";
            model.put(random, prefix + "input_layernorm.weight", DType.F32, hidden);
            model.put(random, prefix + "post_attention_layernorm.weight", DType.F32, hidden);
            model.put(random, prefix + "self_attn.q_proj.weight", type, 64, hidden);
            model.put(random, prefix + "self_attn.k_proj.weight", type, 32, hidden);
            model.put(random, prefix + "self_attn.v_proj.weight", type, 32, hidden);
            model.put(random, prefix + "self_attn.o_proj.weight", type, hidden, 64);
            model.put(random, prefix + "mlp.gate_proj.weight", type, 96, hidden);
            model.put(random, prefix + "mlp.up_proj.weight", type, 96, hidden);
            model.put(random, prefix + "mlp.down_proj.weight", type, hidden, 96);
        }
        return model;
    }

    private void put(Random random, String name, DType type, long... shape) {
        float[] values = new float[(int) LongStream.of(shape).reduce(1, Math::multiplyExact)];
        for (int i = 0; i < values.length; i++) {
            values[i] = 0.15f * (float) random.nextGaussian() + (shape.length == 1 ? 1 : 0);
        }
        weights.put(name, weight(type, values, shape));
    }

    static Weight weight(DType type, float[] values, long... shape) {
        byte[] data = new byte[(int) Elements.bytes(type, values.length)];
        Elements.encode(type, values, values.length, MemorySegment.ofArray(data));
        return new Weight(type.name(), shape, data);
    }

    /** The same values, stored in another type: rounded, or as they are. */
    TestModel in(DType type) {
        TestModel other = new TestModel(config);
        weights.forEach((name, weight) -> other.weights.put(name, weight.shape.length == 1 ? weight
                : weight(type, floats(weight), weight.shape)));
        return other;
    }

    static float[] floats(Weight weight) {
        return new Tensor("w", weight.dtype, weight.shape, Contents.of(weight.data), 0, weight.data.length).toFloats();
    }

    /** The decoders among the golden models. */
    static List<Path> golden() throws IOException {
        try (Stream<Path> kinds = Files.list(GOLDEN)) {
            return kinds.filter(Files::isDirectory).filter(kind -> !kind.getFileName().toString().startsWith("t5_"))
                    .sorted().toList();
        }
    }

    static JsonNode json(Path file) throws IOException {
        return JSON.readTree(Files.readAllBytes(file));
    }

    static JsonNode json(String text) throws IOException {
        return JSON.readTree(text);
    }

    static TestModel read(String kind) throws IOException {
        return read(GOLDEN.resolve(kind));
    }

    static TestModel read(Path directory) throws IOException {
        TestModel model = new TestModel((ObjectNode) json(directory.resolve("config.json")));
        tensors(directory).forEach((name, tensor) -> model.weights.put(name,
                new Weight(tensor.dtype(), tensor.shape(), bytes(tensor))));
        return model;
    }

    /** Those of the only file of weights. */
    static Map<String, Tensor> tensors(Path directory) throws IOException {
        byte[] file = Files.readAllBytes(directory.resolve("model.safetensors"));
        return F8Rows.join(Safetensors.read(directory.toString(), Contents.of(file)));
    }

    static byte[] bytes(Tensor tensor) {
        byte[] bytes = new byte[Math.toIntExact(tensor.bytes())];
        tensor.copy(0, MemorySegment.ofArray(bytes));
        return bytes;
    }

    /** Adds a copy of a tensor, with its last element changed. */
    void putChangedCopy(String from, String to) {
        Weight source = weights.get(from);
        byte[] data = source.data.clone();
        data[data.length - 1] ^= 1; // an exponent
        weights.put(to, new Weight(source.dtype, source.shape, data));
    }

    Path write(Path directory) throws IOException {
        Files.writeString(directory.resolve("config.json"), config.toString());
        Files.write(directory.resolve("model.safetensors"), file());
        return directory;
    }

    byte[] file() {
        return file(0);
    }

    /** With so many spaces after the header. */
    byte[] file(int spaces) {
        Map<String, Object> header = new LinkedHashMap<>();
        ByteArrayOutputStream data = new ByteArrayOutputStream();
        weights.forEach((name, weight) -> {
            int begin = data.size();
            data.writeBytes(weight.data);
            header.put(name, Map.of("dtype", weight.dtype, "shape", weight.shape, "data_offsets",
                    new int[] {begin, data.size()}));
        });
        return safetensors(JSON.valueToTree(header) + " ".repeat(spaces), data.toByteArray());
    }

    static byte[] safetensors(String header, byte[] data) {
        byte[] text = header.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + text.length + data.length).order(ByteOrder.LITTLE_ENDIAN)
                .putLong(text.length).put(text).put(data).array();
    }

    /** Loads in f32 with two workers; warnings are collected. */
    static LanguageModel open(Path directory, List<String> warnings) {
        return open(directory, DType.F32, warnings);
    }

    /** Type null: the model's own. */
    static LanguageModel open(Path model, DType type, List<String> warnings) {
        return LanguageModel.open(ModelFiles.of(model), type, 2, warnings::add);
    }

    static LanguageModel open(String kind) {
        List<String> warnings = new ArrayList<>();
        LanguageModel model = open(GOLDEN.resolve(kind), warnings);
        if (!warnings.isEmpty()) throw new AssertionError(warnings);
        return model;
    }

    static int[] ints(JsonNode array) {
        int[] values = new int[array.size()];
        for (int i = 0; i < values.length; i++) values[i] = array.get(i).intValue();
        return values;
    }
}
