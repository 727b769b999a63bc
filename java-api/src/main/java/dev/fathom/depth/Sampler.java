package dev.fathom.depth;

import java.util.Arrays;
import java.util.SplittableRandom;

/** Draws the tokens of one text. */
public final class Sampler {
    private final Sampling sampling;
    private final SplittableRandom random;
    private float[] sorted = new float[0];

    /** Of a sampling that is not greedy. */
    public Sampler(Sampling sampling) {
        Require.that(!Require.notNull("sampling", sampling).isGreedy(), "greedy sampling draws nothing");
        this.sampling = sampling;
        random = new SplittableRandom(sampling.seed());
    }

    /** Draws from softmax(logits / temperature), limited to the most likely ones. Overwrites the logits. */
    public int draw(float[] logits) {
        int topK = sampling.topK();
        float least = topK == 0 || topK >= logits.length ? Float.NEGATIVE_INFINITY : kthLargest(logits);
        float most = Float.NEGATIVE_INFINITY;
        for (float logit : logits) most = Math.max(most, logit);
        double sum = 0;
        for (int i = 0; i < logits.length; i++) {
            logits[i] = logits[i] < least ? 0 : (float) Math.exp((logits[i] - most) / sampling.temperature());
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
        if (sorted.length < logits.length) sorted = new float[logits.length];
        System.arraycopy(logits, 0, sorted, 0, logits.length);
        Arrays.sort(sorted, 0, logits.length);
        return sorted[logits.length - sampling.topK()];
    }
}
