package dev.fathom.examples;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;

/** Tokens as the model's tokenizer.json defines them. */
final class TokenizerCodec implements TextCodec {
    /** Large vocabularies with their merges take some ten million. */
    static final int MAX_BYTES = 256 << 20;

    private final HuggingFaceTokenizer tokenizer;

    private TokenizerCodec(HuggingFaceTokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    static TokenizerCodec read(String fileName, byte[] file) {
        // The library comes with its native code; these keep it from looking for another one on the network.
        System.setProperty("ai.djl.offline", "true");
        System.setProperty("RUST_FLAVOR", "cpu");
        try {
            return new TokenizerCodec(HuggingFaceTokenizer.newInstance(new ByteArrayInputStream(file),
                    Map.of("truncation", "false", "padding", "false")));
        } catch (IOException | RuntimeException | LinkageError e) {
            throw new UserException(fileName + " cannot be used: " + e.getMessage() + ".");
        }
    }

    @Override
    public int[] encode(byte[] text) {
        long[] ids = tokenizer.encode(new String(text, StandardCharsets.UTF_8)).getIds();
        return Arrays.stream(ids).mapToInt(Math::toIntExact).toArray();
    }

    @Override
    public boolean isBytes() {
        return false;
    }

    /** A token's text depends on those before it, so the whole is decoded each time and the new part returned. */
    @Override
    public Decoder decoder() {
        return new Decoder() {
            private long[] ids = {};
            private int shown;

            @Override
            public String accept(int token) {
                ids = Arrays.copyOf(ids, ids.length + 1);
                ids[ids.length - 1] = token;
                String text = tokenizer.decode(ids);
                if (text.endsWith("\uFFFD") || text.length() < shown) return ""; // the first bytes of a character
                String fresh = text.substring(shown);
                shown = text.length();
                return fresh;
            }
        };
    }
}
