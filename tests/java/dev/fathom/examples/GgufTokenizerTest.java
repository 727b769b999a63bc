package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import dev.fathom.DType;

/** Tokenizers that GGUF files carry. */
class GgufTokenizerTest {
    @TempDir
    Path directory;

    private static GgufWriter model() {
        return GgufWriter.of(TestModel.random(DType.F32, true));
    }

    private static GgufWriter bytePairs(String splitter) {
        List<String> tokens = List.of("a", "b", "\u0120", "ab", "\u0120ab", "\u00c3", "\u00a9", "1", "11", "<s>",
                "<|tool|>", "111", "1111");
        return model().put("tokenizer.ggml.model", GgufWriter.STRING, "gpt2")
                .put("tokenizer.ggml.pre", GgufWriter.STRING, splitter)
                .putAll("tokenizer.ggml.tokens", GgufWriter.STRING, tokens)
                .putAll("tokenizer.ggml.merges", GgufWriter.STRING,
                        List.of("a b", "\u0120 ab", "1 1", "11 1", "11 11"))
                .putAll("tokenizer.ggml.token_type", GgufWriter.I32, List.of(1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 1, 1))
                .put("tokenizer.ggml.bos_token_id", GgufWriter.U32, 9)
                .put("tokenizer.ggml.eos_token_id", GgufWriter.U32, 9);
    }

    private LanguageModel open(GgufWriter file) throws IOException {
        Path path = Files.write(directory.resolve("model.gguf"), file.bytes());
        return TestModel.open(path, DType.F32, new ArrayList<>());
    }

    private int[] encode(GgufWriter file, String text) throws IOException {
        try (LanguageModel model = open(file)) {
            return model.codec().encode(text.getBytes(StandardCharsets.UTF_8));
        }
    }

    private String decode(GgufWriter file, int... ids) throws IOException {
        try (LanguageModel model = open(file)) {
            TextCodec.Decoder decoder = model.codec().decoder();
            StringBuilder text = new StringBuilder();
            for (int id : ids) text.append(decoder.accept(id));
            return text.append(decoder.end()).toString();
        }
    }

    @Test
    void bytePairsWithTheirSplitters() throws IOException {
        assertArrayEquals(new int[] {3, 4, 2, 1}, encode(bytePairs("gpt-2"), "ab ab b"));
        assertArrayEquals(new int[] {12}, encode(bytePairs("gpt-2"), "1111"));
        assertArrayEquals(new int[] {7, 7, 7, 7}, encode(bytePairs("qwen2"), "1111"));
        assertArrayEquals(new int[] {7, 7, 7, 7}, encode(bytePairs("smollm"), "1111"));
        assertArrayEquals(new int[] {9, 11, 7}, encode(bytePairs("llama-bpe"), "1111")); // and a token before the text
        assertEquals("ab ab\u00e9b", decode(bytePairs("llama-bpe"), 3, 4, 5, 6, 1));
    }

    @Test
    void specialTokensAreFoundInTheText() throws IOException {
        assertArrayEquals(new int[] {0, 9, 10, 1}, encode(bytePairs("gpt-2"), "a<s><|tool|>b"));
    }

    @Test
    void theFileSaysWhatStandsAroundAText() throws IOException {
        for (String key : List.of("add_bos_token", "add_eos_token")) {
            for (boolean wanted : new boolean[] {true, false}) {
                int[] ids = encode(bytePairs("llama-bpe").put("tokenizer.ggml." + key, GgufWriter.BOOL, wanted), "a");
                int before = key.equals("add_bos_token") && !wanted ? 0 : 1;
                assertEquals(before, ids[0] == 9 ? 1 : 0, key + wanted);
                assertEquals(key.equals("add_eos_token") && wanted, ids[ids.length - 1] == 9);
            }
        }
    }

