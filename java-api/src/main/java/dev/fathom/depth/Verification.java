package dev.fathom.depth;

/**
 * Whether the answers of exits are checked once the waiting tokens have been through all passes. An answer that does
 * not hold is replaced by that of full depth, and what was generated after it is taken back. Answers are handed out
 * when they are final.
 */
public sealed interface Verification {
    /** Answers of exits are final. */
    record None() implements Verification {}

    /** Full depth must give the same token. The text is that of the full model, token by token. For greedy decoding. */
    record Exact() implements Verification {}

    /** The answer's negative log-likelihood at full depth must not exceed the limit, in nats (FREE: RollBack). */
    record CrossEntropy(float limit) implements Verification {
        public CrossEntropy {
            Require.that(limit >= 0, "limit must be a number >= 0, got " + limit);
        }
    }
}
