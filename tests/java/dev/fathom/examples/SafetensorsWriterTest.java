package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.IntStream;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import dev.fathom.DType;
import dev.fathom.examples.SafetensorsWriter.Entry;

class SafetensorsWriterTest {
    @TempDir
    Path directory;
    private Path file;

    @BeforeEach
    void name() {
        file = directory.resolve("file");
    }

    private Map<String, Tensor> read() throws IOException {
        return Safetensors.read("file", Contents.of(Files.readAllBytes(file)));
    }

    @Test
    void piecesComeInAnyOrderFromAnyThread() throws IOException {
        float[] values = new float[1000];
        for (int i = 0; i < values.length; i++) values[i] = i * 0.25f;
        try (SafetensorsWriter writer = new SafetensorsWriter(file, List.of(new Entry("half", DType.BF16, 3),
                new Entry("big", DType.F32, 10, 100), new Entry("none", DType.F32, 0, 7)))) {
            IntStream.range(0, 10).parallel().forEach(i -> {
                float[] piece = new float[120]; // longer than what is written of it
                System.arraycopy(values, 900 - 100 * i, piece, 0, 100);
                try {
                    writer.write("big", 900 - 100 * i, piece, 100);
                } catch (IOException e) {
                    throw new AssertionError(e);
                }
            });
            writer.write("half", 2, new float[] {-3}, 1);
            writer.write("half", 0, new float[] {1, 1.00390625f}, 2);
            writer.finish();
        }
        Map<String, Tensor> tensors = read();
        assertEquals(3, tensors.size());
        assertArrayEquals(values, tensors.get("big").toFloats());
        assertTrue(tensors.get("big").hasShape(10, 100));
        assertArrayEquals(new float[] {1, 1, -3}, tensors.get("half").toFloats()); // a tie goes to even
        assertTrue(tensors.get("none").hasShape(0, 7));
    }

    @Test
    void everyTensorIsAligned() throws IOException {
        try (SafetensorsWriter writer = new SafetensorsWriter(file, List.of(new Entry("a", DType.F16, 3),
                new Entry("b", DType.F32, 1), new Entry("c", DType.BF16, 1), new Entry("d", DType.F32, 5)))) {
            writer.write("a", new float[3]);
            writer.write("b", new float[1]);
            writer.write("c", new float[1]);
            writer.write("d", new float[5]);
            writer.finish();
        }
        byte[] bytes = Files.readAllBytes(file);
        long header = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong();
        assertEquals(0, (8 + header) % 64);
        assertTrue(new String(bytes, 8, (int) header, StandardCharsets.UTF_8)
                .startsWith("{\"__metadata__\":{\"format\":\"pt\"},"));
        for (Tensor tensor : Safetensors.read("file", Contents.of(bytes)).values()) {
            assertEquals(0, tensor.offset() % tensor.type().bytes(), tensor.name());
        }
    }

    @Test
    void longTensorsAreWrittenWhole() throws IOException {
        float[] values = new float[200_001];
        Random random = new Random(1);
        for (int i = 0; i < values.length; i++) values[i] = random.nextFloat();
        try (SafetensorsWriter writer = new SafetensorsWriter(file, List.of(new Entry("a", DType.F32, 200_001)))) {
            writer.write("a", values);
            writer.finish();
        }
        assertArrayEquals(values, read().get("a").toFloats());
    }

    @Test
    void whatTheTypeCannotHoldIsRefused() throws IOException {
        try (SafetensorsWriter writer = new SafetensorsWriter(file, List.of(new Entry("a", DType.F16, 4),
                new Entry("b", DType.BF16, 4), new Entry("c", DType.F32, 4)))) {
            float[] large = {0, 65504, 65520, 0};
            String message = assertThrows(UserException.class, () -> writer.write("a", large)).getMessage();
            assertEquals("Element 2 of tensor a is Infinity as F16, expected a finite number.", message);
            assertThrows(UserException.class, () -> writer.write("b", new float[] {0, 0, 0, Float.MAX_VALUE}));
            writer.write("c", new float[] {0, 0, 0, Float.MAX_VALUE});
            assertThrows(UserException.class, () -> writer.write("c", new float[] {Float.NaN, 0, 0, 0}));
            assertThrows(UserException.class, () -> writer.write("c", new float[] {Float.NEGATIVE_INFINITY, 0, 0, 0}));
        }
    }

    @Test
    void mistakesOfTheProgramAreFound() throws IOException {
        assertThrows(IllegalArgumentException.class, () -> new SafetensorsWriter(file,
                List.of(new Entry("a", DType.F32, 1), new Entry("a", DType.F32, 1))));
        try (SafetensorsWriter writer = new SafetensorsWriter(file, List.of(new Entry("a", DType.F32, 2)))) {
            writer.write("a", 0, new float[1], 1);
            assertThrows(IllegalStateException.class, writer::finish);
        }
        assertThrows(IOException.class, () -> new SafetensorsWriter(file, List.of())); // the file is there
    }

    @Test
    void elementsRoundToTheNearest() {
        assertEquals(1f, round(DType.BF16, 1 + 0x1p-8f)); // half way, to even
        assertEquals(1 + 0x1p-6f, round(DType.BF16, 1 + 0x1.8p-7f)); // half way, to even
        assertEquals(1 + 0x1p-7f, round(DType.BF16, Math.nextUp(1 + 0x1p-8f)));
        assertEquals(-2f, round(DType.BF16, Math.nextDown(-2f)));
        assertEquals(Float.POSITIVE_INFINITY, round(DType.BF16, Float.MAX_VALUE));
        assertTrue(Float.isNaN(round(DType.BF16, Float.intBitsToFloat(0x7f800001))));
        assertEquals(1f, round(DType.F16, 1 + 0x1p-11f));
        assertEquals(0.1f, round(DType.F32, 0.1f));
    }

    private static float round(DType type, float value) {
        float[] values = {value};
        Elements.round(type, values, 1);
        return values[0];
    }
}
