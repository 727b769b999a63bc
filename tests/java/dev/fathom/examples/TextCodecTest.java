package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;

import org.junit.jupiter.api.Test;

class TextCodecTest {
    /** Byte-level BPE of a few words, as checkpoints have it. */
    private static final String TOKENIZER = """
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
        return text.toString();
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
