package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;

import dev.fathom.DType;

/** A tensor of a checkpoint, row-major: {@code bytes} bytes of a file from {@code offset} on, read when asked for. */
record Tensor(String name, String dtype, long[] shape, Contents file, long offset, long bytes) {
    private static final int PIECE = 1 << 16;

    /** The type that its bytes are read as, if it is one that weights can have. */
    DType type() {
        return switch (dtype) {
            case "F32" -> DType.F32;
            case "BF16" -> DType.BF16;
            case "F16" -> DType.F16;
            case "Q8_0" -> DType.Q8_0;
            case "Q4_0" -> DType.Q4_0;
            case "Q4_1", "Q6_K" -> DType.F32; // see DecodedBlocks
            case "F8_E4M3" -> {
                if (!(file instanceof F8Rows)) throw new UserException(name + " is F8_E4M3 and no matrix.");
                yield DType.F8_E4M3;
            }
            default -> throw new UserException(name + " is of type " + dtype
                    + ", expected F32, BF16, F16, Q8_0, Q4_0 or F8_E4M3.");
        };
    }

    boolean hasShape(long... expected) {
        return Arrays.equals(shape, expected);
    }

    boolean sameAs(Tensor other) {
        if (!dtype.equals(other.dtype) || !Arrays.equals(shape, other.shape)) return false;
        byte[] mine = new byte[PIECE];
        byte[] its = new byte[PIECE];
        for (long from = 0; from < bytes; from += PIECE) {
            int count = (int) Math.min(PIECE, bytes - from);
            copy(from, MemorySegment.ofArray(mine).asSlice(0, count));
            other.copy(from, MemorySegment.ofArray(its).asSlice(0, count));
            if (!Arrays.equals(mine, 0, count, its, 0, count)) return false;
        }
        return true;
    }

    long elements() {
        return file instanceof F8Rows ? shape[0] * shape[1] : bytes / type().bytes() * type().blockSize();
    }

    /** Of so many elements as they are stored: whole blocks, or rows that have a scale. */
    long bytes(long elements) {
        return file instanceof F8Rows rows ? rows.bytes(elements) : Elements.bytes(type(), elements);
    }

    /** Fills {@code to} with the bytes from {@code from} on. */
    void copy(long from, MemorySegment to) {
        file.read(offset + from, to);
    }

    /** Elements {@code from .. from + count)} into the first of {@code values}; whole blocks. */
    void read(long from, float[] values, int count) {
        if (file instanceof F8Rows rows) {
            for (int at = 0; at < count; at += PIECE) {
                rows.decode(from + at, values, at, Math.min(PIECE, count - at));
            }
            return;
        }
        DType type = type();
        MemorySegment scratch = MemorySegment.ofArray(new byte[(int) Elements.bytes(type, Math.min(PIECE, count))]);
        for (int at = 0; at < count; at += PIECE) {
            int some = Math.min(PIECE, count - at);
            copy(Elements.bytes(type, from + at), scratch.asSlice(0, Elements.bytes(type, some)));
            Elements.decode(type, scratch, values, at, some);
        }
    }

    float[] toFloats() {
        long count = elements();
        if (count > Integer.MAX_VALUE - 8) {
            throw new UserException("Tensor " + name + " has " + count + " elements, too many for one array.");
        }
        float[] values = new float[(int) count];
        read(0, values, values.length);
        return values;
    }
}
