package dev.fathom.depth;

/**
 * A text to continue.
 *
 * @param prompt   token ids, at least one
 * @param tokens   generate at most so many
 * @param stop     a token that ends the text; -1: none
 * @param sampling how tokens are drawn
 * @param depthCap most passes that a token takes through a stage that loops
 * @param source   what the encoder reads, for models with one; else empty
 */
public record Request(int[] prompt, int tokens, int stop, Sampling sampling, int depthCap, int[] source) {
    public Request {
        source = Require.notNull("source", source).clone();
        prompt = Require.notNull("prompt", prompt).clone();
        Require.atLeast("number of tokens in the prompt", prompt.length, 1);
        Require.atLeast("tokens", tokens, 1);
        Require.atLeast("stop", stop, -1);
        Require.notNull("sampling", sampling);
        Require.atLeast("depthCap", depthCap, 1);
    }

    /** The most likely continuation, at whatever depth. */
    public Request(int[] prompt, int tokens) {
        this(prompt, tokens, -1, Sampling.greedy(), Integer.MAX_VALUE, new int[0]);
    }

    public Request withStop(int stop) {
        return new Request(prompt, tokens, stop, sampling, depthCap, source);
    }

    public Request withSampling(Sampling sampling) {
        return new Request(prompt, tokens, stop, sampling, depthCap, source);
    }

    public Request withDepthCap(int depthCap) {
        return new Request(prompt, tokens, stop, sampling, depthCap, source);
    }

    /** For a model with an encoder; the prompt is what the decoder begins with. */
    public Request withSource(int... source) {
        return new Request(prompt, tokens, stop, sampling, depthCap, source);
    }

    /** A copy of the source. */
    @Override
    public int[] source() {
        return source.clone();
    }

    /** A copy of the prompt. */
    @Override
    public int[] prompt() {
        return prompt.clone();
    }

    int length() {
        return prompt.length;
    }

    int[] sourceTokens() {
        return source;
    }

    int promptToken(int i) {
        return prompt[i];
    }
}
