package dev.fathom;

import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.stream.Collectors;

/** Checks of arguments. Each failure is one sentence: the argument, what was expected, what came. */
final class Check {
    static final int MOST_HEADS = 1 << 16;
    static final int MOST_HEAD_DIM = 256;
    /** Whole pages of entries that an int can number. */
    private static final long MOST_ENTRIES = (1L << 31) - 64;

    private Check() {}

    static int range(String name, int value, int least, int most) {
        if (value < least || value > most) {
            throw new IllegalArgumentException(name + " must be in " + least + ".." + most + ", got " + value);
        }
        return value;
    }

    static int atLeast(String name, int value, int least) {
        if (value < least) throw new IllegalArgumentException(name + " must be at least " + least + ", got " + value);
        return value;
    }

    static long atLeast(String name, long value, long least) {
        if (value < least) throw new IllegalArgumentException(name + " must be at least " + least + ", got " + value);
        return value;
    }

    static float finite(String name, float value) {
        if (!Float.isFinite(value)) throw new IllegalArgumentException(name + " must be a finite number, got " + value);
        return value;
    }

    static float positive(String name, float value) {
        if (!(value > 0) || value == Float.POSITIVE_INFINITY) {
            throw new IllegalArgumentException(name + " must be a finite number above 0, got " + value);
        }
        return value;
    }

    static float notNegative(String name, float value) {
        if (!(value >= 0) || value == Float.POSITIVE_INFINITY) {
            throw new IllegalArgumentException(name + " must be a finite number of at least 0, got " + value);
        }
        return value;
    }

    static <T> T notNull(String name, T value) {
        if (value == null) throw new IllegalArgumentException(name + " must not be null");
        return value;
    }

    /** A type in which weights are stored. */
    static DType weightType(String name, DType type) {
        return oneOf(name, type, DType.F32, DType.BF16, DType.I8, DType.Q8_0, DType.Q4_0, DType.F8_E4M3);
    }

    /** A type in which a pool stores K,V. */
    static DType kvType(String name, DType type) {
        return oneOf(name, type, DType.F32, DType.BF16, DType.I8);
    }

    /** A type in which callers keep tables and K,V of their own. */
    static DType plainType(String name, DType type) {
        return oneOf(name, type, DType.F32, DType.BF16);
    }

    /** A source of tensors that are not a linear's weight. */
    static DType plainSource(DType type) {
        return oneOf("sourceType", type, DType.F32, DType.BF16, DType.F16);
    }

    /** Bytes of {@code count} elements of a source whose rows are {@code columns} long. */
    static long sourceBytes(DType type, long columns, long count) {
        oneOf("sourceType", type, DType.F32, DType.BF16, DType.F16, DType.Q8_0, DType.Q4_0, DType.F8_E4M3);
        if (columns % type.blockSize() != 0) {
            throw new IllegalArgumentException(
                    "rows of a " + type + " source must be a multiple of 32 long, got " + columns);
        }
        long scales = type == DType.F8_E4M3 ? product(count / columns, Float.BYTES) : 0;
        return sum(product(count / type.blockSize(), type.bytes()), scales);
    }

    private static DType oneOf(String name, DType type, DType... legal) {
        List<DType> types = List.of(legal);
        if (types.contains(notNull(name, type))) return type;
        String last = types.getLast().name();
        String others = types.subList(0, types.size() - 1).stream().map(DType::name).collect(Collectors.joining(", "));
        throw new IllegalArgumentException(name + " must be " + others + " or " + last + ", got " + type);
    }

    static int rotaryDim(RopeStyle style, int rotaryDim, int headDim) {
        if (style == RopeStyle.NONE) return range("rotaryDim", rotaryDim, 0, headDim);
        range("rotaryDim", rotaryDim, 2, headDim);
        if (rotaryDim % 2 != 0) throw new IllegalArgumentException("rotaryDim must be even, got " + rotaryDim);
        return rotaryDim;
    }

    static int headDim(int headDim) {
        range("headDim", headDim, 16, MOST_HEAD_DIM);
        if (headDim % 8 != 0) throw new IllegalArgumentException("headDim must be a multiple of 8, got " + headDim);
        return headDim;
    }