    private static GgufWriter pieces() {
        List<String> tokens = new ArrayList<>(List.of("<unk>", "<s>", "</s>"));
        List<Integer> types = new ArrayList<>(List.of(2, 3, 3));
        List<Float> scores = new ArrayList<>(List.of(0f, 0f, 0f));
        for (int i = 0; i < 256; i++) {
            tokens.add("<0x%02X>".formatted(i));
            types.add(6);
            scores.add(0f);
        }
        float score = 0;
        // bc is worth more than ab, though ab is as long and comes from the left.
        for (String piece : List.of("bc", "ab", "\u2581a", "abc", "\u2581", "a", "b", "c")) {
            tokens.add(piece);
            types.add(1);
            scores.add(score--);
        }
        return model().put("tokenizer.ggml.model", GgufWriter.STRING, "llama")
                .putAll("tokenizer.ggml.tokens", GgufWriter.STRING, tokens)
                .putAll("tokenizer.ggml.scores", GgufWriter.F32, scores)
                .putAll("tokenizer.ggml.token_type", GgufWriter.I32, types)
                .put("tokenizer.ggml.bos_token_id", GgufWriter.U32, 1);
    }

    @Test
    void piecesAreJoinedByTheirScores() throws IOException {
        int first = 3 + 256;
        assertArrayEquals(new int[] {1, first + 2, first}, encode(pieces(), "abc"));
        assertArrayEquals(new int[] {1, first + 2, first, first + 2}, encode(pieces(), "abc a"));
        assertArrayEquals(new int[] {first + 3}, encode(pieces()
                .put("tokenizer.ggml.add_bos_token", GgufWriter.BOOL, false)
                .put("tokenizer.ggml.add_space_prefix", GgufWriter.BOOL, false), "abc"));
        assertEquals("abc a", decode(pieces(), first + 2, first, first + 2));
    }

    @Test
    void whatIsNoPieceIsBytes() throws IOException {
        int first = 3 + 256;
        assertArrayEquals(new int[] {1, first + 2, 3 + 0xc3, 3 + 0xa9}, encode(pieces(), "a\u00e9"));
        assertEquals("a\u00e9", decode(pieces(), first + 2, 3 + 0xc3, 3 + 0xa9));
    }

    @Test
    void unknownKindsTakeATokenizerBesideTheFile() throws IOException {
        GgufWriter file = bytePairs("a-new-one");
        file.put("llama.vocab_size", GgufWriter.U32, 256);
        try (LanguageModel model = open(file)) { // its 256 words are taken for bytes
            assertTrue(model.hasByteTokens());
        }
        TestModel words = TestModel.random(DType.F32, true);
        float[] table = new float[300 * 64];
        words.weights.put("model.embed_tokens.weight", TestModel.weight(DType.F32, table, 300, 64));
        file = GgufWriter.of(words).put("tokenizer.ggml.model", GgufWriter.STRING, "gpt2")
                .put("tokenizer.ggml.pre", GgufWriter.STRING, "a-new-one")
                .putAll("tokenizer.ggml.tokens", GgufWriter.STRING, List.of("a"));
        try (LanguageModel model = open(file)) {
            String message = assertThrows(UserException.class, model::codec).getMessage();
            assertTrue(message.endsWith("gpt2 with the pre-tokenizer a-new-one, is not known, there is no tokenizer.json"
                    + " beside it and its 300 words are not the 256 bytes: give token ids."), message);
        }
        Files.writeString(directory.resolve("tokenizer.json"), TextCodecTest.TOKENIZER);
        assertArrayEquals(new int[] {3, 4}, encode(file, "ab ab"));
        file.putAll("tokenizer.ggml.tokens", GgufWriter.STRING, List.of());
        assertArrayEquals(new int[] {3, 4}, encode(file, "ab ab"));
    }

    @Test
    void damagedTokenizersAreRefusedOrIgnored() throws IOException {
        assertThrows(UserException.class, () -> encode(bytePairs("gpt-2")
                .putAll("tokenizer.ggml.merges", GgufWriter.STRING, List.of("a nothing")), "a"));
        assertThrows(UserException.class, () -> encode(bytePairs("gpt-2")
                .putAll("tokenizer.ggml.merges", GgufWriter.U32, List.of(1, 2)), "a"));
        Path path = Files.write(directory.resolve("model.gguf"),
                pieces().putAll("tokenizer.ggml.scores", GgufWriter.F32, List.of(1)).bytes());
        assertNull(GgufModel.read(path).tokenizer());
    }
}
