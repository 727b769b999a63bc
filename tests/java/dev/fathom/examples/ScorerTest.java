package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Arrays;
import java.util.List;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ScorerTest {
    private static final int[] TEXT = new Random(7).ints(100, 0, 256).toArray();

    /** The definition: token t belongs to the first window that reaches it and is scored as that window alone would. */
    @ParameterizedTest
    @CsvSource({"40, 20", "40, 40", "33, 1", "64, 50", "99, 7", "100, 50", "512, 256", "1, 1"})
    void windowsScoreEveryTokenOnce(int context, int stride) {
        try (LanguageModel model = TestModel.open("mor_expert")) {
            Scorer.Result whole = score(model, TEXT, context, stride);
            for (int start = 0, fresh = 0; fresh < TEXT.length; start += stride) {
                int end = Math.min(TEXT.length, start + context);
                // The window and the token after it, which its last token predicts.
                int[] window = Arrays.copyOfRange(TEXT, start, Math.min(TEXT.length, end + 1));
                Scorer.Result alone = score(model, window, 512, 256);
                for (int token = fresh; token < end; token++) {
                    assertEquals(alone.depths()[token - start], whole.depths()[token]);
                    if (token + 1 < TEXT.length) assertEquals(alone.nll()[token - start], whole.nll()[token]);
                }
                fresh = end;
            }
        }
    }

    @Test
    void workersAndCompanyChangeNoBit() {
        int[][] texts = {TEXT, Arrays.copyOf(TEXT, 1), Arrays.copyOfRange(TEXT, 3, 60)};
        try (LanguageModel one = open(1); LanguageModel two = open(2)) {
            List<Scorer.Result> first = new Scorer(one, 32, 16).score(List.of(texts), done -> { });
            for (int i = 0; i < texts.length; i++) {
                assertArrayEquals(first.get(i).nll(), score(two, texts[i], 32, 16).nll());
            }
        }
    }

    @Test
    void progressEndsAtTheLastToken() {
        long[] last = {0};
        try (LanguageModel model = open(1)) {
            new Scorer(model, 32, 16).score(List.of(TEXT), done -> last[0] = done);
        }
        assertEquals(TEXT.length, last[0]);
    }

    private static LanguageModel open(int workers) {
        return LanguageModel.open(ModelFiles.directory(TestModel.GOLDEN.resolve("mor_expert")), null, workers,
                warning -> { });
    }

    private static Scorer.Result score(LanguageModel model, int[] text, int context, int stride) {
        return new Scorer(model, context, stride).score(List.of(text), done -> { }).getFirst();
    }
}
