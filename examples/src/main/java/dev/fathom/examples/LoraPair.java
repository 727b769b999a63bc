package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;

import dev.fathom.DType;

/**
 * The LoRA pair that gives a layer back what it lost when its weight became a shared one.
 *
 * @param name     the linear's, with the prefix of its unrolled layer
 * @param original W of that layer
 * @param shared   W' that takes its place, as it is stored: the pair makes up for its rounding too
 * @param type     in which the pair is stored
 */
record LoraPair(String name, Linear linear, Tensor original, SharedWeight shared, int rank, DType type) {
    private static final int PIECE = 1 << 16;

    String nameOfA() {
        return name + ".lora_A.weight";
    }

    String nameOfB() {
        return name + ".lora_B.weight";
    }

    List<SafetensorsWriter.Entry> entries(String prefix) {
        return List.of(new SafetensorsWriter.Entry(prefix + nameOfA(), type, rank, linear.in()),
                new SafetensorsWriter.Entry(prefix + nameOfB(), type, linear.out(), rank));
    }

    /** Of W. */
    long elements() {
        return original.elements();
    }

    long parameters() {
        return (long) rank * (linear.in() + linear.out());
    }

    /** B A is the best of its rank for W - W'. */
    LowRank decompose() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment residual = arena.allocate(4 * elements(), 64);
            int piece = shared.piece(PIECE);
            float[] values = new float[piece];
            float[] tied = new float[piece];
            for (long from = 0; from < elements(); from += piece) {
                int count = (int) Math.min(piece, elements() - from);
                original.read(from, values, count);
                shared.read(from, tied, count);
                for (int i = 0; i < count; i++) {
                    float lost = values[i] - tied[i];
                    if (!Float.isFinite(lost)) {
                        throw new UserException("Element " + (from + i) + " of tensor " + original.name()
                                + " less that of the shared weight is " + lost + ", expected a finite number.");
                    }
                    residual.setAtIndex(ValueLayout.JAVA_FLOAT, from + i, lost);
                }
            }
            return LowRank.of(residual, linear.out(), linear.in(), rank);
        }
    }
}
