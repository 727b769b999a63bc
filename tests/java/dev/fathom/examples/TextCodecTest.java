package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

class TextCodecTest {
    /** Byte-level BPE of a few words, as checkpoints have it. */
    static final String TOKENIZER = """
            {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
             "post_processor": null,
             "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
             "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
               "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
               "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "Ã": 5, "©": 6},
               "merges": ["a b", "Ġ ab"]}}""";

    private static String decode(TextCodec codec, int... ids) {
        TextCodec.Decoder decoder = codec.decoder();
        StringBuilder text = new StringBuilder();
        for (int id : ids) text.append(decoder.accept(id)).append('|');
        return text.append(decoder.end()).toString();
    }

    @Test
    void bytesOfACharacterComeTogether() {
        ByteCodec codec = new ByteCodec();
        int[] ids = codec.encode("aé€😀".getBytes(StandardCharsets.UTF_8));
        assertEquals(10, ids.length);
        assertEquals("a||é|||€||||😀|", decode(codec, ids));
    }

    @Test
    void brokenCharactersAreReplaced() {
        assertEquals("|\uFFFDa|", decode(new ByteCodec(), 0xc3, 'a'));
        assertEquals("\uFFFD|b|", decode(new ByteCodec(), 0xff, 'b'));
        TextCodec.Decoder decoder = new ByteCodec().decoder();
        for (int i = 0; i < 100_000; i++) decoder.accept(i * 31 & 0xff);
    }

    @Test
    void whatNoTokenFinishesIsShownAtTheEnd() {
        assertEquals("a||\uFFFD", decode(new ByteCodec(), 'a', 0xc3));
        assertEquals("||\uFFFD", decode(new ByteCodec(), 0xe2, 0x82));
        assertEquals("|\uFFFD|\uFFFD", decode(new ByteCodec(), 0xe2, 0xc3));
        assertEquals("", decode(new ByteCodec()));
        TextCodec codec = tokenizer(TOKENIZER);
        assertEquals("a||\uFFFD", decode(codec, 0, 5));
        assertEquals("", decode(codec));
    }

    @Test
    void brokenCharactersOfATokenizerAreReplaced() {
        TextCodec codec = tokenizer(TOKENIZER);
        String text = decode(codec, 6, 6, 6, 6, 6, 0, 5, 6, 5, 5, 1).replace("|", "");
        assertEquals("\uFFFD".repeat(5) + "a\u00e9" + "\uFFFD".repeat(2) + "b", text);
        // However long it goes on.
        int[] ids = new int[500];
        Arrays.fill(ids, 6);
        ids[498] = 5;
        assertEquals("\uFFFD".repeat(498) + "\u00e9", decode(codec, ids).replace("|", ""));
    }

    /** Character by character, whatever the text: what the whole is. */
    @Test
    void piecesOfATokenizerMakeTheWhole() {
        TextCodec codec = tokenizer(TOKENIZER);
        Random random = new Random(3);
        String[] texts = {"a", "b", " ", "ab", " ab"};
        for (int round = 0; round < 50; round++) {
            StringBuilder expected = new StringBuilder();
            List<Integer> ids = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                int id = random.nextInt(6);
                ids.add(id);
                if (id == 5) ids.add(6);
                expected.append(id == 5 ? "\u00e9" : texts[id]);
            }
            int[] all = ids.stream().mapToInt(Integer::intValue).toArray();
            assertEquals(expected.toString(), decode(codec, all).replace("|", ""));
        }
    }

    /** A token costs the same wherever it stands: this would take hours if each decoded all before it. */
    @Test
    @Timeout(60)
    void longTextsAreDecodedInLinearTime() {
        TextCodec.Decoder decoder = tokenizer(TOKENIZER).decoder();
        int shown = 0;
        for (int i = 0; i < 100_000; i++) shown += decoder.accept(i % 2).length();
        assertEquals(100_000, shown);
    }

    @Test
    void tokenizersEncodeAndDecodeWithoutNetwork() {
        TextCodec codec = tokenizer(TOKENIZER);
        assertArrayEquals(new int[] {3, 4, 2, 1}, codec.encode("ab ab b".getBytes(StandardCharsets.UTF_8)));
        assertEquals("ab| ab|b|", decode(codec, 3, 4, 1));
        assertEquals("a||é|b|", decode(codec, 0, 5, 6, 1));
    }

    @Test
    void aBrokenTokenizerIsASentence() {
        String message = assertThrows(UserException.class, () -> tokenizer("{\"model\": 1}")).getMessage();
        assertTrue(message.startsWith("tokenizer.json cannot be used"), message);
    }

    private static TextCodec tokenizer(String json) {
        return TokenizerCodec.read("tokenizer.json", json.getBytes(StandardCharsets.UTF_8));
    }
}
