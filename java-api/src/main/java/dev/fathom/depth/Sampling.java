package dev.fathom.depth;

/**
 * How the next token is drawn from the logits. A text has random numbers of its own, so what it becomes does not depend
 * on its company.
 *
 * @param temperature 0: always the most likely token
 * @param topK        only the so many most likely tokens, and those that are as likely as the last of them; 0: all
 * @param seed        of the text's random numbers
 */
public record Sampling(float temperature, int topK, long seed) {
    public Sampling {
        Require.that(temperature >= 0 && temperature < Float.POSITIVE_INFINITY,
                "temperature must be a finite number >= 0, got " + temperature);
        Require.atLeast("topK", topK, 0);
    }

    /** Always the most likely token, the lowest id on ties. */
    public static Sampling greedy() {
        return new Sampling(0, 0, 0);
    }

    public boolean isGreedy() {
        return temperature == 0;
    }
}
