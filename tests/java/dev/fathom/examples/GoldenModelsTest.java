package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.DType;

/** Every kind of checkpoint against the reference in float64. */
class GoldenModelsTest {
    /** Accumulation in fp32 over rows of at most 72 elements and 8 layers stays far below. */
    private static final double TOLERANCE = 1e-3;

    static List<Path> kinds() throws IOException {
        return TestModel.golden();
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void likelihoodsAndDepthsAreThoseOfTheReference(Path kind) throws IOException {
        JsonNode expected = TestModel.json(kind.resolve("expected.json"));
        List<int[]> texts = texts(expected);
        try (LanguageModel model = TestModel.open(kind.getFileName().toString())) {
            List<Scorer.Result> results = scorer(model).score(texts, done -> { });
            for (int i = 0; i < texts.size(); i++) {
                JsonNode nll = expected.get("nll").get(i);
                assertEquals(nll.size(), results.get(i).nll().length);
                for (int t = 0; t < nll.size(); t++) {
                    assertEquals(nll.get(t).doubleValue(), results.get(i).nll()[t], TOLERANCE, "text " + i + " token "
                            + t);
                }
                assertArrayEquals(TestModel.ints(expected.get("depths").get(i)), results.get(i).depths(), "text " + i);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void aTextAloneHasTheBitsItHasInCompany(Path kind) throws IOException {
        List<int[]> texts = texts(TestModel.json(kind.resolve("expected.json")));
        for (DType type : List.of(DType.F32, DType.BF16)) {
            try (LanguageModel model = LanguageModel.open(ModelFiles.directory(kind), type, 2, warning -> { })) {
                List<Scorer.Result> together = scorer(model).score(texts, done -> { });
                for (int i = 0; i < texts.size(); i++) {
                    Scorer.Result alone = scorer(model).score(List.of(texts.get(i)), done -> { }).getFirst();
                    assertArrayEquals(alone.nll(), together.get(i).nll());
                    assertArrayEquals(alone.depths(), together.get(i).depths());
                }
            }
        }
    }

    private static Scorer scorer(LanguageModel model) {
        int context = model.config().contextLength();
        return new Scorer(model, context, context / 2);
    }

    private static List<int[]> texts(JsonNode expected) {
        List<int[]> texts = new ArrayList<>();
        expected.get("ids").forEach(ids -> texts.add(TestModel.ints(ids)));
        return texts;
    }
}
