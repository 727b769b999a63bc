package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import dev.fathom.DType;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Router;
import dev.fathom.depth.Step;

/**
 * Mixture-of-Recursions beyond the default rule: auxiliary routers, shared K and V, depth caps, whole-sequence top-k.
 */
class MorGoldenTest {
    private static final Path FOLDER = TestModel.GOLDEN.resolveSibling("exits").resolve("mor");
    private static final double CLOSE = 1e-3;

    static List<Path> kinds() throws IOException {
        try (Stream<Path> kinds = Files.list(FOLDER)) {
            return kinds.sorted().toList();
        }
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void scoresAreThoseOfTheReference(Path kind) throws IOException {
        JsonNode expected = TestModel.json(kind.resolve("expected.json"));
        try (LanguageModel model = LanguageModel.open(ModelFiles.directory(kind), DType.F32, 2, warning -> { })) {
            check(model, model.weights(), Integer.MAX_VALUE, expected.get("ids"), expected);
            for (JsonNode run : expected.path("runs")) {
                JsonNode options = run.get("options");
                check(model, options.path("top_k").asBoolean() ? wholeSequences(model.weights()) : model.weights(),
                        options.path("depth_cap").asInt(Integer.MAX_VALUE), expected.get("ids"), run);
            }
        }
    }

    private static DepthModel wholeSequences(DepthModel model) {
        return model.withStages(model.stages().stream()
                .map(stage -> stage.router() instanceof Router.ExpertChoice choice
                        ? stage.withRouter(choice.wholeSequence()) : stage).toList());
    }

    private static void check(LanguageModel model, DepthModel weights, int cap, JsonNode texts, JsonNode expected) {
        try (DepthSession session = new DepthSession(model.context(), weights, new Limits(texts.size(), 64))) {
            Step step = session.step();
            for (JsonNode text : texts) {
                int[] ids = TestModel.ints(text);
                int[] targets = new int[ids.length];
                System.arraycopy(ids, 1, targets, 0, ids.length - 1);
                step.score(session.open(cap), ids, targets);
            }
            session.run(step);
            for (int t = 0; t < step.tokens(); t++) {
                int text = step.sequence(t);
                int position = step.position(t);
                String what = "text " + text + " token " + position + " " + expected.path("options");
                assertEquals(expected.get("depths").get(text).get(position).asInt(), step.depth(t), what);
                JsonNode nll = expected.get("nll").get(text);
                if (position < nll.size()) assertEquals(nll.get(position).asDouble(), step.nll(t), CLOSE, what);
            }
        }
    }

    @Test
    void aSequenceMustBeWhole() throws IOException {
        try (LanguageModel model = LanguageModel.open(ModelFiles.directory(kinds().getFirst()), null, 1, w -> { });
             DepthSession session = new DepthSession(model.context(), wholeSequences(model.weights()),
                     new Limits(2, 64, 8, 128))) {
            int sequence = session.open();
            session.run(session.step().add(sequence, 1, 2, 3));
            assertTrue(assertThrows(IllegalArgumentException.class, () -> session.run(session.step().add(sequence, 4)))
                    .getMessage().contains("cannot continue one: sequence 0 has 3 tokens"));
            int other = session.open();
            assertTrue(assertThrows(IllegalArgumentException.class,
                    () -> session.run(session.step().add(other, new int[9]))).getMessage()
                    .contains("at most 8 tokens, got 9"));
        }
    }
}
