package dev.fathom.examples;

/** Text to tokens and back. */
interface TextCodec {
    int[] encode(byte[] text);

    /** Turns the tokens of one text back, one after the other. */
    Decoder decoder();

    /** Whether a token is a byte, so that bits per token are bits per byte. */
    boolean isBytes();

    interface Decoder {
        /** The characters that the token completes; empty if a character is still unfinished. */
        String accept(int token);

        /** What is left of a character that no further token will finish; empty if there is none. */
        String end();
    }

    /** For a model with tokenizer.json what that says; for one with 256 words bytes; null if neither. */
    static TextCodec of(ModelFiles files, int vocabSize) {
        byte[] tokenizer = files.read("tokenizer.json", TokenizerCodec.MAX_BYTES);
        if (tokenizer != null) return TokenizerCodec.read(files.describe("tokenizer.json"), tokenizer);
        return vocabSize == 256 ? new ByteCodec() : null;
    }
}
