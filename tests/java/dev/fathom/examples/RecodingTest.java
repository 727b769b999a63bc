package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.DType;

/** {@code convert --quantise}, alone and with {@code --recursions}: what is written runs as what was asked for. */
class RecodingTest {
    /** A Mixture-of-Recursions whose rows are multiples of 32 long. */
    private static final Path BUNDLED = TestModel.GOLDEN.resolve("../../../examples/src/main/resources/models/"
            + "shakespeare-mor").normalize();
    private static final int[] TEXT = new Random(3).ints(60, 32, 127).toArray();

    @TempDir
    Path directory;
    private Path source;

    @BeforeEach
    void folders() throws IOException {
        source = Files.createDirectory(directory.resolve("source"));
    }

    private CommandsTest.Ran ran(Path model, String to, String... options) {
        Stream<String> command = Stream.of("convert", "--model", model.toString(), "--to",
                directory.resolve(to).toString());
        CommandsTest.Ran ran = CommandsTest.run("",
                Stream.concat(command, Arrays.stream(options)).toArray(String[]::new));
        assertEquals(0, ran.code(), ran.err());
        return ran;
    }

    private Path convert(Path model, String to, String... options) {
        assertEquals("", ran(model, to, options).err());
        return directory.resolve(to);
    }

    private static double[] nll(Path model, DType type) {
        List<String> notes = new ArrayList<>();
        try (LanguageModel opened = TestModel.open(model, type, notes)) {
            assertEquals(List.of(), notes);
            return new Scorer(opened, 64, 32).score(List.of(TEXT), done -> { }).getFirst().nll();
        }
    }

    private static String option(DType type) {
        return type == DType.F8_E4M3 ? "f8" : type.name();
    }

    private static double mean(double[] nll) {
        return Arrays.stream(nll).average().orElseThrow();
    }

    /** The kernels quantise while they pack; here it was done before. The bits are the same. */
    @ParameterizedTest
    @EnumSource(names = {"Q8_0", "Q4_0", "F8_E4M3"})
    void aQuantisedDirectoryIsWhatPackingMakes(DType type) throws IOException {
        for (boolean tied : new boolean[] {true, false}) {
            TestModel.random(DType.F32, tied).write(source);
            Path quantised = convert(source, type + "" + tied, "--quantise", option(type));
            assertArrayEquals(nll(source, type), nll(quantised, null));
            Map<String, Tensor> tensors = TestModel.tensors(quantised);
            TestModel.tensors(source).forEach((name, tensor) -> {
                assertArrayEquals(tensor.shape(), tensors.get(name).shape(), name);
                assertEquals(tensor.shape().length == 1 ? DType.F32 : type, tensors.get(name).type(), name);
            });
            assertEquals(type.name().toLowerCase(),
                    TestModel.json(quantised.resolve("config.json")).at("/quantization_config/weights").asText());
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"Q8_0", "Q4_0", "F8_E4M3"})
    void routersAndNormsOfAMixtureOfRecursionsStay(DType type) throws IOException {
        Path quantised = convert(BUNDLED, "mor", "--quantise", option(type));
        Map<String, Tensor> before = TestModel.tensors(BUNDLED);
        TestModel.tensors(quantised).forEach((name, tensor) -> {
            boolean linear = name.endsWith("_proj.weight") || name.equals("model.embed_tokens.weight");
            assertEquals(linear, tensor.type().quantised(), name);
            if (!linear) assertTrue(tensor.sameAs(before.get(name)), name);
        });
        assertArrayEquals(nll(BUNDLED, type), nll(quantised, null));
        assertEquals(mean(nll(BUNDLED, null)), mean(nll(quantised, null)), type == DType.Q4_0 ? 0.5 : 0.05);
    }

    @Test
    void itComposesWithRecursions() throws IOException {
        TestModel.random(DType.BF16, true).write(source);
        Path atOnce = convert(source, "once", "--recursions", "2", "--quantise", "q8_0");
        Path recursive = convert(source, "recursive", "--recursions", "2");
        Path twice = convert(recursive, "twice", "--quantise", "q8_0");
        Map<String, Tensor> expected = TestModel.tensors(twice);
        TestModel.tensors(atOnce).forEach((name, tensor) -> assertTrue(tensor.sameAs(expected.get(name)), name));
        assertArrayEquals(nll(atOnce, null), nll(twice, null));
        assertArrayEquals(nll(atOnce, null), nll(convert(source, "compact", "--recursions", "2", "--quantise", "q8_0",
                "--compact"), null));
        JsonNode config = TestModel.json(twice.resolve("config.json"));
        assertEquals(2, config.at("/recursive/num_recursion").intValue());
    }

