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

    @Override
    public Decoder decoder() {
        return new Window();
    }

    /**
     * A token's text depends on those before it, so the last ones are decoded with it and what is new is returned. The
     * text of bytes that do not make a character yet, or never will, ends in replacement characters.
     */
    private final class Window implements Decoder {
        private static final String REPLACEMENT = "\uFFFD";
        /** A character has four bytes at most, and a token of bytes at least one. */
        private static final int MOST_UNFINISHED = 3;
        /** Of text that never becomes whole so many tokens are decoded together at most. */
        private static final int MOST_TOKENS = 64;

        private long[] ids = {};
        /** The first tokens, which are there only for the others to be decoded as what follows them. */
        private int before;
        /** Characters of the window that have been returned. */
        private int shown;

        @Override
        public String accept(int token) {
            ids = Arrays.copyOf(ids, ids.length + 1);
            ids[ids.length - 1] = token;
            String text = tokenizer.decode(ids);
            int whole = whole(text);
            String fresh = fresh(text, whole);
            if (whole == text.length()) keep(ids.length - before);
            else if (ids.length > MOST_TOKENS) keep(MOST_UNFINISHED + 1);
            return fresh;
        }

        /** Forgets all but the last {@code count} tokens, which are shown already. */
        private void keep(int count) {
            ids = Arrays.copyOfRange(ids, ids.length - count, ids.length);
            before = count;
            shown = whole(tokenizer.decode(ids));
        }

        private static int whole(String text) {
            int end = text.length();
            while (text.startsWith(REPLACEMENT, end - 1) && text.length() - end < MOST_UNFINISHED) end--;
            return end;
        }

        private String fresh(String text, int end) {
            if (end <= shown) return "";
            String fresh = text.substring(shown, end);
            shown = end;
            return fresh;
        }

        @Override
        public String end() {
            String text = tokenizer.decode(ids);
            return fresh(text, text.length());
        }
    }
}
