package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.examples.LanguageModel;
import dev.fathom.golden.Golden;
import dev.fathom.golden.Tensor;

/**
 * Early exits against the oracle, as tests/golden/README.md describes its vectors: decisions,
 * losses, rows per call, and K and V after the text.
 */
class ExitsGoldenTest {
    private static final Path FOLDER = Path.of(System.getProperty("fathom.root"), "tests", "golden", "exits");
    private static final ObjectMapper JSON = new ObjectMapper();
    /** Of a loss, or of K and V relative to the largest: fp32 in at most 6 layers of width 48. */
    private static final double CLOSE = 1e-3;

    @TestFactory
    Stream<DynamicTest> decisionsAndLossesAreThoseOfTheOracle() throws IOException {
        Map<String, Tensor> vectors = Golden.tensors(FOLDER.resolve("decode.safetensors"));
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode test : JSON.readTree(FOLDER.resolve("decode.json").toFile()).get("cases")) {
            tests.add(DynamicTest.dynamicTest(test.get("name").asText(), () -> decode(test, vectors)));
        }
        return tests.stream();
    }

    private static Path directory(JsonNode test) {
        return FOLDER.resolve("models").resolve(test.get("model").asText());
    }

    private static void decode(JsonNode test, Map<String, Tensor> vectors) throws IOException {
        String name = test.get("name").asText() + ".";
        List<Integer> layers = new ArrayList<>();
        test.get("exits").forEach(exit -> layers.add(exit.asInt()));
        String kv = test.get("kv").asText();
        try (LanguageModel model = LanguageModel.open(directory(test), DType.F32, 2, null, true)) {
            int count = test.get("count").asInt();
            int prompt = test.get("prompt").asInt();
            try (DepthSession session = new DepthSession(model.context(), weights(model, kv),
                    policy(test, model, layers), new Limits(1, count, count, count))) {
                int sequence = session.open();
                Step step = session.step();
                int[] text = new int[count];
                for (int t = 0; t < count; t++) text[t] = (int) vectors.get(name + "ids").integer(t);
                if (prompt > 0) {
                    session.run(step.add(sequence, Arrays.copyOf(text, prompt)));
                    if (prompt > 1) checkAnswer(step, prompt - 1, name, vectors, model, false);
                }
                for (int t = prompt; t < count; t++) {
                    int target = t + 1 < count ? text[t + 1] : 0;
                    long before = rows(session);
                    session.run(step.clear().score(sequence, new int[] {text[t]}, new int[] {target}));
                    checkAnswer(step, t, name, vectors, model, t + 1 < count);
                    if (kv.equals("defer")) {
                        assertEquals(expectedRows(vectors.get(name + "rows"), t, layers, model),
                                rows(session) - before, "rows of step " + t);
                    }
                }
                session.settle(sequence);
                checkKv(model.context(), session, test, vectors);
            }
        }
    }

    /** With {@code first}, every depth of the loop reads depth 0. */
    private static DepthModel weights(LanguageModel model, String kv) {
        if (!kv.equals("first")) return model.weights();
        return model.weights().withStages(model.weights().stages().stream()
                .map(s -> new Stage(s.shape(), s.weights(), s.router(), KvPolicy.FIRST_DEPTH)).toList());
    }

    private static ExitPolicy policy(JsonNode test, LanguageModel model, List<Integer> layers)
            throws IOException {
        List<ExitPoint> all = model.exits().points();
        List<Integer> known = new ArrayList<>();
        JSON.readTree(directory(test).resolve("config.json").toFile()).get("exits").get("layers")
                .forEach(layer -> known.add(layer.asInt()));
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

    private static void checkAnswer(Step step, int t, String name, Map<String, Tensor> vectors, LanguageModel model,
            boolean scored) {
        int layers = layersOf(model, step.legs(step.token(0)));
        assertEquals(vectors.get(name + "layers").integer(t), layers, "layers of token " + t);
        assertEquals(vectors.get(name + "argmax").integer(t), step.argmax(0), "answer of token " + t);
        if (scored) assertEquals(vectors.get(name + "nll").get(t), step.nll(0), CLOSE, "loss of token " + t);
    }

    // ---- rows ------------------------------------------------------------------------------------------------------

    /** Rows of block calls so far, counted once per layer. */
    private static long rows(DepthSession session) {
        long rows = 0;
        for (int stage = 0; stage < session.model().stages().size(); stage++) {
            rows += session.report().stages().get(stage).rows() * session.model().stages().get(stage).shape().layers();
        }
        return rows;
    }

    /** The same of one step of the oracle, whose calls each run the layers from one exit to the next. */
    private static long expectedRows(Tensor rows, int t, List<Integer> exits, LanguageModel model) {
        int layers = layersOf(model, Integer.MAX_VALUE);
        long expected = 0;
        for (int segment = 0; segment <= exits.size(); segment++) {
            int from = segment == 0 ? 0 : exits.get(segment - 1);
            int to = segment == exits.size() ? layers : exits.get(segment);
            expected += rows.integer(t * (exits.size() + 1) + segment) * (to - from);
        }
        return expected;
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

    // ---- K and V ---------------------------------------------------------------------------------------------------

    private static void checkKv(Context context, DepthSession session, JsonNode test, Map<String, Tensor> vectors) {
        int count = test.get("count").asInt();
        String name = test.get("name").asText() + ".";
        Tensor present = vectors.get(name + "present");
        JsonNode kept = test.get("kept");
        for (int i = 0; i < kept.size(); i++) {
            int layer = kept.get(i).asInt();
            int stage = 0;
            while (layer >= layersOf(session.model().stages().get(stage))) {
                layer -= layersOf(session.model().stages().get(stage++));
            }
            int perDepth = session.model().stages().get(stage).shape().layers();
            KvCache cache = session.cache(stage);
            // With one list for all depths, the oracle has nothing for the depths after the first.
            int list = layer / perDepth;
            if (list >= cache.lists()) {
                for (int t = 0; t < count; t++) assertEquals(0, present.integer(i * count + t));
                continue;
            }
            int found = 0;
            for (int t = 0; t < count; t++) {
                boolean there = found < cache.length(0, list)
                        && cache.positions().getInt(cache.entry(0, list, found)) == t;
                // An alias is made when a later token needs it: none, of tokens after the last that came so deep.
                if (test.get("kv").asText().equals("alias") && found == cache.length(0, list)) continue;
                assertEquals(present.integer(i * count + t) == 1, there,
                        "layer " + kept.get(i) + " has token " + t);
                if (!there) continue;
                compare(context, cache, layer % perDepth, cache.entry(0, list, found), i * count + t, name, vectors);
                found++;
            }
            assertEquals(cache.length(0, list), found, "items of layer " + kept.get(i));
        }
    }

    private static void compare(Context context, KvCache cache, int layer, int entry, int row, String name,
            Map<String, Tensor> vectors) {
        int width = cache.shape().kvHeads() * cache.shape().headDim();
        Buffer entries = context.allocate(4);
        Buffer[] kv = {context.allocate(4L * width), context.allocate(4L * width)};
        entries.setInt(0, entry);
        context.kvRead(cache.shape(), layer, 1, entries, cache.pool(), kv[0], kv[1]);
        for (int which = 0; which < 2; which++) {
            Tensor expected = vectors.get(name + (which == 0 ? "k" : "v"));
            double largest = 0;
            for (int j = 0; j < width; j++) largest = Math.max(largest, Math.abs(expected.get(row * width + j)));
            for (int j = 0; j < width; j++) {
                assertEquals(expected.get(row * width + j), kv[which].getFloat(j), CLOSE * Math.max(1, largest),
                        (which == 0 ? "K" : "V") + " of row " + row);
            }
        }
    }

    /** Of a stage, all depths. */
    private static int layersOf(Stage stage) {
        return stage.shape().layers() * stage.shape().depths();
    }

    // ---- thresholds ------------------------------------------------------------------------------------------------

    @Test
    @DisplayName("4: streaming sums give the adaptive threshold of the batch fit, degenerate inputs included")
    void adaptiveThresholdsAreThoseOfTheBatchFit() throws IOException {
        Map<String, Tensor> vectors = Golden.tensors(FOLDER.resolve("adaptive.safetensors"));
        int fits = 0;
        for (JsonNode test : JSON.readTree(FOLDER.resolve("adaptive.json").toFile()).get("cases")) {
            String name = test.get("name").asText() + ".";
            Tensor confidence = vectors.get(name + "confidence");
            Tensor agree = vectors.get(name + "agree");
            Tensor fitAt = vectors.get(name + "fit_at");
            Tensor expected = vectors.get(name + "threshold_guarded");
            BetaMixture mixture = new BetaMixture((float) test.get("initial").asDouble(), 0.4f);
            int seen = 0;
            for (int fit = 0; fit < fitAt.elements(); fit++) {
                for (; seen < fitAt.integer(fit); seen++) {
                    mixture.record((float) confidence.get(seen), agree.integer(seen) != 0);
                }
                assertEquals(expected.get(fit), mixture.fit(), 1e-6, name + " fit " + fit);
                fits++;
            }
        }
        assertTrue(fits > 20);
    }
}
