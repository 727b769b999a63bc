package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

/** Every operation through the Java API against a plain evaluation of its formula in double. */
class KernelsTest {
    @Test
    void norm() {
        try (Context context = Context.cpu(2)) {
            NormShape shape = new NormShape(NormKind.RMS, 5, 1e-5f);
            float[] x = {1, -2, 3, -4, 5, 0.5f, 0.25f, 0, 1, 2};
            Buffer buffer = context.allocate(x.length * 4L).write(x);
            context.norm(shape, 2, null, buffer, null, null, buffer);
            for (int row = 0; row < 2; row++) {
                double squares = 0;
                for (int i = 0; i < 5; i++) squares += x[row * 5 + i] * x[row * 5 + i];
                for (int i = 0; i < 5; i++) {
                    assertEquals(x[row * 5 + i] / Math.sqrt(squares / 5 + 1e-5), buffer.getFloat(row * 5 + i), 1e-6);
                }
            }
        }
    }
}
