package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

/** What {@code convert} keeps, promises and refuses. ConversionGoldenTest has the numbers. */
class ConversionTest {
    private static final Path SOURCE = TestModel.GOLDEN.resolve("vanilla_deep");
    private static final int[] TEXT = new Random(3).ints(60, 0, 256).toArray();

    @TempDir
    Path directory;
    /** Where changed originals are written. */
    private Path changed;
    private Path to;

    @BeforeEach
    void folders() throws IOException {
        changed = Files.createDirectory(directory.resolve("changed"));
        to = directory.resolve("to");
    }

    private String[] arguments(Path model, String... options) {
        return Stream.concat(Stream.of("convert", "--model", model.toString(), "--to", to.toString()),
                Arrays.stream(options)).toArray(String[]::new);
    }

    private CommandsTest.Ran convert(Path model, String... options) {
        CommandsTest.Ran ran = CommandsTest.run("", arguments(model, options));
        assertEquals(0, ran.code(), ran.err());
        return ran;
    }

    /** Refused with that reason, and nothing is left behind. */
    private void assertRefused(String reason, Path model, String... options) throws IOException {
        CommandsTest.assertFails(reason, arguments(model, options));
        try (Stream<Path> files = Files.list(directory)) {
            assertEquals(List.of(changed), files.toList());
        }
    }

    private static double[] nll(Path model) {
        List<String> warnings = new ArrayList<>();
        try (LanguageModel opened = TestModel.open(model, warnings)) {
            assertEquals(List.of(), warnings);
            return new Scorer(opened, 64, 32).score(List.of(TEXT), done -> { }).getFirst().nll();
        }
    }

    private static float[] floats(Map<String, Tensor> tensors, String name) {
        return tensors.get(name).toFloats();
    }

    // ---- what a conversion promises ------------------------------------------------------------------------------

    @Test
    @DisplayName("5: LoRA of full rank with norms per depth gives the source model back")
    void fullRankAndOwnNormsGiveTheModelBack() throws IOException {
        double[] original = nll(SOURCE);
        for (String init : List.of("stepwise", "average", "upper")) {
            to = directory.resolve(init);
            CommandsTest.Ran ran = convert(SOURCE, "--recursions", "4", "--init", init, "--norms", "per-depth",
                    "--lora-rank", "full");
            assertTrue(ran.out().contains("for 100.0 % of the squared differences"), ran.out());
            assertGivesBack(TestModel.tensors(SOURCE), TestModel.tensors(to));
            double[] relaxed = nll(to);
            // Weights as near as that leave what the golden models are allowed for arithmetic in fp32.
            for (int i = 0; i < original.length; i++) assertEquals(original[i], relaxed[i], 1e-3, init + " token " + i);
        }
    }