    /** The shared weight is taken as it is stored: the pairs make up for the blocks too. */
    @Test
    void pairsMakeUpForTheRounding() throws IOException {
        TestModel.random(DType.F32, true).write(source);
        Path relaxed = convert(source, "relaxed", "--recursions", "2", "--norms", "per-depth", "--lora-rank", "full",
                "--quantise", "q4_0");
        Map<String, Tensor> tensors = TestModel.tensors(relaxed);
        assertEquals(DType.Q4_0, tensors.get("model.layers.0.mlp.up_proj.weight").type());
        assertEquals(DType.F32, tensors.get("model.layers.0.mlp.up_proj.lora_A.weight").type());
        // In f32, where only the table is not what it was: its rounding is what is left.
        TestModel table = TestModel.read(source);
        float[] rounded = tensors.get("model.embed_tokens.weight").toFloats();
        table.weights.put("model.embed_tokens.weight", TestModel.weight(DType.F32, rounded, 256, 64));
        double[] expected = nll(table.write(source), DType.F32);
        double[] actual = nll(relaxed, DType.F32);
        for (int i = 0; i < expected.length; i++) assertEquals(expected[i], actual[i], 1e-3);
    }

    @Test
    void filesBecomeDirectories() throws IOException {
        TestModel model = TestModel.random(DType.Q8_0, true);
        Path gguf = Files.write(directory.resolve("model.gguf"), GgufWriter.of(model).bytes());
        assertArrayEquals(nll(gguf, null), nll(convert(gguf, "same", "--quantise", "q8_0"), null));
        Path floats = convert(gguf, "floats", "--dtype", "f32");
        assertFalse(TestModel.json(floats.resolve("config.json")).has("quantization_config"));
        assertArrayEquals(nll(gguf, DType.F32), nll(floats, null));
        Path back = convert(floats, "back", "--quantise", "q8_0");
        assertArrayEquals(nll(convert(floats, "bf16", "--dtype", "bf16"), null),
                nll(convert(back, "back-bf16", "--dtype", "bf16"), null));
        Path recursive = convert(gguf, "recursive", "--recursions", "2", "--lora-rank", "2");
        Map<String, Tensor> tensors = TestModel.tensors(recursive);
        assertEquals(DType.BF16, tensors.get("model.layers.1.self_attn.q_proj.lora_A.weight").type());
        assertEquals(DType.Q8_0, tensors.get("model.layers.1.self_attn.q_proj.weight").type());
        nll(recursive, null);
    }

    @Test
    void theTokenizerOfAFileComesAlong() throws IOException {
        GgufWriter file = GgufWriter.of(TestModel.random(DType.F32, true))
                .put("tokenizer.ggml.model", GgufWriter.STRING, "gpt2")
                .put("tokenizer.ggml.pre", GgufWriter.STRING, "gpt-2")
                .putAll("tokenizer.ggml.tokens", GgufWriter.STRING, List.of("a", "b", "ab"))
                .putAll("tokenizer.ggml.merges", GgufWriter.STRING, List.of("a b"));
        Path gguf = Files.write(directory.resolve("model.gguf"), file.bytes());
        Path converted = convert(gguf, "to", "--dtype", "bf16");
        try (LanguageModel model = TestModel.open(converted, null, new ArrayList<>())) {
            assertArrayEquals(new int[] {2, 0}, model.codec().encode("aba".getBytes()));
        }
    }

    @Test
    void rowsThatAreNoMultipleOfABlockStay() throws IOException {
        Path relaxed = TestModel.GOLDEN.resolve("relaxed_middle_cycle");
        CommandsTest.Ran ran = ran(relaxed, "to", "--quantise", "q8_0");
        assertTrue(ran.err().contains("weights are not quantised: their rows are no multiple of 32 long"), ran.err());
        assertArrayEquals(nll(relaxed, null), nll(directory.resolve("to"), null));
    }

    @Test
    void whatIsAskedForMustMakeSense() throws IOException {
        TestModel.random(DType.F32, true).write(source);
        String[] command = {"convert", "--model", source.toString(), "--to", directory.resolve("to").toString()};
        String[][] wrong = {{}, {"--quantise", "q5_0"}, {"--quantise", "q8_0", "--compact"},
            {"--quantise", "q8_0", "--lora-rank", "2"}};
        String[] reasons = {"needs --recursions, --quantise or --dtype", "--quantise must be f8, q8_0 or q4_0, got q5_0",
            "need --recursions", "need --recursions"};
        for (int i = 0; i < wrong.length; i++) {
            CommandsTest.assertFails(reasons[i], Stream.concat(Arrays.stream(command), Arrays.stream(wrong[i]))
                    .toArray(String[]::new));
        }
        TestModel infinite = TestModel.random(DType.F32, true);
        byte[] data = infinite.weights.get("model.layers.0.mlp.up_proj.weight").data();
        data[40 * 4 + 2] = (byte) 0x80; // an infinity
        data[40 * 4 + 3] = 0x7f;
        infinite.write(source);
        CommandsTest.assertFails("of tensor model.layers.0.mlp.up_proj.weight is ",
                Stream.concat(Arrays.stream(command), Stream.of("--quantise", "q4_0")).toArray(String[]::new));
        assertFalse(Files.exists(directory.resolve("to")));
    }
}
