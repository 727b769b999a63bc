package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.DType;

/** Every way to convert a model, from the command line to the scores, against the reference in float64. */
class ConversionGoldenTest {
    private static final Path GOLDEN = TestModel.GOLDEN.resolveSibling("conversions");
    private static final String SOURCE = TestModel.GOLDEN.resolve("vanilla_deep").toString();
    /** As for the golden models: fp32 over rows of at most 40 elements and 12 layers stays far below. */
    private static final double TOLERANCE = 1e-3;

    @TempDir
    Path directory;

    static JsonNode cases() throws IOException {
        return TestModel.json(GOLDEN.resolve("cases.json"));
    }

    static Stream<String> names() throws IOException {
        return StreamSupport.stream(cases().get("cases").spliterator(), false).map(c -> c.get("name").textValue());
    }

    @ParameterizedTest
    @MethodSource("names")
    void conversionsAreThoseOfTheReference(String name) throws IOException {
        JsonNode all = cases();
        JsonNode expected = StreamSupport.stream(all.get("cases").spliterator(), false)
                .filter(c -> c.get("name").textValue().equals(name)).findFirst().orElseThrow();
        List<int[]> texts = new ArrayList<>();
        all.get("texts").forEach(ids -> texts.add(TestModel.ints(ids)));

        Path full = convert("full", expected);
        Path compact = convert("compact", expected, "--compact");
        compareTensors(name, TestModel.tensors(full));
        List<Scorer.Result> scores = score(full, expected, texts);
        for (int i = 0; i < texts.size(); i++) {
            JsonNode nll = expected.get("nll").get(i);
            assertEquals(nll.size(), scores.get(i).nll().length);
            for (int t = 0; t < nll.size(); t++) {
                assertEquals(nll.get(t).doubleValue(), scores.get(i).nll()[t], TOLERANCE, "text " + i + " token " + t);
            }
        }
        List<Scorer.Result> fromCompact = score(compact, expected, texts);
        for (int i = 0; i < texts.size(); i++) {
            assertArrayEquals(scores.get(i).nll(), fromCompact.get(i).nll());
        }
        assertTrue(Files.size(compact.resolve("model.safetensors")) < Files.size(full.resolve("model.safetensors")));
        assertTrue(Files.notExists(compact.resolve("adapter")));
    }

    private Path convert(String folder, JsonNode expected, String... more) {
        Path to = directory.resolve(folder);
        List<String> arguments = new ArrayList<>(List.of("convert", "--model", SOURCE, "--to", to.toString()));
        expected.get("arguments").forEach(word -> arguments.add(word.textValue()));
        arguments.addAll(List.of(more));
        CommandsTest.Ran ran = CommandsTest.run("", arguments.toArray(String[]::new));
        assertEquals(0, ran.code(), ran.err());
        return to;
    }

    private static List<Scorer.Result> score(Path model, JsonNode expected, List<int[]> texts) {
        List<String> warnings = new ArrayList<>();
        try (LanguageModel opened = TestModel.open(model, warnings)) {
            assertEquals(List.of(), warnings);
            assertEquals(expected.get("layers").intValue(), opened.config().layers());
            return new Scorer(opened, 512, 256).score(texts, done -> { });
        }
    }

    private static void compareTensors(String name, Map<String, Tensor> converted) throws IOException {
        Contents file = Contents.of(Files.readAllBytes(GOLDEN.resolve("expected.safetensors")));
        Safetensors.read("expected", file).forEach((key, expected) -> {
            if (!key.startsWith(name + ".")) return;
            String tensor = key.substring(name.length() + 1);
            if (tensor.endsWith(".weight")) {
                assertArrayEquals(expected.toFloats(), converted.get(tensor).toFloats(), key);
            } else {
                compareProduct(key, expected.toFloats(), converted.get(tensor.replace("product", "lora_A.weight")),
                        converted.get(tensor.replace("product", "lora_B.weight")));
            }
        });
    }

    /** A and B are rounded by 2^-24 (2^-11, 2^-8) on both sides, so each term of B A may be off by four times that. */
    private static void compareProduct(String what, float[] expected, Tensor a, Tensor b) {
        int rank = (int) a.shape()[0];
        int in = (int) a.shape()[1];
        int out = (int) b.shape()[0];
        double unit = a.type() == DType.F32 ? 0x1p-24 : a.type() == DType.F16 ? 0x1p-11 : 0x1p-8;
        float[] first = a.toFloats();
        float[] second = b.toFloats();
        for (int o = 0; o < out; o++) {
            for (int i = 0; i < in; i++) {
                double sum = 0;
                double size = 0;
                for (int k = 0; k < rank; k++) {
                    double term = (double) second[o * rank + k] * first[k * in + i];
                    sum += term;
                    size += Math.abs(term);
                }
                assertEquals(expected[o * in + i], sum, 4 * unit * size + 1e-6, what);
            }
        }
    }
}
