package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

import dev.fathom.DType;

/** A tensor of a checkpoint: row-major, read-only, possibly unaligned, as it lies in the file. */
record Tensor(String name, String dtype, long[] shape, MemorySegment data) {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;

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

    float[] toFloats() {
        DType type = type();
        float[] values = new float[Math.toIntExact(data.byteSize() / type.bytes())];
        for (int i = 0; i < values.length; i++) {
            values[i] = switch (type) {
                case F32 -> data.get(FLOAT, 4L * i);
                case BF16 -> Float.intBitsToFloat(data.get(SHORT, 2L * i) << 16);
                case F16 -> Float.float16ToFloat(data.get(SHORT, 2L * i));
            };
        }
        return values;
    }

    /** The data where every element lies at a multiple of its size: in place if it does already, else a copy. */
    MemorySegment aligned(Arena arena) {
        int size = type().bytes();
        if (data.address() % size == 0) return data;
        return arena.allocate(data.byteSize(), size).copyFrom(data);
    }
}