    /**
     * W' + B A is W but for fp32: the residual is rounded once, as are the entries of A and B, so that each of the r
     * terms may be off by two units, and A's rows are orthonormal to about as much.
     */
    private static void assertGivesBack(Map<String, Tensor> original, Map<String, Tensor> relaxed) {
        for (int layer = 0; layer < 8; layer++) {
            for (String linear : List.of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                    "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")) {
                String name = "model.layers." + layer + "." + linear;
                float[] w = floats(original, name + ".weight");
                float[] shared = floats(relaxed, name + ".weight");
                float[] a = floats(relaxed, name + ".lora_A.weight");
                float[] b = floats(relaxed, name + ".lora_B.weight");
                int in = (int) original.get(name + ".weight").shape()[1];
                int rank = a.length / in;
                for (int i = 0; i < w.length; i++) {
                    double sum = shared[i];
                    double size = Math.abs(w[i]) + Math.abs(shared[i]);
                    for (int k = 0; k < rank; k++) {
                        double term = (double) b[i / in * rank + k] * a[k * in + i % in];
                        sum += term;
                        size += Math.abs(term);
                    }
                    assertEquals(w[i], sum, 3 * 0x1p-24 * size, name);
                }
            }
        }
    }

    @Test
    @DisplayName("5: rank 0 is the pure recursion")
    void rankNoneIsThePureRecursion() throws IOException {
        convert(SOURCE, "--recursions", "2");
        byte[] pure = Files.readAllBytes(to.resolve("model.safetensors"));
        for (String rank : List.of("0", "q=0,v=0")) {
            to = directory.resolve(rank);
            convert(SOURCE, "--recursions", "2", "--lora-rank", rank);
            assertArrayEquals(pure, Files.readAllBytes(to.resolve("model.safetensors")));
            assertFalse(TestModel.json(to.resolve("config.json")).has("relaxation"));
        }
        // Each pass has the weights of the layers that stepwise takes: 0, 2, 5 and 7.
        Map<String, Tensor> original = TestModel.tensors(SOURCE);
        int[] source = {0, 2, 5, 7};
        TestModel.tensors(to).forEach((name, tensor) -> {
            String from = name;
            if (name.startsWith("model.layers.")) {
                int layer = name.charAt("model.layers.".length()) - '0';
                from = name.replace("layers." + layer, "layers." + source[layer % 4]);
            }
            assertTrue(tensor.sameAs(original.get(from)), name);
        });
    }

    /** Other programs ignore the objects they do not know and the LoRA tensors: what is left is a Llama. */
    @Test
    void aPlainLlamaReadsTheRecursion() throws IOException {
        for (String sharing : List.of("sequence", "middle_cycle")) {
            to = directory.resolve(sharing);
            convert(SOURCE, "--recursions", "3", "--sharing", sharing, "--norms", "per-depth", "--init", "average");
            double[] recursive = nll(to);
            to = directory.resolve(sharing + "_relaxed");
            convert(SOURCE, "--recursions", "3", "--sharing", sharing, "--norms", "per-depth", "--lora-rank", "3");
            TestModel model = TestModel.read(to);
            model.config.remove(List.of("recursive", "relaxation"));
            model.weights.keySet().removeIf(name -> name.contains(".lora_"));
            assertEquals(2 + 9L * model.config.get("num_hidden_layers").intValue(), model.weights.size());
            assertArrayEquals(recursive, nll(model.write(changed)));
        }
    }

    @Test
    void theAdapterHasThePairsUnderPeftsNames() throws IOException {
        convert(SOURCE, "--recursions", "3", "--sharing", "middle_sequence", "--lora-rank", "q=5,down=2");
        Map<String, Tensor> model = TestModel.tensors(to);
        Path folder = to.resolve("adapter");
        byte[] file = Files.readAllBytes(folder.resolve("adapter_model.safetensors"));
        Map<String, Tensor> adapter = Safetensors.read("adapter", Contents.of(file));
        Set<String> expected = new TreeSet<>();
        for (int layer = 1; layer < 7; layer++) {
            for (String linear : List.of("self_attn.q_proj", "mlp.down_proj")) {
                for (String factor : List.of("A", "B")) {
                    expected.add("model.layers." + layer + "." + linear + ".lora_" + factor + ".weight");
                }
            }
        }
        Set<String> stored = new TreeSet<>(model.keySet());
        stored.removeIf(name -> !name.contains(".lora_"));
        assertEquals(expected, stored);
        assertEquals(expected.size(), adapter.size());
        for (String name : expected) {
            assertTrue(model.get(name).sameAs(adapter.get("base_model.model." + name)), name);
        }
        JsonNode config = TestModel.json(folder.resolve("adapter_config.json"));
        assertEquals(TestModel.json("""
                {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": null, "r": 5,
                 "lora_alpha": 5, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "use_rslora": false,
                 "use_dora": false, "init_lora_weights": true, "inference_mode": true,
                 "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 5, "down_proj": 2},
                 "alpha_pattern": {"q_proj": 5, "down_proj": 2}, "layers_to_transform": [1, 2, 3, 4, 5, 6]}"""),
                config);
    }

    @Test
    void configKeepsWhatItDoesNotKnow() throws IOException {
        TestModel model = TestModel.read("vanilla_deep");
        model.config.put("bos_token_id", 1).put("eos_token_id", (String) null).put("initializer_range", 0.02);
        ObjectNode own = model.config.putObject("their_own");
        own.putArray("list").add(1).add("two").addNull();
        model.config.putArray("layer_types").add("a").add("b").add("c").add("d").add("e").add("f").add("g").add("h");
        model.config.putObject("relaxation").put("enable", false);
        convert(model.write(changed), "--recursions", "3", "--dtype", "bf16", "--norms", "per-depth", "--lora-rank",
                "2");
        ObjectNode expected = model.config.deepCopy();
        expected.put("num_hidden_layers", 6).put("torch_dtype", "bfloat16");
        expected.putArray("layer_types").add("a").add("b").add("d").add("e").add("g").add("h"); // 0 1.4 2.8 4.2 5.6 7
        expected.set("recursive", TestModel.json("""
                {"enable": true, "num_recursion": 3, "sharing": "cycle", "ln_share": false,
                 "initialization": "average"}"""));
        JsonNode written = TestModel.json(to.resolve("config.json"));
        assertEquals(2, written.get("relaxation").get("lora").get("alpha").intValue());
        assertEquals(2, written.get("relaxation").get("lora").get("r").intValue());
        expected.set("relaxation", written.get("relaxation"));
        assertEquals(expected, written);
        TestModel.tensors(to).forEach((name, tensor) -> assertEquals("BF16", tensor.dtype(), name));
    }

    @Test
    void companionsComeAlong() throws IOException {
        TestModel.read("vanilla_deep").write(changed);
        List<String> kept = List.of("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "merges.txt",
                "special_tokens_map.json", "generation_config.json", "vocab.json", "chat_template.jinja", "LICENSE");
        for (String name : kept) Files.writeString(changed.resolve(name), "contents of " + name);
        for (String name : List.of("pytorch_model.bin", "README.md", "optimizer.pt", "model.safetensors.bak")) {
            Files.writeString(changed.resolve(name), "not these");
        }
        convert(changed, "--recursions", "2");
        Set<String> expected = new TreeSet<>(kept);
        expected.addAll(List.of("config.json", "model.safetensors"));
        try (Stream<Path> files = Files.list(to)) {
            assertEquals(expected, new TreeSet<>(files.map(file -> file.getFileName().toString()).toList()));
        }
        for (String name : kept) assertEquals("contents of " + name, Files.readString(to.resolve(name)));
    }

    @Test
    void sixteenBitsAndShardsAndOddPlacesAreRead() throws IOException {
        TestModel model = TestModel.read("vanilla_mha_untied");
        Path whole = model.write(Files.createDirectory(directory.resolve("whole")));
        convert(whole, "--recursions", "2", "--lora-rank", "3");
        byte[] expected = Files.readAllBytes(to.resolve("model.safetensors"));
        assertEquals("F16", TestModel.tensors(to).get("model.layers.1.mlp.up_proj.lora_A.weight").dtype());
        assertEquals("F16", TestModel.tensors(to).get("lm_head.weight").dtype());

        Files.write(whole.resolve("model.safetensors"), model.file(1)); // tensors at odd addresses
        to = directory.resolve("odd");
        convert(whole, "--recursions", "2", "--lora-rank", "3");
        assertArrayEquals(expected, Files.readAllBytes(to.resolve("model.safetensors")));

        writeShards(model);
        to = directory.resolve("shards");
        convert(changed, "--recursions", "2", "--lora-rank", "3", "--threads", "1");
        assertArrayEquals(expected, Files.readAllBytes(to.resolve("model.safetensors")));
    }

    private void writeShards(TestModel model) throws IOException {
        Files.writeString(changed.resolve("config.json"), model.config.toString());
        ObjectNode index = model.config.objectNode();
        TestModel rest = TestModel.read("vanilla_mha_untied");
        rest.weights.keySet().removeIf(name -> name.hashCode() % 2 == 0);
        model.weights.keySet().removeAll(rest.weights.keySet());
        for (String name : model.weights.keySet()) index.withObject("/weight_map").put(name, "a-1.safetensors");
        for (String name : rest.weights.keySet()) index.withObject("/weight_map").put(name, "a-2.safetensors");
        Files.write(changed.resolve("a-1.safetensors"), model.file());
        Files.write(changed.resolve("a-2.safetensors"), rest.file());
        Files.writeString(changed.resolve("model.safetensors.index.json"), index.toString());
    }

    @Test
    void biasesAreSharedWhereThereAreSome() throws IOException {
        TestModel model = TestModel.read("vanilla_deep");
        model.weights.put("model.layers.1.self_attn.q_proj.bias", bias(2f));
        model.weights.put("model.layers.5.self_attn.q_proj.bias", bias(6f));
        model.weights.put("model.layers.2.self_attn.q_proj.bias", bias(3f));
        model.write(changed);
        convert(changed, "--recursions", "2", "--init", "average");
        Map<String, Tensor> average = TestModel.tensors(to);
        float[] first = floats(average, "model.layers.1.self_attn.q_proj.bias");
        assertEquals(4f, first[0]);
        assertArrayEquals(first, floats(average, "model.layers.5.self_attn.q_proj.bias"));
        assertEquals(1.5f, floats(average, "model.layers.6.self_attn.q_proj.bias")[31]); // layer 6 has none: 0
        assertFalse(average.containsKey("model.layers.0.self_attn.q_proj.bias"));
        nll(to);
        to = directory.resolve("lower");
        convert(changed, "--recursions", "2", "--init", "lower");
        Map<String, Tensor> lower = TestModel.tensors(to);
        assertEquals(2f, floats(lower, "model.layers.5.self_attn.q_proj.bias")[0]);
        assertEquals(3f, floats(lower, "model.layers.6.self_attn.q_proj.bias")[0]);
        nll(to);
    }

    private static TestModel.Weight bias(float value) {
        ByteBuffer data = ByteBuffer.allocate(4 * 32).order(ByteOrder.LITTLE_ENDIAN);
        IntStream.range(0, 32).forEach(i -> data.putFloat(value));
        return new TestModel.Weight("F32", new long[] {32}, data.array());
    }

    @Test
    void relaxedModelsBeginWithTheMean() throws IOException {
        assertTrue(convert(SOURCE, "--recursions", "2").out().contains("cycle, stepwise"));
        to = directory.resolve("relaxed");
        String out = convert(SOURCE, "--recursions", "2", "--lora-rank", "1").out();
        assertTrue(out.contains("8 as 4 shared in 2 passes, cycle, average"), out);
        assertTrue(out.contains("LoRA"), out);
    }

    @Test
    void threadsChangeNothing() throws IOException {
        convert(SOURCE, "--recursions", "2", "--lora-rank", "4", "--threads", "1");
        byte[] expected = Files.readAllBytes(to.resolve("model.safetensors"));
        to = directory.resolve("four");
        convert(SOURCE, "--recursions", "2", "--lora-rank", "4", "--threads", "4");
        assertArrayEquals(expected, Files.readAllBytes(to.resolve("model.safetensors")));
    }

    @Test
    void droppedLayersAreTold() {
        CommandsTest.Ran ran = convert(SOURCE, "--recursions", "3");
        assertEquals("warning: 8 layers do not divide into 3 recursions and 0 unshared ones; dropped: 2, 5;"
                + " --layers 9 would repeat some instead.", ran.err().strip());
        to = directory.resolve("nine");
        ran = convert(SOURCE, "--recursions", "3", "--layers", "9");
        assertEquals("", ran.err());
        assertTrue(ran.out().contains("9 as 3 shared in 3 passes"), ran.out());
    }

    // ---- what it refuses -----------------------------------------------------------------------------------------

    @Test
    void onlyVanillaModelsAreTaken() throws IOException {
        assertRefused("is recursive already", TestModel.GOLDEN.resolve("recursive_cycle"), "--recursions", "2");
        assertRefused("is recursive already", TestModel.GOLDEN.resolve("relaxed_cycle"), "--recursions", "2");
        assertRefused("is a Mixture-of-Recursions", TestModel.GOLDEN.resolve("mor_expert"), "--recursions", "2");
        assertRefused("is a Mixture-of-Recursions", TestModel.GOLDEN.resolve("mor_token_softmax"), "--recursions", "2");
        TestModel model = TestModel.read("mor_expert");
        model.config.remove(List.of("mor", "recursive")); // its tensors still tell
        assertRefused("model.layers.1.input_layernorm.weight is missing", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        model.config.putObject("kv_sharing").put("enable", true);
        assertRefused("shares K and V", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        model.config.putObject("relaxation").putObject("lora").put("r", 2);
        assertRefused("has LoRA pairs", model.write(changed), "--recursions", "2");
    }

    @Test
    void brokenModelsAreNamed() throws IOException {
        TestModel model = TestModel.read("vanilla_deep");
        model.weights.remove("model.layers.3.mlp.up_proj.weight"); // of a layer that stepwise does not even use
        assertRefused("model.layers.3.mlp.up_proj.weight is missing", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        model.putChangedCopy("model.norm.weight", "model.layers.2.self_attn.q_norm.weight");
        assertRefused("q_norm.weight has no place", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        model.config.put("intermediate_size", 48);
        assertRefused("config.json calls for [48, 32]", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        model.config.put("num_hidden_layers", 7);
        assertRefused("model.layers.7.input_layernorm.weight has no place", model.write(changed), "--recursions", "2");
        model = TestModel.read("vanilla_deep");
        TestModel.Weight norm = model.weights.get("model.norm.weight");
        model.weights.put("model.norm.weight", new TestModel.Weight("I32", norm.shape(), norm.data()));
        assertRefused("type I32", model.write(changed), "--recursions", "2");
        assertRefused("is not a directory", directory.resolve("none"), "--recursions", "2");
    }

    @Test
    void valuesThatAreNoNumbersAreNamed() throws IOException {
        for (float value : new float[] {Float.NaN, Float.POSITIVE_INFINITY}) {
            TestModel model = TestModel.read("vanilla_deep");
            String name = "model.layers.4.mlp.down_proj.weight";
            ByteBuffer.wrap(model.weights.get(name).data()).order(ByteOrder.LITTLE_ENDIAN).putFloat(4 * 17, value);
            model.write(changed);
            assertRefused("Element 17 of tensor model.layers.0.mlp.down_proj.weight is " + value, changed,
                    "--recursions", "2", "--init", "average");
            assertRefused("Element 17 of tensor " + name + " less that of the shared weight", changed,
                    "--recursions", "2", "--init", "lower", "--lora-rank", "2");
            assertRefused("Element 17 of tensor model.layers.0.mlp.down_proj.weight is " + value, changed,
                    "--recursions", "2", "--init", "upper");
        }
        TestModel model = TestModel.read("vanilla_deep");
        ByteBuffer.wrap(model.weights.get("model.norm.weight").data()).order(ByteOrder.LITTLE_ENDIAN).putFloat(0, 1e6f);
        assertRefused("Element 0 of tensor model.norm.weight is Infinity as F16", model.write(changed), "--recursions",
                "2", "--dtype", "f16");
    }

    @Test
    void countsThatCannotBeAreNamed() throws IOException {
        assertRefused("--recursions must be in 2..8, got 1", SOURCE, "--recursions", "1");
        assertRefused("--recursions must be in 2..8, got 9", SOURCE, "--recursions", "9");
        assertRefused("--recursions must be in 2..6, got 7", SOURCE, "--recursions", "7", "--sharing", "middle_cycle");
        assertRefused("--recursions must be in 2..64, got 65", SOURCE, "--recursions", "65", "--layers", "65");
        assertRefused("--layers must be a multiple of the 3 recursions, got 8", SOURCE, "--recursions", "3",
                "--layers", "8");
        assertRefused("--layers must be 2 unshared ones and a multiple of the 3 recursions, got 9", SOURCE,
                "--recursions", "3", "--layers", "9", "--sharing", "middle_sequence");
        assertRefused("--layers must be at least 1", SOURCE, "--recursions", "3", "--layers", "0");
        assertRefused("--layers must be", SOURCE, "--recursions", "2", "--layers", "1000000000");
        assertRefused("too few layers", TestModel.GOLDEN.resolve("vanilla"), "--recursions", "2", "--sharing",
                "middle_cycle");
        assertRefused("too few layers", TestModel.GOLDEN.resolve("vanilla_mha_untied"), "--recursions", "2",
                "--sharing", "middle_cycle", "--layers", "6"); // nothing between the ends that could be repeated
        assertRefused("--threads", SOURCE, "--recursions", "2", "--threads", "-1");
    }

    @Test
    void optionsThatMakeNoSenseAreNamed() throws IOException {
        assertRefused("--recursions", SOURCE);
        assertRefused("--sharing", SOURCE, "--recursions", "2", "--sharing", "spiral");
        assertRefused("--init", SOURCE, "--recursions", "2", "--init", "random");
        assertRefused("--norms must be tied or per-depth, got some", SOURCE, "--recursions", "2", "--norms", "some");
        assertRefused("--dtype must be f32, bf16 or f16, got int8", SOURCE, "--recursions", "2", "--dtype", "int8");
        String[] ranks = {"-1", "many", "", "1.5", "99999999999", "q=", "q=x", "q=1,,v=2", "=3"};
        for (String rank : ranks) assertRefused("--lora-rank must", SOURCE, "--recursions", "2", "--lora-rank", rank);
        assertRefused("must name some of q, k, v, o, gate, up and down, got head", SOURCE, "--recursions", "2",
                "--lora-rank", "q=1,head=2");
        assertRefused("--lora-rank names q twice", SOURCE, "--recursions", "2", "--lora-rank", "q=1,q=2");
        assertRefused("--lora-targets must name some of", SOURCE, "--recursions", "2", "--lora-rank", "2",
                "--lora-targets", "q,norm");
        assertRefused("--lora-targets names v twice", SOURCE, "--recursions", "2", "--lora-rank", "2",
                "--lora-targets", "v,q,v");
        assertRefused("--lora-targets needs --lora-rank", SOURCE, "--recursions", "2", "--lora-targets", "q");
        assertRefused("--lora-targets are in --lora-rank already", SOURCE, "--recursions", "2", "--lora-rank", "q=2",
                "--lora-targets", "q");
    }

    @Test
    void nothingIsOverwritten() throws IOException {
        Files.createDirectory(to);
        CommandsTest.assertFails("exists already", arguments(SOURCE, "--recursions", "2"));
        Files.delete(to);
        Files.writeString(to, "a file");
        CommandsTest.assertFails("exists already", arguments(SOURCE, "--recursions", "2"));
        assertEquals("a file", Files.readString(to));
        Files.delete(to);
        to = directory.resolve("no/such/folder");
        assertRefused("is not a directory", SOURCE, "--recursions", "2");
    }
}
