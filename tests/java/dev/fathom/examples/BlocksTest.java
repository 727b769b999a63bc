package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Blocks of ggml: bytes that its own tools make, and the formulas of its formats. */
class BlocksTest {
    private static byte[] encode(Blocks format, float[] values) {
        byte[] bytes = new byte[values.length / format.elements * format.bytes];
        format.encodeAll(values, values.length, MemorySegment.ofArray(bytes));
        return bytes;
    }

    private static float[] decode(Blocks format, byte[] bytes) {
        float[] values = new float[bytes.length / format.bytes * format.elements];
        format.decodeAll(MemorySegment.ofArray(bytes), values, 0, values.length);
        return values;
    }

    /** Values with ties of the rounding and of the largest magnitude. */
    private static float[] sample() {
        float[] values = new float[32];
        for (int i = 0; i < 32; i++) values[i] = (i * 37 % 64 - 31.5f) / 8;
        return values;
    }

    @Test
    void bytesAreThoseOfGgml() {
        assertEquals(Q8, HexFormat.of().formatHex(encode(Blocks.Q8_0, sample())));
        assertEquals(Q4, HexFormat.of().formatHex(encode(Blocks.Q4_0, sample())));
    }

    private static final String Q8 = "f0278116a93ed267fa8d22b54bde7306992ec257ea7f12a53ace63f6891eb147da6f";
    private static final String Q4 = "e03740d973fc952ec851ea731da63fc862fb";

    @ParameterizedTest
    @EnumSource(names = {"Q8_0", "Q4_0"})
    void whatWasStoredIsStoredTheSameAgain(Blocks format) {
        Random random = new Random(1);
        float[] scales = {1, 1e-3f, 1e-7f, 3e-8f, 1e-9f, 1000, 0};
        for (int round = 0; round < 2000; round++) {
            float[] values = new float[32];
            for (int i = 0; i < 32; i++) values[i] = scales[round % scales.length] * (float) random.nextGaussian();
            byte[] once = encode(format, values);
            float[] stored = decode(format, once);
            float[] again = decode(format, encode(format, stored));
            for (int i = 0; i < 32; i++) assertTrue(stored[i] == again[i], stored[i] + " " + again[i]); // 0 may be -0
        }
    }

    @Test
    void errorsAreHalfAStep() {
        Random random = new Random(2);
        for (int round = 0; round < 500; round++) {
            float[] values = new float[32];
            float largest = 0;
            for (int i = 0; i < 32; i++) {
                values[i] = random.nextFloat() - 0.5f;
                largest = Math.max(largest, Math.abs(values[i]));
            }
            float[] eight = decode(Blocks.Q8_0, encode(Blocks.Q8_0, values));
            float[] four = decode(Blocks.Q4_0, encode(Blocks.Q4_0, values));
            for (int i = 0; i < 32; i++) { // the scale itself is rounded to 11 bits
                assertEquals(values[i], eight[i], largest * (0.5 / 127 + 0x1p-11));
                // 7 is the largest q that has the other sign than the largest value.
                assertEquals(values[i], four[i], largest * (1.0 / 8 + 0x1p-11));
            }
        }
    }

    @Test
    void numbersThatAreNoneStayNone() {
        for (Blocks format : new Blocks[] {Blocks.Q8_0, Blocks.Q4_0}) {
            for (float none : new float[] {Float.NaN, Float.POSITIVE_INFINITY, -Float.MAX_VALUE}) {
                float[] values = sample();
                values[5] = none;
                float sum = 0;
                for (float value : decode(format, encode(format, values))) sum += value;
                assertTrue(!Float.isFinite(sum), format + " " + none);
            }
        }
    }

    private static byte[] random(int bytes, int... scalesAt) {
        byte[] block = new byte[bytes];
        new Random(3).nextBytes(block);
        for (int at : scalesAt) {
            ByteBuffer.wrap(block).order(ByteOrder.LITTLE_ENDIAN).putShort(at, Float.floatToFloat16(0.37f + at));
        }
        return block;
    }

    @Test
    void fourBitsWithAnOffset() {
        byte[] block = random(20, 0, 2);
        float d = Float.float16ToFloat(Float.floatToFloat16(0.37f));
        float m = Float.float16ToFloat(Float.floatToFloat16(2.37f));
        float[] values = decode(Blocks.Q4_1, block);
        for (int i = 0; i < 16; i++) {
            assertEquals(d * (block[4 + i] & 15) + m, values[i]);
            assertEquals(d * (block[4 + i] >>> 4 & 15) + m, values[16 + i]);
        }
    }

    /** By the fields of the format: ql[128], qh[64], scales[16], d. */
    @Test
    void sixBits() {
        byte[] block = random(210, 208);
        float d = Float.float16ToFloat(Float.floatToFloat16(208.37f));
        float[] values = decode(Blocks.Q6_K, block);
        for (int n = 0; n < 2; n++) {
            for (int l = 0; l < 32; l++) {
                int low = block[64 * n + l] & 0xff;
                int lowBehind = block[64 * n + 32 + l] & 0xff;
                int high = block[128 + 32 * n + l] & 0xff;
                int[] q = {low & 15 | (high & 3) << 4, lowBehind & 15 | (high >> 2 & 3) << 4,
                    low >> 4 | (high >> 4 & 3) << 4, lowBehind >> 4 | high >> 6 << 4};
                for (int k = 0; k < 4; k++) {
                    int scale = block[192 + 8 * n + l / 16 + 2 * k];
                    assertEquals(d * scale * (q[k] - 32), values[128 * n + 32 * k + l]);
                }
            }
        }
    }

    @Test
    void decodedBlocksAreReadFromAnywhere() {
        byte[] bytes = new byte[3 + 5 * 20];
        new Random(4).nextBytes(bytes);
        for (int i = 0; i < 5; i++) bytes[3 + 20 * i + 1] = bytes[3 + 20 * i + 3] = 0x30; // finite scales
        float[] all = decode(Blocks.Q4_1, Arrays.copyOfRange(bytes, 3, bytes.length));
        Contents contents = new DecodedBlocks(Contents.of(bytes), Blocks.Q4_1, 3, 160);
        assertEquals(640, contents.bytes());
        Tensor tensor = new Tensor("w", "Q4_1", new long[] {5, 32}, contents, 0, 640);
        for (int from : new int[] {0, 1, 31, 32, 40, 100}) {
            float[] values = new float[160 - from];
            tensor.read(from, values, values.length);
            assertArrayEquals(Arrays.copyOfRange(all, from, 160), values);
        }
    }
}
