package dev.fathom.examples;

import java.util.Arrays;
import java.util.SplittableRandom;

/** Draws the next token of one text. Texts have samplers of their own, so none depends on its company. */
final class Sampler {
    private final float temperature;
    private final int topK;
    private final SplittableRandom random;

    /** {@code topK} 0: all tokens. */
    Sampler(float temperature, int topK, long seed) {
        this.temperature = temperature;
        this.topK = topK;
        this.random = new SplittableRandom(seed);
    }

    /** Draws from softmax(logits / temperature), limited to the {@code topK} largest. Overwrites the logits. */
    int draw(float[] logits) {
        float least = topK == 0 || topK >= logits.length ? Float.NEGATIVE_INFINITY : kthLargest(logits);
        float most = Float.NEGATIVE_INFINITY;
        for (float logit : logits) most = Math.max(most, logit);
        double sum = 0;
        for (int i = 0; i < logits.length; i++) {
            logits[i] = logits[i] < least ? 0 : (float) Math.exp((logits[i] - most) / temperature);
            sum += logits[i];
        }
        double left = random.nextDouble() * sum;
        int last = 0;
        for (int i = 0; i < logits.length; i++) {
            if (logits[i] == 0) continue;
            last = i;
            left -= logits[i];
            if (left < 0) break;
        }
        return last;
    }

    private float kthLargest(float[] logits) {
        float[] sorted = logits.clone();
        Arrays.sort(sorted);
        return sorted[sorted.length - topK];
    }
}
