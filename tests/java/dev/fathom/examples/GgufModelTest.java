package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;

/** GGUF files give what the same model gives in a Hugging Face directory. */
class GgufModelTest {
    private static final int[] TEXT = new Random(3).ints(60, 0, 256).toArray();

    @TempDir
    Path directory;

    private final List<String> notes = new ArrayList<>();

    private double[] nll(Path model, DType type) {
        try (LanguageModel opened = TestModel.open(model, type, notes)) {
            return new Scorer(opened, 64, 32).score(List.of(TEXT), done -> { }).getFirst().nll();
        }
    }

    private Path write(GgufWriter file) throws IOException {
        return Files.write(directory.resolve("model.gguf"), file.bytes());
    }

    private void assertRefused(String reason, GgufWriter file) throws IOException {
        Path written = write(file);
        String message = assertThrows(UserException.class, () -> nll(written, null)).getMessage();
        assertTrue(message.contains(reason), message);
        assertTrue(message.endsWith("."), message);
    }

    // ---- the same model ------------------------------------------------------------------------------------------

    @ParameterizedTest
    @ValueSource(strings = {"vanilla", "vanilla_mha_untied", "vanilla_deep"})
    void goldenModelsHaveTheSameBits(String kind) throws IOException {
        double[] expected = nll(TestModel.GOLDEN.resolve(kind), null);
        assertArrayEquals(expected, nll(write(GgufWriter.of(TestModel.read(kind))), null));
        assertEquals(List.of(), notes);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "F16", "BF16"})
    void floatsHaveTheSameBits(DType type) throws IOException {
        for (boolean tied : new boolean[] {true, false}) {
            TestModel model = TestModel.random(type, tied);
            double[] expected = nll(model.write(directory), null);
            Path gguf = write(GgufWriter.of(model));
            assertArrayEquals(expected, nll(gguf, null), type + " " + tied);
            try (LanguageModel opened = TestModel.open(gguf, null, notes)) {
                assertEquals(type == DType.F32 ? DType.F32 : DType.BF16, opened.type());
            }
        }
        assertEquals(List.of(), notes);
    }

    /** Asked for in floats: what the blocks stand for. */
    @ParameterizedTest
    @EnumSource(names = {"Q8_0", "Q4_0"})
    void blocksAreWhatTheyStandFor(DType type) throws IOException {
        TestModel model = TestModel.random(type, false);
        Path gguf = write(GgufWriter.of(model));
        Path floats = model.in(DType.F32).write(directory);
        for (DType asked : new DType[] {DType.F32, DType.BF16}) {
            assertArrayEquals(nll(floats, asked), nll(gguf, asked), asked.toString());
        }
        assertEquals(List.of(), notes);
    }

    /** And blocks run as they are, whichever file they come from. */
    @ParameterizedTest
    @EnumSource(names = {"Q8_0", "Q4_0"})
    void blocksRunAsTheyAre(DType type) throws IOException {
        for (boolean tied : new boolean[] {true, false}) {
            TestModel model = TestModel.random(type, tied);
            Path gguf = write(GgufWriter.of(model));
            double[] nll = nll(gguf, null);
            Path floats = model.in(DType.F32).write(directory);
            assertArrayEquals(nll(floats, type), nll); // packed from what they stand for they are the same blocks
            assertNear(nll(floats, DType.F32), nll);
            try (LanguageModel opened = TestModel.open(gguf, null, notes)) {
                assertEquals(type, opened.type());
            }
        }
        assertEquals(List.of(), notes);
    }

    /** On average: kernels round activations to 8 bits, which moves the losses of random models by 0.03 to 0.11. */
    private static void assertNear(double[] expected, double[] actual) {
        double sum = 0;
        for (int i = 0; i < expected.length; i++) sum += Math.abs(expected[i] - actual[i]);
        assertTrue(sum / expected.length < 0.2, "differ by " + sum / expected.length);
    }

    /** Quantisers to Q4_0 leave the head in Q6_K, which is the table too if the two are tied. */
    @Test
    void theHeadHasItsOwnType() throws IOException {
        for (boolean tied : new boolean[] {true, false}) {
            TestModel model = TestModel.random(DType.Q4_0, tied, 256);
            byte[] blocks = new byte[256 * 210];
            new Random(5).nextBytes(blocks);
            for (int i = 0; i < 256; i++) putHalf(blocks, 210 * i + 208, 1e-4f);
            String name = tied ? "token_embd.weight" : "output.weight";
            Path gguf = write(GgufWriter.of(model).removeTensor(name)
                    .tensor(name, GgufWriter.code("Q6_K"), blocks, 256, 256));

            TestModel floats = model.in(DType.F32);
            float[] head = new float[256 * 256];
            Blocks.Q6_K.decodeAll(MemorySegment.ofArray(blocks), head, 0, head.length);
            floats.weights.put(tied ? "model.embed_tokens.weight" : "lm_head.weight",
                    TestModel.weight(DType.F32, head, 256, 256));
            floats.write(directory);
            assertArrayEquals(nll(directory, DType.F32), nll(gguf, DType.F32));
            assertNear(nll(directory, DType.F32), nll(gguf, null));
            try (LanguageModel opened = TestModel.open(gguf, null, notes)) {
                assertEquals(DType.Q4_0, opened.type());
                assertEquals(DType.Q8_0, opened.weights().head().shape().weightType());
            }
        }
        assertEquals(List.of(), notes);
    }

    private static void putHalf(byte[] bytes, int at, float value) {
        ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putShort(at, Float.floatToFloat16(value));
    }

    @Test
    void layersHaveTheTypeOfMostBytes() throws IOException {
        TestModel model = TestModel.random(DType.Q4_0, true);
        float[] down = TestModel.floats(model.weights.get("model.layers.0.mlp.down_proj.weight"));
        byte[] offsets = new byte[down.length / 32 * 20]; // as quantisers leave some in Q4_1
        for (int i = 0; i < offsets.length; i += 20) putHalf(offsets, i, 0.01f);
        Path gguf = write(GgufWriter.of(model).removeTensor("blk.0.ffn_down.weight")
                .tensor("blk.0.ffn_down.weight", GgufWriter.code("Q4_1"), offsets, 96, 64));
        TestModel floats = model.in(DType.F32);
        floats.weights.put("model.layers.0.mlp.down_proj.weight",
                TestModel.weight(DType.F32, new float[down.length], 64, 96));
        assertArrayEquals(nll(floats.write(directory), DType.Q4_0), nll(gguf, null));
        assertEquals(List.of("1 of 14 linears are stored in other types than q4_0 and are converted:"
                + " the layers have one type."), notes);
        try (LanguageModel opened = TestModel.open(gguf, null, notes)) {
            assertEquals(DType.Q4_0, opened.type());
        }
    }

    @Test
    void anyModelRunsInAnyType() throws IOException {
        for (String kind : List.of("vanilla", "mor_expert_mlp", "relaxed_middle_cycle", "recursive_sequence")) {
            double[] exact = nll(TestModel.GOLDEN.resolve(kind), DType.F32);
            for (DType type : new DType[] {DType.I8, DType.Q8_0}) {
                assertNear(exact, nll(TestModel.GOLDEN.resolve(kind), type));
            }
            nll(TestModel.GOLDEN.resolve(kind), DType.Q4_0);
        }
    }

    @Test
    void interleavedRowsAreOfTheArchitectureLlamaAlone() throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        double[] expected = nll(model.write(directory), null);
        GgufWriter llama = GgufWriter.of(model);
        // The same file under the other name has its rows in another order.
        GgufWriter qwen = new GgufWriter();
        model.weights.forEach((name, weight) -> {
            long[] sizes = weight.shape().length == 1 ? weight.shape()
                    : new long[] {weight.shape()[1], weight.shape()[0]};
            qwen.tensor(GgufWriter.name(name), GgufWriter.code(weight.dtype()), weight.data(), sizes);
        });
        qwen.put("general.architecture", GgufWriter.STRING, "qwen2").put("qwen2.block_count", GgufWriter.U32, 2)
                .put("qwen2.embedding_length", GgufWriter.U32, 64)
                .put("qwen2.feed_forward_length", GgufWriter.U32, 96)
                .put("qwen2.attention.head_count", GgufWriter.U32, 4)
                .put("qwen2.attention.head_count_kv", GgufWriter.U32, 2)
                .put("qwen2.attention.layer_norm_rms_epsilon", GgufWriter.F32, 1e-5f);
        assertArrayEquals(expected, nll(write(qwen), null));
        assertArrayEquals(expected, nll(write(llama), null));
    }

    @Test
    void biasesOfQueriesAreInTheOrderOfTheirRows() throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        float[] bias = new float[64];
        for (int i = 0; i < 64; i++) bias[i] = i * 0.05f;
        model.weights.put("model.layers.1.self_attn.q_proj.bias", TestModel.weight(DType.F32, bias, 64));
        model.weights.put("model.layers.0.self_attn.o_proj.bias", TestModel.weight(DType.F32, bias, 64));
        assertArrayEquals(nll(model.write(directory), null), nll(write(GgufWriter.of(model)), null));
    }

    @Test
    void ropeScalingOfLlama3IsRecognised() throws IOException {
        TestModel model = TestModel.read("llama3_rope_scaling");
        double[] expected = nll(TestModel.GOLDEN.resolve("llama3_rope_scaling"), null);
        int dim = model.config.get("head_dim").intValue();
        double theta = model.config.get("rope_theta").doubleValue();
        float[] plain = RopeFrequencies.of(theta, dim, TestModel.json("{}"));
        float[] factors = new float[dim / 2];
        float[] scaled = RopeFrequencies.of(theta, dim, model.config.get("rope_scaling"));
        for (int i = 0; i < factors.length; i++) factors[i] = plain[i] / scaled[i];
        GgufWriter file = GgufWriter.of(model);
        file.tensor("rope_freqs.weight", 0, TestModel.weight(DType.F32, factors, dim / 2).data(), dim / 2);
        double[] nll = nll(write(file), null);
        for (int i = 0; i < nll.length; i++) assertEquals(expected[i], nll[i], 1e-5);

        ObjectNode usual = (ObjectNode) TestModel.json("{\"rope_type\": \"llama3\", \"factor\": 32.0,"
                + " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}");
        model.config.set("rope_scaling", usual);
        model.config.put("rope_theta", 500000);
        expected = nll(model.write(directory), null);
        plain = RopeFrequencies.of(500000, dim, TestModel.json("{}"));
        scaled = RopeFrequencies.of(500000, dim, usual);
        for (int i = 0; i < factors.length; i++) factors[i] = plain[i] / scaled[i];
        file = GgufWriter.of(model);
        file.tensor("rope_freqs.weight", 0, TestModel.weight(DType.F32, factors, dim / 2).data(), dim / 2);
        assertArrayEquals(expected, nll(write(file), null)); // computed as the directory's are
        assertEquals("llama3", GgufModel.read(directory.resolve("model.gguf")).config().at("/rope_scaling/rope_type")
                .asText());
    }

    @Test
    void linearRopeScaling() throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        ((ObjectNode) model.config).putObject("rope_scaling").put("rope_type", "linear").put("factor", 4.0);
        double[] expected = nll(model.write(directory), null);
        assertArrayEquals(expected, nll(write(GgufWriter.of(model).put("llama.rope.scaling.type", GgufWriter.STRING,
                "linear").put("llama.rope.scaling.factor", GgufWriter.F32, 4)), null));
        assertArrayEquals(expected, nll(write(GgufWriter.of(model).put("llama.rope.scale_linear", GgufWriter.F32, 4)),
                null));
    }

    // ---- what is refused -----------------------------------------------------------------------------------------

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            general.architecture                    | general.architecture must be one of llama, qwen2, got nothing
            llama.block_count                       | llama.block_count must be a whole number in 1..16384, got nothing
            llama.embedding_length                  | llama.embedding_length must be
            llama.feed_forward_length               | llama.feed_forward_length must be
            llama.attention.head_count              | llama.attention.head_count must be
            llama.attention.layer_norm_rms_epsilon  | layer_norm_rms_epsilon must be a positive number, got nothing
            """)
    void missingKeysAreNamed(String key, String reason) throws IOException {
        assertRefused(reason, GgufWriter.of(TestModel.random(DType.F32, true)).remove(key));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            general.architecture             | 8  | gemma2 | one of llama, qwen2, got "gemma2"
            llama.block_count                | 8  | many   | must be a whole number in 1..16384, got "many"
            llama.block_count                | 10 | -1     | in 1..16384, got 18446744073709551615
            llama.block_count                | 4  | 3      | model.layers.2
            llama.block_count                | 4  | 1      | has no place in the model
            llama.attention.head_count       | 4  | 5      | attention.value_length must be the length of a key
            llama.attention.head_count_kv    | 4  | 3      | read as a config.json: num_attention_heads 4 must be
            llama.attention.key_length       | 4  | 12     | attention.value_length must be the length of a key, 12
            llama.attention.value_length     | 4  | 8      | attention.value_length must be the length of a key, 16
            llama.rope.dimension_count       | 4  | 8      | rope.dimension_count must be the length of a key, 16
            llama.rope.freq_base             | 6  | -1     | rope.freq_base must be a positive number
            llama.rope.scaling.type          | 8  | yarn   | one of none, linear, got "yarn"
            llama.expert_count               | 4  | 8      | llama.expert_count changes what is computed
            llama.logit_scale                | 6  | 0.5    | llama.logit_scale changes what is computed
            llama.attention.sliding_window   | 4  | 64     | a sliding_window shorter than
            split.count                      | 4  | 2      | is one of several files
            llama.feed_forward_length        | 4  | 80     | calls for [80, 64]
            """)
    void whatIsNotSupportedIsNamed(String key, int type, String value, String reason) throws IOException {
        GgufWriter file = GgufWriter.of(TestModel.random(DType.F32, true));
        if (key.endsWith("head_count")) file.remove("llama.attention.key_length");
        assertRefused(reason, file.put(key, type, type == GgufWriter.STRING ? value : (Object) Double.valueOf(value)));
    }

    @Test
    void onlyCausalAttention() throws IOException {
        assertRefused("only causal attention", GgufWriter.of(TestModel.random(DType.F32, true))
                .put("llama.attention.causal", GgufWriter.BOOL, false));
        assertRefused("head_count must be a whole number", GgufWriter.of(TestModel.random(DType.F32, true))
                .putAll("llama.attention.head_count", GgufWriter.U32, List.of(4, 4)));
    }

    @Test
    void tensorsMustBeThoseOfTheModel() throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        assertRefused("has no matrix token_embd.weight", GgufWriter.of(model).removeTensor("token_embd.weight"));
        assertRefused("model.layers.1.mlp.up_proj.weight is missing",
                GgufWriter.of(model).removeTensor("blk.1.ffn_up.weight"));
        assertRefused("blk.0.attn_q_norm.weight has no place",
                GgufWriter.of(model).tensor("blk.0.attn_q_norm.weight", 0, new byte[64], 16));
        assertRefused("rope_freqs.weight must be a short vector",
                GgufWriter.of(model).tensor("rope_freqs.weight", 0, new byte[64], 4, 4));
        assertRefused("rope factors must be 8 positive numbers",
                GgufWriter.of(model).tensor("rope_freqs.weight", 0, new byte[32], 8));
        assertRefused("blk.0.attn_q.bias cannot be of type Q8_0",
                GgufWriter.of(model).tensor("blk.0.attn_q.bias", 8, new byte[68], 64));
    }

    @Test
    void infoDescribesTheFile() throws IOException {
        Path gguf = write(GgufWriter.of(TestModel.random(DType.Q8_0, true)));
        CommandsTest.Ran ran = CommandsTest.run("", "info", "--model", gguf.toString());
        assertEquals(0, ran.code(), ran.err());
        assertTrue(ran.out().contains("2 layers, hidden 64, 4 heads over 2, 256 words, context 128"), ran.out());
        assertTrue(ran.out().contains("320 in F32, 77,824 in Q8_0"), ran.out());
        ran = CommandsTest.run("", "generate", "--model", gguf.toString(), "--prompt", "ab", "--tokens", "3");
        assertTrue(ran.out().contains(" q8_0 "), ran.err() + ran.out());
    }

    /** Damage anywhere: in numbers, in names, in weights. */
    @Test
    void damageIsASentenceOrAnotherModel() throws IOException {
        byte[] sound = GgufWriter.of(TestModel.random(DType.Q4_0, true)).bytes();
        Random random = new Random(11);
        Path file = directory.resolve("model.gguf");
        int refused = 0;
        for (int round = 0; round < 400; round++) {
            byte[] damaged = sound.clone();
            damaged[random.nextInt(4000)] ^= (byte) (1 << random.nextInt(8));
            Files.write(file, damaged);
            try {
                nll(file, DType.F32);
            } catch (UserException e) {
                assertTrue(e.getMessage().endsWith("."), e.getMessage());
                refused++;
            }
        }
        assertTrue(refused > 100, "refused " + refused);
    }
}
