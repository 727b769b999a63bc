package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;

class ModelLoaderTest {
    private static final int[] TEXT = {70, 105, 114, 115, 116, 32, 67, 105, 116, 105, 122, 101, 110};

    @TempDir
    Path directory;

    private final List<String> warnings = new ArrayList<>();

    private double[] nll(Path model) {
        try (LanguageModel opened = TestModel.open(model, warnings)) {
            return new Scorer(opened, 64, 32).score(List.of(TEXT), done -> { }).getFirst().nll();
        }
    }

    private void assertRefused(TestModel model, String reason) throws IOException {
        Path written = model.write(directory);
        String message = assertThrows(UserException.class, () -> nll(written)).getMessage();
        assertTrue(message.contains(reason), message);
    }

    @Test
    void missingUnknownAndMisshapenTensorsAreNamed() throws IOException {
        TestModel missing = TestModel.read("vanilla");
        missing.weights.remove("model.layers.1.mlp.up_proj.weight");
        assertRefused(missing, "model.layers.1.mlp.up_proj.weight is missing");

        TestModel unknown = TestModel.read("vanilla");
        unknown.putChangedCopy("model.norm.weight", "model.layers.0.self_attn.q_norm.weight");
        assertRefused(unknown, "model.layers.0.self_attn.q_norm.weight has no place");

        TestModel misshapen = TestModel.read("vanilla");
        misshapen.config.put("intermediate_size", 80);
        assertRefused(misshapen, "config.json calls for [80, 48]");

        TestModel wrongType = TestModel.read("vanilla");
        TestModel.Weight norm = wrongType.weights.get("model.norm.weight");
        wrongType.weights.put("model.norm.weight", new TestModel.Weight("I32", norm.shape(), norm.data()));
        assertRefused(wrongType, "type I32");
    }

    @Test
    void untiedHeadMustBeStored() throws IOException {
        TestModel model = TestModel.read("vanilla");
        model.config.put("tie_word_embeddings", false);
        assertRefused(model, "lm_head.weight is missing");
    }

    @Test
    void differingTiedCopiesAreTold() throws IOException {
        TestModel model = TestModel.read("recursive_cycle");
        model.putChangedCopy("model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight");
        double[] nll = nll(model.write(directory));
        assertEquals(1, warnings.size());
        assertTrue(warnings.getFirst().contains("model.layers.2.mlp.up_proj.weight"), warnings.getFirst());
        assertArrayEquals(nll(TestModel.GOLDEN.resolve("recursive_cycle")), nll);
    }

    @Test
    void anyTiedCopyWillDo() throws IOException {
        TestModel model = TestModel.read("recursive_cycle");
        for (String name : List.copyOf(model.weights.keySet())) {
            if (name.startsWith("model.layers.1.")) {
                model.weights.put(name.replace("layers.1.", "layers.3."), model.weights.remove(name));
            }
        }
        assertArrayEquals(nll(TestModel.GOLDEN.resolve("recursive_cycle")), nll(model.write(directory)));
        assertEquals(List.of(), warnings);
    }

    @Test
    void routersOverUntiedWeightsAreRefused() throws IOException {
        TestModel model = TestModel.read("mor_expert");
        String name = "model.layers.1.block.0.self_attn.q_proj.weight";
        model.putChangedCopy(name, name.replace("layers.1", "layers.2"));
        assertRefused(model, "weights that are not shared");
    }

    @Test
    void theCheckpointKnowsHowManyLayersItHas() throws IOException {
        for (String kind : List.of("mor_expert", "mor_token_loss_free", "recursive_middle_cycle")) {
            double[] expected = nll(TestModel.GOLDEN.resolve(kind));
            TestModel model = TestModel.read(kind);
            model.config.put("num_hidden_layers", 30);
            assertArrayEquals(expected, nll(model.write(directory)), kind);
        }
    }

    @Test
    void recursionsMustDivideTheLayers() throws IOException {
        TestModel model = TestModel.read("recursive_cycle");
        ((ObjectNode) model.config.get("recursive")).put("num_recursion", 3);
        assertRefused(model, "do not divide into 3 recursions");
    }

    @Test
    void routersMustBeThereForEveryDepth() throws IOException {
        TestModel model = TestModel.read("mor_expert");
        model.weights.remove("model.layers.3.mor_router.router.weight");
        assertRefused(model, "model.layers.3.mor_router.router.weight is missing");
    }

    @Test
    void biasesOfSomeLinearsAreTakenUp() throws IOException {
        TestModel model = TestModel.read("vanilla");
        byte[] zeros = new byte[4 * 48];
        model.weights.put("model.layers.1.self_attn.q_proj.bias", new TestModel.Weight("F32", new long[] {48}, zeros));
        double[] plain = nll(TestModel.GOLDEN.resolve("vanilla"));
        assertArrayEquals(plain, nll(model.write(directory)), 1e-5);
        zeros[3] = 0x40; // 2.0
        assertTrue(Math.abs(nll(model.write(directory))[TEXT.length - 2] - plain[TEXT.length - 2]) > 1e-5);
    }

    @Test
    void unalignedDataLoadsLikeAligned() throws IOException {
        TestModel model = TestModel.read("mor_token_sigmoid");
        Path written = model.write(directory);
        for (int spaces = 0; spaces < 4; spaces++) { // JSON may end in spaces, which move the data
            Files.write(written.resolve("model.safetensors"), model.file(spaces));
            assertArrayEquals(nll(TestModel.GOLDEN.resolve("mor_token_sigmoid")), nll(written));
        }
    }

