package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * Neighbours in a row that are stored together with their scale, as ggml lays them out. Scales are fp16; of q of 4 bits
 * those of the first half of a block are in the low nibbles, those of the second in the high ones.
 */
enum Blocks {
    /** d, then 32 q of 8 bits: d q. */
    Q8_0(32, 34) {
        @Override
        void decode(MemorySegment block, long from, float[] values, int at) {
            float d = half(block, from);
            for (int i = 0; i < 32; i++) values[at + i] = d * block.get(BYTE, from + 2 + i);
        }

        @Override
        void encode(float[] values, int at, MemorySegment block, long to) {
            float largest = 0;
            for (int i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[at + i]));
            float d = largest / 127;
            float inverse = d == 0 ? 0 : 1 / d;
            block.set(SHORT, to, Float.floatToFloat16(d));
            for (int i = 0; i < 32; i++) block.set(BYTE, to + 2 + i, (byte) round(values[at + i] * inverse));
        }
    },
    /** d, then 32 q of 4 bits: d (q - 8). */
    Q4_0(32, 18) {
        @Override
        void decode(MemorySegment block, long from, float[] values, int at) {
            float d = half(block, from);
            for (int i = 0; i < 16; i++) {
                int pair = block.get(BYTE, from + 2 + i);
                values[at + i] = d * ((pair & 15) - 8);
                values[at + 16 + i] = d * ((pair >> 4 & 15) - 8);
            }
        }

        @Override
        void encode(float[] values, int at, MemorySegment block, long to) {
            float largest = 0; // with its sign: it becomes -8 d exactly
            for (int i = 0; i < 32 && !Float.isNaN(largest); i++) {
                if (!(Math.abs(values[at + i]) <= Math.abs(largest))) largest = values[at + i];
            }
            float d = largest / -8;
            float inverse = d == 0 ? 0 : 1 / d;
            block.set(SHORT, to, Float.floatToFloat16(d));
            for (int i = 0; i < 16; i++) {
                int low = Math.min(15, (int) (values[at + i] * inverse + 8.5f));
                int high = Math.min(15, (int) (values[at + 16 + i] * inverse + 8.5f));
                block.set(BYTE, to + 2 + i, (byte) (low | high << 4));
            }
        }
    },
    /** d and m, then 32 q of 4 bits: d q + m. Read only. */
    Q4_1(32, 20) {
        @Override
        void decode(MemorySegment block, long from, float[] values, int at) {
            float d = half(block, from);
            float m = half(block, from + 2);
            for (int i = 0; i < 16; i++) {
                int pair = block.get(BYTE, from + 4 + i);
                values[at + i] = d * (pair & 15) + m;
                values[at + 16 + i] = d * (pair >> 4 & 15) + m;
            }
        }
    },
    /**
     * The low 4 bits of 256 q, their high 2 bits, 16 scales s of 8 bits, d: d s (q - 32). Each 128 elements are four
     * quarters; two of them share bytes of low bits, all four bytes of high bits. Read only.
     */
    Q6_K(256, 210) {
        @Override
        void decode(MemorySegment block, long from, float[] values, int at) {
            float d = half(block, from + 208);
            for (int i = 0; i < 256; i++) {
                int half = i / 128;
                int quarter = i / 32 % 4;
                int low = block.get(BYTE, from + 64 * half + 32 * (quarter % 2) + i % 32) >> 4 * (quarter / 2) & 15;
                int high = block.get(BYTE, from + 128 + 32 * half + i % 32) >> 2 * quarter & 3;
                values[at + i] = d * block.get(BYTE, from + 192 + i / 16) * ((high << 4 | low) - 32);
            }
        }
    };

    private static final ValueLayout.OfByte BYTE = ValueLayout.JAVA_BYTE;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;

    /** Elements of a block. */
    final int elements;
    /** Bytes of a block. */
    final int bytes;

    Blocks(int elements, int bytes) {
        this.elements = elements;
        this.bytes = bytes;
    }

    /** One block. */
    abstract void decode(MemorySegment block, long from, float[] values, int at);

    /** One block. What is decoded and encoded again gives the same values. */
    void encode(float[] values, int at, MemorySegment block, long to) {
        throw new UnsupportedOperationException(this + " is read only");
    }

    /** Whole blocks. */
    void decodeAll(MemorySegment data, float[] values, int at, int count) {
        for (int i = 0; i < count; i += elements) decode(data, (long) i / elements * bytes, values, at + i);
    }

    /** Whole blocks. */
    void encodeAll(float[] values, int count, MemorySegment data) {
        for (int i = 0; i < count; i += elements) encode(values, i, data, (long) i / elements * bytes);
    }

    private static float half(MemorySegment data, long at) {
        return Float.float16ToFloat(data.get(SHORT, at));
    }

    /** To the nearest, halves away from zero. */
    private static int round(float value) {
        int whole = (int) value;
        float rest = value - whole;
        return rest >= 0.5f ? whole + 1 : rest <= -0.5f ? whole - 1 : whole;
    }
}
