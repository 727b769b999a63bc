package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;

import dev.fathom.DType;

/** A tensor of a checkpoint: row-major, read-only, possibly unaligned, as it lies in the file. */
record Tensor(String name, String dtype, long[] shape, MemorySegment data) {
    /** The element type, if it is one that weights can have. */
    DType type() {
        return switch (dtype) {
            case "F32" -> DType.F32;
            case "BF16" -> DType.BF16;
            case "F16" -> DType.F16;
            default -> throw new UserException(name + " is of type " + dtype + ", expected F32, BF16 or F16.");
        };
    }

    boolean hasShape(long... expected) {
        return Arrays.equals(shape, expected);
    }

    boolean sameAs(Tensor other) {
        return dtype.equals(other.dtype) && Arrays.equals(shape, other.shape) && data.mismatch(other.data) == -1;
    }

    long elements() {
        return data.byteSize() / type().bytes();
    }

    /** Elements {@code from .. from + count)} into the first of {@code values}. */
    void read(long from, float[] values, int count) {
        Elements.decode(type(), data, from, values, count);
    }

    float[] toFloats() {
        float[] values = new float[Math.toIntExact(elements())];
        read(0, values, values.length);
        return values;
    }

    /** The data where every element lies at a multiple of its size: in place if it does already, else a copy. */
    MemorySegment aligned(Arena arena) {
        int size = type().bytes();
        if (data.address() % size == 0) return data;
        return arena.allocate(data.byteSize(), size).copyFrom(data);
    }
}
