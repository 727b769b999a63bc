package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

import dev.fathom.DType;
import dev.fathom.depth.BetaMixture;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.KvPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Signal;
import dev.fathom.depth.SkippedKv;
import dev.fathom.depth.Stage;
import dev.fathom.depth.Step;
import dev.fathom.depth.Threshold;
import dev.fathom.depth.Verification;

/** Early exits against the oracle, as tests/golden/README.md describes its vectors: decisions, losses, rows per call. */
class ExitsGoldenTest {
    private static final Path FOLDER = TestModel.GOLDEN.resolveSibling("exits");
    private static final ObjectMapper JSON = new ObjectMapper();
    /** Of a loss; weights are the oracle's, arithmetic is fp32 in at most 6 layers of width 48. */
    private static final double CLOSE = 1e-3;

    /** The vectors of one file. */
    private static Map<String, float[]> vectors(Path file) {
        Map<String, float[]> vectors = new HashMap<>();
        try (Arena arena = Arena.ofConfined()) {
            var contents = ModelFiles.directory(file.getParent()).open(file.getFileName().toString(), arena);
            Safetensors.read(file.toString(), contents).forEach((name, tensor) -> vectors.put(name, numbers(tensor)));
        }
        return vectors;
    }

    private static float[] numbers(Tensor tensor) {
        ByteBuffer data = tensor.data().asByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
        int size = tensor.dtype().endsWith("64") ? 8 : tensor.dtype().endsWith("32") ? 4 : 1;
        float[] values = new float[(int) (tensor.data().byteSize() / size)];
        for (int i = 0; i < values.length; i++) {
            values[i] = switch (tensor.dtype()) {
                case "F32" -> data.getFloat(4 * i);
                case "I32" -> data.getInt(4 * i);
                case "I64" -> data.getLong(8 * i);
                case "F64" -> (float) data.getDouble(8 * i);
                default -> data.get(i);
            };
        }
        return values;
    }

