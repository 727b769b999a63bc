package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

import dev.fathom.DType;

/**
 * Elements of stored tensors as floats and back; of types in blocks whole blocks. Conversion to f16 and bf16 rounds to
 * the nearest, ties to even.
 */
final class Elements {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;

    private Elements() {}

    /** The first {@code count} elements of data to {@code values[at ..]}. */
    static void decode(DType type, MemorySegment data, float[] values, int at, int count) {
        switch (type) {
            case F32 -> MemorySegment.copy(data, FLOAT, 0, values, at, count);
            case BF16 -> {
                for (int i = 0; i < count; i++) values[at + i] = Float.intBitsToFloat(data.get(SHORT, 2L * i) << 16);
            }
            case F16 -> {
                for (int i = 0; i < count; i++) values[at + i] = Float.float16ToFloat(data.get(SHORT, 2L * i));
            }
            case Q8_0, Q4_0 -> Blocks.valueOf(type.name()).decodeAll(data, values, at, count);
            case I8, F8_E4M3 -> throw notStored(type);
        }
    }

    /** The first {@code count} of {@code values} to the beginning of data. */
    static void encode(DType type, float[] values, int count, MemorySegment data) {
        switch (type) {
            case F32 -> MemorySegment.copy(values, 0, data, FLOAT, 0, count);
            case BF16 -> {
                for (int i = 0; i < count; i++) data.set(SHORT, 2L * i, bf16(values[i]));
            }
            case F16 -> {
                for (int i = 0; i < count; i++) data.set(SHORT, 2L * i, Float.floatToFloat16(values[i]));
            }
            case Q8_0, Q4_0 -> Blocks.valueOf(type.name()).encodeAll(values, count, data);
            case I8, F8_E4M3 -> throw notStored(type);
        }
    }

    /** Makes the first {@code count} of values what is read back after they were stored. */
    static void round(DType type, float[] values, int count) {
        if (type == DType.F32) return;
        MemorySegment stored = MemorySegment.ofArray(new byte[Math.toIntExact(bytes(type, count))]);
        encode(type, values, count, stored);
        decode(type, stored, values, 0, count);
    }

    /** Of so many elements. */
    static long bytes(DType type, long count) {
        return Math.multiplyExact(count / type.blockSize(), type.bytes());
    }

    private static IllegalArgumentException notStored(DType type) {
        return new IllegalArgumentException(type + " is no type of single elements"); // of rows: see F8Rows
    }

    private static short bf16(float value) {
        int bits = Float.floatToIntBits(value); // one NaN, whose upper half is a NaN too
        return (short) (bits + 0x7fff + (bits >>> 16 & 1) >>> 16);
    }
}
