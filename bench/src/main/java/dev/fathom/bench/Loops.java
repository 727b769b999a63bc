package dev.fathom.bench;

import java.util.Arrays;

/**
 * The kernels as plain Java, one thread, written for C2: inner loops run over one index of whole arrays, which it turns
 * into vector code. So rows are arrays of their own and weights are [in][out]: a product adds multiples of weight rows,
 * where a sum of products would have to be added up one by one.
 */
final class Loops {
    private Loops() {}

    // ---- products ------------------------------------------------------------------------------------------------

    /** y[r] = x[r] w, w [in][out]. All rows take eight rows of w before the next eight. */
    static void product(float[][] x, float[][] w, float[][] y) {
        for (float[] row : y) Arrays.fill(row, 0);
        for (int k = 0; k < w.length; k += 8) {
            for (int r = 0; r < x.length; r++) addEight(y[r], y[r].length, x[r], k, w, k);
        }
    }

    /** y += a[at] w[from] + ... + a[at + 7] w[from + 7]: eight products for one y that is read and written. */
    private static void addEight(float[] y, int count, float[] a, int at, float[][] w, int from) {
        addEight(y, count, a[at], w[from], a[at + 1], w[from + 1], a[at + 2], w[from + 2], a[at + 3], w[from + 3],
                a[at + 4], w[from + 4], a[at + 5], w[from + 5], a[at + 6], w[from + 6], a[at + 7], w[from + 7]);
    }

    private static void addEight(float[] y, int count, float a0, float[] w0, float a1, float[] w1, float a2,
                                 float[] w2, float a3, float[] w3, float a4, float[] w4, float a5, float[] w5,
                                 float a6, float[] w6, float a7, float[] w7) {
        for (int i = 0; i < count; i++) {
            float upper = Math.fma(a4, w4[i], Math.fma(a5, w5[i], Math.fma(a6, w6[i], a7 * w7[i])));
            y[i] += Math.fma(a0, w0[i], Math.fma(a1, w1[i], Math.fma(a2, w2[i], Math.fma(a3, w3[i], upper))));
        }
    }

    /** x += a y. */
    static void add(float[] x, float a, float[] y, int count) {
        for (int i = 0; i < count; i++) x[i] = Math.fma(a, y[i], x[i]);
    }

    /** Eight sums side by side, each waiting for itself only; the count is a multiple of 8. */
    static float dot(float[] a, int from, float[] b, int count) {
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        for (int i = 0, j = from; i < count; i += 8, j += 8) {
            s0 = Math.fma(a[j], b[i], s0);
            s1 = Math.fma(a[j + 1], b[i + 1], s1);
            s2 = Math.fma(a[j + 2], b[i + 2], s2);
            s3 = Math.fma(a[j + 3], b[i + 3], s3);
            s4 = Math.fma(a[j + 4], b[i + 4], s4);
            s5 = Math.fma(a[j + 5], b[i + 5], s5);
            s6 = Math.fma(a[j + 6], b[i + 6], s6);
            s7 = Math.fma(a[j + 7], b[i + 7], s7);
        }
        return s0 + s1 + (s2 + s3) + (s4 + s5 + (s6 + s7));
    }

    // ---- by element ----------------------------------------------------------------------------------------------

    static void rmsNorm(float[] x, float[] gain, float eps, float[] y) {
        float scale = (float) (1 / Math.sqrt(dot(x, 0, x, x.length) / x.length + eps));
        for (int i = 0; i < x.length; i++) y[i] = x[i] * scale * gain[i];
    }

    static void scale(float a, float[] x, float[] y) {
        for (int i = 0; i < x.length; i++) y[i] = a * x[i];
    }

    /** The same of bf16. */
    static void scale(float a, short[] x, float[] y) {
        for (int i = 0; i < x.length; i++) y[i] = a * Bf16.toFloat(x[i]);
    }

    /** Turns the halves of every head of a row against each other. */
    static void rope(float[] x, int position, float[] frequency) {
        int half = frequency.length;
        for (int i = 0; i < half; i++) {
            double angle = position * (double) frequency[i];
            float cos = (float) Math.cos(angle), sin = (float) Math.sin(angle);
            for (int at = i; at < x.length; at += 2 * half) {
                float a = x[at], b = x[at + half];
                x[at] = a * cos - b * sin;
                x[at + half] = b * cos + a * sin;
            }
        }
    }