    @TestFactory
    Stream<DynamicTest> decisionsAndLossesAreThoseOfTheOracle() throws IOException {
        Map<String, float[]> vectors = vectors(FOLDER.resolve("decode.safetensors"));
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode test : JSON.readTree(FOLDER.resolve("decode.json").toFile()).get("cases")) {
            tests.add(DynamicTest.dynamicTest(test.get("name").asText(), () -> decode(test, vectors)));
        }
        return tests.stream();
    }

    private static void decode(JsonNode test, Map<String, float[]> vectors) {
        String name = test.get("name").asText() + ".";
        List<Integer> layers = new ArrayList<>();
        test.get("exits").forEach(exit -> layers.add(exit.asInt()));
        String kv = test.get("kv").asText();
        Path directory = FOLDER.resolve("models").resolve(test.get("model").asText());
        try (LanguageModel model = LanguageModel.open(ModelFiles.directory(directory), DType.F32, 2, null, true,
                warning -> { })) {
            List<ExitPoint> all = model.exits().points();
            List<Integer> known = model.config().exits();
            int count = test.get("count").asInt();
            int prompt = test.get("prompt").asInt();
            float[] ids = vectors.get(name + "ids");
            try (DepthSession session = new DepthSession(model.context(), weights(model, kv),
                    policy(test, model, layers, all, known), new Limits(1, count, count, count))) {
                int sequence = session.open();
                Step step = session.step();
                int[] text = new int[count];
                for (int t = 0; t < count; t++) text[t] = (int) ids[t];
                if (prompt > 0) {
                    session.run(step.add(sequence, Arrays.copyOf(text, prompt)));
                    if (prompt > 1) check(step, 0, prompt - 1, name, vectors, model, known, false);
                }
                for (int t = prompt; t < count; t++) {
                    int target = t + 1 < count ? text[t + 1] : 0;
                    session.run(step.clear().score(sequence, new int[] {text[t]}, new int[] {target}));
                    check(step, 0, t, name, vectors, model, known, t + 1 < count);
                }
            }
        }
    }

    /** With {@code first}, every depth of the loop reads depth 0. */
    private static DepthModel weights(LanguageModel model, String kv) {
        if (!kv.equals("first")) return model.weights();
        return model.weights().withStages(model.weights().stages().stream()
                .map(s -> new Stage(s.shape(), s.weights(), s.router(), KvPolicy.FIRST_DEPTH)).toList());
    }

    private static ExitPolicy policy(JsonNode test, LanguageModel model, List<Integer> layers, List<ExitPoint> all,
            List<Integer> known) {
        String signalName = test.get("signal").asText();
        Signal signal = switch (signalName) {
            case "margin" -> new Signal.Margin();
            case "max_probability" -> new Signal.MaxProbability();
            case "entropy" -> new Signal.Entropy();
            case "cosine" -> new Signal.Saturation();
            case "step" -> new Signal.RelativeStep();
            default -> model.exits().classifiers().get(signalName);
        };
        SkippedKv skipped = switch (test.get("kv").asText()) {
            case "defer" -> SkippedKv.DEFER;
            case "propagate" -> SkippedKv.PROPAGATE;
            case "alias" -> test.get("model").asText().equals("plain") ? SkippedKv.COPY : SkippedKv.ALIAS;
            default -> SkippedKv.HOLES;
        };
        List<ExitPoint> points = new ArrayList<>();
        List<Threshold> thresholds = new ArrayList<>();
        for (int i = 0; i < layers.size(); i++) {
            boolean compares = signal.usesStep() && i == 0; // has no exit before it to compare with
            if (compares) continue;
            points.add(all.get(known.indexOf(layers.get(i))));
            thresholds.add(threshold(test, (float) test.get("thresholds").get(i).asDouble()));
        }
        return new ExitPolicy(points, signal, thresholds, skipped, 1000, true, 0, new Verification.None());
    }

    private static Threshold threshold(JsonNode test, float value) {
        if (!test.has("decay")) return new Threshold.Fixed(value);
        float tau = (float) test.get("tau").asDouble();
        int length = test.get("max_tokens").asInt();
        return test.get("decay").asText().equals("calm") ? new Threshold.Decaying(value, tau, length)
                : new Threshold.DecayingScaled(value, tau, length);
    }

    private static void check(Step step, int output, int t, String name, Map<String, float[]> vectors,
            LanguageModel model, List<Integer> known, boolean scored) {
        int layers = layersOf(model, step.legs(step.token(output)));
        assertEquals((int) vectors.get(name + "layers")[t], layers, "layers of token " + t);
        assertEquals((int) vectors.get(name + "argmax")[t], step.argmax(output), "answer of token " + t);
        if (scored) assertEquals(vectors.get(name + "nll")[t], step.nll(output), CLOSE, "loss of token " + t);
    }

    /** Layers executed in so many legs. */
    private static int layersOf(LanguageModel model, int legs) {
        int layers = 0;
        for (Stage stage : model.weights().stages()) {
            for (int depth = 0; depth < stage.shape().depths() && legs > 0; depth++, legs--) {
                layers += stage.shape().layers();
            }
        }
        return layers;
    }

    // ---- thresholds ------------------------------------------------------------------------------------------------

    @Test
    void adaptiveThresholdsAreThoseOfTheBatchFit() throws IOException {
        Map<String, float[]> vectors = vectors(FOLDER.resolve("adaptive.safetensors"));
        int fits = 0;
        for (JsonNode test : JSON.readTree(FOLDER.resolve("adaptive.json").toFile()).get("cases")) {
            String name = test.get("name").asText() + ".";
            float[] confidence = vectors.get(name + "confidence");
            float[] agree = vectors.get(name + "agree");
            float[] fitAt = vectors.get(name + "fit_at");
            float[] expected = vectors.get(name + "threshold_guarded");
            BetaMixture mixture = new BetaMixture((float) test.get("initial").asDouble(), 0.4f);
            int seen = 0;
            for (int fit = 0; fit < fitAt.length; fit++) {
                for (; seen < fitAt[fit]; seen++) mixture.record(confidence[seen], agree[seen] != 0);
                assertEquals(expected[fit], mixture.fit(), 1e-6, name + " fit " + fit);
                fits++;
            }
        }
        assertTrue(fits > 20);
    }
}