    static long poolEntries(long entries) {
        if (entries < 64 || entries > MOST_ENTRIES || entries % 64 != 0) {
            throw new IllegalArgumentException(
                    "entries must be a multiple of 64 in 64.." + MOST_ENTRIES + ", got " + entries);
        }
        return entries;
    }

    /** a * b for numbers that are not negative; what does not fit a long becomes its largest value. */
    static long product(long a, long b) {
        long low = a * b;
        return Math.multiplyHigh(a, b) == 0 && low >= 0 ? low : Long.MAX_VALUE;
    }

    /** a + b likewise. */
    static long sum(long a, long b) {
        return a + b >= 0 ? a + b : Long.MAX_VALUE;
    }

    /** The memory of a buffer that must hold {@code count} items of {@code itemBytes} and that kernels read. */
    static MemorySegment input(String name, Buffer buffer, long count, long itemBytes) {
        return held(name, buffer, count, itemBytes).readByKernels();
    }

    /** The same for a buffer that may be null. */
    static MemorySegment optional(String name, Buffer buffer, long count, long itemBytes) {
        return buffer == null ? MemorySegment.NULL : input(name, buffer, count, itemBytes);
    }

    /** The same for a buffer that the shape either calls for or has no use for. */
    static MemorySegment inputIf(boolean used, String name, Buffer buffer, long count, long itemBytes) {
        if (used) return input(name, buffer, count, itemBytes);
        requireNull(name, buffer);
        return MemorySegment.NULL;
    }

    /** The same for names of things, which the call itself reads: entries, indices, ids. */
    static MemorySegment control(String name, Buffer buffer, long count, long itemBytes) {
        return held(name, buffer, count, itemBytes).readByCall();
    }

    static MemorySegment controlIf(boolean used, String name, Buffer buffer, long count, long itemBytes) {
        if (used) return control(name, buffer, count, itemBytes);
        requireNull(name, buffer);
        return MemorySegment.NULL;
    }

    /** The same for a buffer that the call writes. */
    static MemorySegment output(String name, Buffer buffer, long count, long itemBytes) {
        MemorySegment segment = held(name, buffer, count, itemBytes).writtenByKernels();
        if (segment.isReadOnly()) throw new IllegalArgumentException(name + " is written, got read-only memory");
        return segment;
    }

    static MemorySegment outputIf(boolean used, String name, Buffer buffer, long count, long itemBytes) {
        return used ? output(name, buffer, count, itemBytes) : inputIf(false, name, buffer, 0, 0);
    }

    static MemorySegment optionalOutput(String name, Buffer buffer, long count, long itemBytes) {
        return buffer == null ? MemorySegment.NULL : output(name, buffer, count, itemBytes);
    }

    static MemorySegment rows(Rows rows, long count) {
        return rowsIf(true, "rows", rows, count);
    }

    static MemorySegment optionalRows(Rows rows, long count) {
        return rows == null ? rowsIf(false, "rows", null, count) : rows(rows, count);
    }

    /** Rows that the shape either calls for or has no use for. */
    static MemorySegment rowsIf(boolean used, String name, Rows rows, long count) {
        atLeast("count", count, 0);
        if (!used) return controlIf(false, name, rows == null ? null : rows.buffer(), 0, 0);
        if (notNull(name, rows).capacity() < count) {
            throw new IllegalArgumentException(name + " must hold at least " + count + " rows, got " + rows.capacity());
        }
        return rows.buffer().readByCall();
    }

    private static Buffer held(String name, Buffer buffer, long count, long itemBytes) {
        if (buffer == null) throw new IllegalArgumentException(name + " must not be null");
        long needed = product(count, itemBytes);
        if (buffer.bytes() < needed) {
            throw new IllegalArgumentException(name + " must hold at least " + needed + " bytes, got " + buffer.bytes());
        }
        return buffer;
    }

    private static void requireNull(String name, Buffer buffer) {
        if (buffer != null) throw new IllegalArgumentException(name + " must be null, the shape has no use for it");
    }
}