    /** delta becomes now . before, |now|^2, |before|^2, |now - before|^2, |(now - before) - (before - before2)|^2. */
    static void stateDelta(float[] before2, float[] before, float[] now, float[] delta) {
        float dot = 0, nowSquared = 0, beforeSquared = 0, stepSquared = 0, accelerationSquared = 0;
        for (int i = 0; i < now.length; i++) {
            float step = now[i] - before[i], acceleration = step - (before[i] - before2[i]);
            dot = Math.fma(now[i], before[i], dot);
            nowSquared = Math.fma(now[i], now[i], nowSquared);
            beforeSquared = Math.fma(before[i], before[i], beforeSquared);
            stepSquared = Math.fma(step, step, stepSquared);
            accelerationSquared = Math.fma(acceleration, acceleration, accelerationSquared);
        }
        delta[0] = dot;
        delta[1] = nowSquared;
        delta[2] = beforeSquared;
        delta[3] = stepSquared;
        delta[4] = accelerationSquared;
    }

    static float sigmoid(float x) {
        return (float) (1 / (1 + Math.exp(-x)));
    }

    /** x = silu(x) y. */
    static void swiglu(float[] x, float[] y) {
        for (int i = 0; i < x.length; i++) x[i] *= sigmoid(x[i]) * y[i];
    }

    /** Scores become weights; returns their sum. */
    static float softmax(float[] score, int count, float scale) {
        float most = Float.NEGATIVE_INFINITY, sum = 0;
        for (int i = 0; i < count; i++) most = Math.max(most, score[i]);
        for (int i = 0; i < count; i++) {
            score[i] = (float) Math.exp((score[i] - most) * scale);
            sum += score[i];
        }
        return sum;
    }

    // ---- attention -----------------------------------------------------------------------------------------------

    /** One row over the first {@code visible} items. */
    static void attention(float[] q, int heads, float scale, PlainKv kv, int visible, float[] score, float[] out) {
        int headDim = q.length / heads, group = heads / kv.k.length;
        for (int h = 0; h < heads; h++) {
            float[][] k = kv.k[h / group];
            Arrays.fill(score, 0, visible, 0);
            for (int i = 0; i < headDim; i += 8) addEight(score, visible, q, h * headDim + i, k, i);
            mix(score, visible, scale, kv.v[h / group], out, h * headDim, headDim);
        }
    }

    /** One row over the first {@code count} of {@code items} of dense k and v [kvHeads][tokens][headDim]. */
    static void maskedAttention(float[] q, int heads, float scale, float[][][] k, float[][][] v, int[] items, int count,
                                float[] score, float[][] seen, float[] out) {
        int headDim = q.length / heads, group = heads / k.length;
        for (int h = 0; h < heads; h++) {
            for (int j = 0; j < count; j++) {
                score[j] = dot(q, h * headDim, k[h / group][items[j]], headDim);
                seen[j] = v[h / group][items[j]];
            }
            mix(score, count, scale, seen, out, h * headDim, headDim);
        }
    }

    /** The softmax of scores, and the mean of v with these weights. */
    private static void mix(float[] score, int count, float scale, float[][] v, float[] out, int at, int headDim) {
        float sum = softmax(score, count, scale);
        float[] mean = new float[headDim];
        int t = 0;
        for (; t + 8 <= count; t += 8) addEight(mean, headDim, score, t, v, t);
        for (; t < count; t++) add(mean, score[t], v[t], headDim);
        for (int i = 0; i < headDim; i++) out[at + i] = mean[i] / sum;
    }

    // ---- logits --------------------------------------------------------------------------------------------------

    /** Returns the argmax; stats become the two largest logits, log-sum-exp and entropy. */
    static int statistics(float[] logit, float[] stats) {
        int argmax = 0;
        float top2 = Float.NEGATIVE_INFINITY;
        for (int i = 1; i < logit.length; i++) {
            if (logit[i] > logit[argmax]) {
                top2 = logit[argmax];
                argmax = i;
            } else {
                top2 = Math.max(top2, logit[i]);
            }
        }
        float top1 = logit[argmax], sum = 0, weighted = 0;
        for (float z : logit) {
            float weight = (float) Math.exp(z - top1);
            sum += weight;
            weighted += weight * (z - top1);
        }
        stats[0] = top1;
        stats[1] = top2;
        stats[2] = top1 + (float) Math.log(sum);
        stats[3] = (float) Math.log(sum) - weighted / sum;
        return argmax;
    }

    // ---- top k ---------------------------------------------------------------------------------------------------

    /** The positions of the largest values, as many as {@code index} holds, in order; of equal ones the first. */
    static void topK(float[] values, float[] sorted, int[] index) {
        float least = sorted[sorted.length - index.length];
        int ties = index.length;
        for (float value : values) {
            if (value > least) ties--;
        }
        int count = 0;
        for (int i = 0; i < values.length; i++) {
            if (values[i] > least || values[i] == least && ties-- > 0) index[count++] = i;
        }
    }
}