    @Test
    void loraPairsMustHaveTheRankOfTheConfig() throws IOException {
        for (int rank : new int[] {64, 2}) { // alpha / rank would scale them wrongly
            TestModel model = TestModel.read("relaxed_middle_cycle");
            ((ObjectNode) model.config.at("/relaxation/lora")).put("r", rank);
            assertRefused(model, "config.json: relaxation.lora.r is " + rank
                    + ", but the largest rank of the checkpoint's LoRA pairs is 3.");
        }
        TestModel none = TestModel.read("relaxed_middle_cycle");
        none.weights.keySet().removeIf(name -> name.contains(".lora_"));
        assertRefused(none, "config.json: relaxation.lora.r is 3, but the checkpoint has no LoRA pairs.");
        TestModel untold = TestModel.read("relaxed_middle_cycle");
        untold.config.remove("relaxation");
        assertRefused(untold, ".lora_A.weight has no place");
    }

    /** As convert stores them with --lora-rank q=3,v=2. */
    @Test
    void someLinearsMayHaveLowerRanks() throws IOException {
        TestModel model = TestModel.read("relaxed_middle_cycle");
        double[] full = nll(model.write(directory));
        for (String name : List.copyOf(model.weights.keySet())) {
            TestModel.Weight weight = model.weights.get(name);
            if (!name.contains("v_proj.lora_")) continue;
            long[] shape = weight.shape().clone();
            shape[name.contains("lora_A") ? 0 : 1] = 1;
            model.weights.put(name, new TestModel.Weight("F32", shape, new byte[(int) (4 * shape[0] * shape[1])]));
        }
        double[] lower = nll(model.write(directory));
        assertTrue(Math.abs(full[3] - lower[3]) > 1e-4);
    }

    @Test
    void ranksOfALinearMustNotDiffer() throws IOException {
        TestModel model = TestModel.read("relaxed_middle_cycle");
        String name = "model.layers.3.self_attn.q_proj.lora_A.weight";
        model.weights.put(name, new TestModel.Weight("F32", new long[] {2, 48}, new byte[4 * 2 * 48]));
        assertRefused(model, "Tensor " + name + " has rank 2, expected 3 as in the other layers.");
        model.weights.put("model.layers.1.self_attn.q_proj.lora_A.weight",
                new TestModel.Weight("F32", new long[] {0, 48}, new byte[0]));
        assertRefused(model, "has rank 0, expected at least 1.");
    }

    @Test
    void routersNeedASharedBlock() throws IOException {
        for (String sharing : List.of("sequence", "middle_sequence")) {
            TestModel model = TestModel.read("mor_expert");
            ((ObjectNode) model.config.get("recursive")).put("sharing", sharing);
            assertRefused(model, "config.json: mor needs recursive.sharing cycle or middle_cycle.");
        }
        TestModel model = TestModel.read("mor_expert");
        model.weights.keySet().removeIf(name -> name.contains(".block."));
        assertRefused(model, "The checkpoint has no layer model.layers.1.block.0.*, which mor calls for.");
    }

    @Test
    void weightsMustBeThere() throws IOException {
        Files.writeString(directory.resolve("config.json"), TestModel.read("vanilla").config.toString());
        String message = assertThrows(UserException.class, () -> nll(directory)).getMessage();
        assertEquals(directory.resolve("model.safetensors")
                + " does not exist, nor does model.safetensors.index.json beside it.", message);
    }

    @Test
    void shardsMustHoldWhatTheIndexPlacesThere() throws IOException {
        Path source = TestModel.GOLDEN.resolve("recursive_sequence");
        try (var files = Files.list(source)) {
            for (Path file : files.toList()) Files.copy(file, directory.resolve(file.getFileName()));
        }
        assertArrayEquals(nll(source), nll(directory));
        Path index = directory.resolve("model.safetensors.index.json");
        ObjectNode json = (ObjectNode) TestModel.json(index);
        ((ObjectNode) json.get("weight_map")).put("model.norm.weight", "model-00001-of-00002.safetensors");
        Files.writeString(index, json.toString());
        String message = assertThrows(UserException.class, () -> nll(directory)).getMessage();
        assertEquals(directory.resolve("model-00001-of-00002.safetensors")
                + " lacks tensor model.norm.weight, which model.safetensors.index.json places there.", message);
    }

    @Test
    void shardsStayInTheirDirectory() throws IOException {
        Files.writeString(directory.resolve("config.json"), TestModel.read("vanilla").config.toString());
        for (String shard : List.of("../model.safetensors", "/etc/passwd", "..", ".", "", "a/b.safetensors",
                "a\\u0000b")) {
            Files.writeString(directory.resolve("model.safetensors.index.json"),
                    "{\"weight_map\": {\"model.norm.weight\": \"" + shard + "\"}}");
            String message = assertThrows(UserException.class, () -> nll(directory)).getMessage();
            assertTrue(message.contains("not allowed"), message);
        }
        Files.writeString(directory.resolve("model.safetensors.index.json"),
                "{\"weight_map\": {\"w\": \"gone.safetensors\"}}");
        assertTrue(assertThrows(UserException.class, () -> nll(directory)).getMessage().contains("does not exist"));
        Files.writeString(directory.resolve("model.safetensors.index.json"), "{\"weight_map\": []}");
        assertTrue(assertThrows(UserException.class, () -> nll(directory)).getMessage().contains("weight_map"));
    }

    @Test
    void sixteenBitCheckpointsRunInBf16ByDefault() {
        assertEquals(DType.BF16, defaultType("mor_token_sigmoid"));
        assertEquals(DType.F32, defaultType("vanilla"));
    }

    private static DType defaultType(String kind) {
        ModelFiles files = ModelFiles.directory(TestModel.GOLDEN.resolve(kind));
        try (LanguageModel model = LanguageModel.open(files, null, 1, warning -> { })) {
            return model.type();
        }
    }
}
