package dev.fathom.depth;

/**
 * What a session makes room for.
 *
 * @param sequences  open sequences
 * @param tokens     tokens of one sequence
 * @param rows       rows of one block call: longer steps run in pieces of this size. Bounds scratch; changes no result
 * @param poolTokens tokens of all sequences together whose K and V always fit at full depth. More fit if tokens stop
 *                   early
 * @param source     tokens of a sequence's source, for models with an encoder; else 0
 */
public record Limits(int sequences, int tokens, int rows, long poolTokens, int source) {
    /** Enough rows to reuse every weight many times; scratch stays in the megabytes. */
    private static final int ROWS = 512;

    public Limits {
        Require.atLeast("sequences", sequences, 1);
        Require.atLeast("tokens", tokens, 1);
        Require.atLeast("rows", rows, 1);
        Require.that(poolTokens >= 1, "poolTokens must be at least 1, got " + poolTokens);
        Require.atLeast("source", source, 0);
    }

    /** For a decoder alone. */
    public Limits(int sequences, int tokens, int rows, long poolTokens) {
        this(sequences, tokens, rows, poolTokens, 0);
    }

    /** Room for every sequence to reach its full length. */
    public Limits(int sequences, int tokens) {
        this(sequences, tokens, ROWS, (long) sequences * tokens);
    }

    /** With room for the sources of an encoder. */
    public Limits withSource(int source) {
        return new Limits(sequences, tokens, rows, poolTokens, source);
    }

    /** Entries for the sources of all sequences. */
    long sourceEntries() {
        return (long) sequences * Math.ceilDiv(source, KvCache.PAGE) * KvCache.PAGE;
    }

    /** Entries of a pool with that many lists per sequence. Any split of {@code poolTokens} into sequences fits. */
    long entries(int lists) {
        long each = (long) sequences * Math.ceilDiv(tokens, KvCache.PAGE);
        long split = Math.ceilDiv(poolTokens, (long) KvCache.PAGE) + sequences - 1;
        return Math.min(each, split) * lists * KvCache.PAGE;
    }
}
