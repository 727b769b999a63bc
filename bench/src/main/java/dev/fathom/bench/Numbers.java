package dev.fathom.bench;

import java.util.SplittableRandom;

/**
 * Random numbers, the same in every run, and exact in bf16, so that kernels of both types and plain Java start from
 * equal ones.
 */
final class Numbers {
    private final SplittableRandom random = new SplittableRandom(7);

    /** In -1..1. */
    float[] vector(int count) {
        float[] numbers = new float[count];
        for (int i = 0; i < count; i++) numbers[i] = random.nextInt(-128, 129) / 128f;
        return numbers;
    }

    float[][] rows(int rows, int count) {
        float[][] numbers = new float[rows][];
        for (int r = 0; r < rows; r++) numbers[r] = vector(count);
        return numbers;
    }

    /** [in][out], so small that products neither grow through a layer nor saturate a softmax. */
    float[][] weights(int in, int out) {
        float[][] w = rows(in, out);
        for (float[] row : w) {
            for (int o = 0; o < out; o++) row[o] /= 32;
        }
        return w;
    }

    /** {@code count} different integers below {@code limit}. */
    int[] different(int count, int limit) {
        int[] all = new int[limit];
        for (int i = 0; i < limit; i++) all[i] = i;
        int[] chosen = new int[count];
        for (int i = 0; i < count; i++) {
            int j = random.nextInt(i, limit);
            chosen[i] = all[j];
            all[j] = all[i];
        }
        return chosen;
    }

    int[] integers(int count, int limit) {
        int[] numbers = new int[count];
        for (int i = 0; i < count; i++) numbers[i] = random.nextInt(limit);
        return numbers;
    }
}
