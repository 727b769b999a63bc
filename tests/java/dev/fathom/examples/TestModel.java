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
import java.util.TreeMap;
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
        return Safetensors.read(directory.toString(), Contents.of(file));
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
        return LanguageModel.open(ModelFiles.directory(directory), DType.F32, 2, warnings::add);
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
