package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.HashMap;
import java.util.Map;

/**
 * A matrix in FP8 (e4m3, no infinities) as kernels take it: each row is its scale in fp32, then its codes. Checkpoints
 * keep the two apart.
 *
 * @param codes  [rows, columns]
 * @param scales one per row, or one for all
 */
record F8Rows(Tensor codes, float[] scales) implements Contents {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final ValueLayout.OfByte BYTE = ValueLayout.JAVA_BYTE;
    private static final String DTYPE = "F8_E4M3";
    private static final String SUFFIX = "_scale";
    private static final int LARGEST = 448;

    /** How a matrix of that name calls its scales. */
    static String scaleName(String name) {
        return name + SUFFIX;
    }

    /**
     * The same tensors, but FP8 matrices with their scales: {@code X.weight_scale} with one element, or one per row. A
     * matrix without has the scale 1. Scales of activations, which are not rounded to FP8 here, are dropped.
     */
    static Map<String, Tensor> join(Map<String, Tensor> tensors) {
        Map<String, Tensor> joined = new HashMap<>(tensors);
        for (Tensor tensor : tensors.values()) {
            if (!tensor.dtype().equals(DTYPE) || tensor.shape().length != 2) continue;
            String name = tensor.name();
            if (tensors.containsKey(name + "_scale_inv")) {
                throw new UserException("Tensor " + name + " has scales of blocks (" + name + "_scale_inv), which are"
                        + " not supported: one scale for all of it or for each row is.");
            }
            F8Rows rows = new F8Rows(tensor, scales(tensor, joined.remove(scaleName(name))));
            joined.put(name, new Tensor(name, DTYPE, tensor.shape(), rows, 0, rows.bytes()));
            if (name.endsWith(".weight")) joined.remove(name.substring(0, name.length() - 6) + "input_scale");
        }
        return joined;
    }

    private static float[] scales(Tensor codes, Tensor scale) {
        if (scale == null) return new float[] {1};
        long rows = codes.shape()[0];
        boolean fits = scale.hasShape() || scale.hasShape(1) || scale.hasShape(1, 1) || scale.hasShape(rows)
                || scale.hasShape(rows, 1);
        if (!fits || scale.type().quantised()) {
            throw new UserException("Tensor " + scale.name() + " must hold one number, or one for each of the " + rows
                    + " rows of " + codes.name() + ", in F32, BF16 or F16.");
        }
        return scale.toFloats();
    }

    private long columns() {
        return codes.shape()[1];
    }

    private float scale(long row) {
        return scales[scales.length == 1 ? 0 : Math.toIntExact(row)];
    }

    /** Of so many elements: whole rows. */
    long bytes(long elements) {
        return elements == 0 ? 0 : elements / columns() * (Float.BYTES + columns());
    }

    @Override
    public long bytes() {
        return codes.shape()[0] * (Float.BYTES + columns());
    }

    @Override
    public void read(long at, MemorySegment to) {
        long rowBytes = Float.BYTES + columns();
        MemorySegment scale = MemorySegment.ofArray(new byte[Float.BYTES]);
        for (long done = 0; done < to.byteSize();) {
            long row = (at + done) / rowBytes;
            long within = (at + done) % rowBytes;
            long end = within < Float.BYTES ? Float.BYTES : rowBytes;
            long count = Math.min(end - within, to.byteSize() - done);
            if (within < Float.BYTES) {
                scale.set(FLOAT, 0, scale(row));
                MemorySegment.copy(scale, within, to, done, count);
            } else {
                codes.copy(row * columns() + within - Float.BYTES, to.asSlice(done, count));
            }
            done += count;
        }
    }

    @Override
    public void close() {} // of the file is its owner's

    /** Elements {@code from .. from + count)} to {@code values[at ..]}. */
    void decode(long from, float[] values, int at, int count) {
        MemorySegment bytes = MemorySegment.ofArray(new byte[count]);
        codes.copy(from, bytes);
        for (int i = 0; i < count; i++) {
            values[at + i] = scale((from + i) / columns()) * decode(bytes.get(BYTE, i));
        }
    }

    /** Codes of a row of values to {@code to}; returns their scale, at which the largest is 448. */
    static float encode(float[] values, int at, int columns, MemorySegment to) {
        float largest = 0;
        for (int i = 0; i < columns; i++) largest = Math.max(largest, Math.abs(values[at + i])); // NaN stays
        float inverse = largest == 0 ? 0 : LARGEST / largest;
        for (int i = 0; i < columns; i++) to.set(BYTE, i, encode(values[at + i] * inverse));
        return largest / LARGEST;
    }

    /** Makes rows what is read back after they were stored. */
    static void round(float[] values, int count, int columns) {
        MemorySegment row = MemorySegment.ofArray(new byte[columns]);
        for (int at = 0; at < count; at += columns) {
            float scale = encode(values, at, columns, row);
            for (int i = 0; i < columns; i++) values[at + i] = scale * decode(row.get(BYTE, i));
        }
    }

    static float decode(byte code) {
        if ((code & 0x7f) == 0x7f) return Float.NaN;
        // The same bits as fp16 are the number / 256.
        return 256 * Float.float16ToFloat((short) ((code & 0x80) << 8 | (code & 0x7f) << 7));
    }

    /** To the nearest, ties to even; beyond 448 it is 448, of what is no number 0. */
    static byte encode(float value) {
        int bits = Float.floatToRawIntBits(value);
        int sign = bits >>> 24 & 0x80;
        int size = bits & 0x7fffffff;
        float magnitude = Math.abs(value);
        if (Float.isNaN(value)) return 0;
        if (magnitude >= LARGEST) return (byte) (sign | 0x7e);
        if (magnitude < 0x1p-6f) return (byte) (sign | (int) Math.rint(magnitude * 0x1p9));
        return (byte) (sign | (size + 0x7ffff + (size >> 20 & 1) >> 20) - (120 << 3));
    }
}
