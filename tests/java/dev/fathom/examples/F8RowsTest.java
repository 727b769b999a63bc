package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import dev.fathom.DType;

/** FP8 checkpoints as quantisers write them: codes, and scales in tensors of their own. */
class F8RowsTest {
    private static final int[] TEXT = new Random(3).ints(60, 32, 127).toArray();

    @TempDir
    Path directory;

    /** Every code, and what is halfway between two: to the even one. */
    @Test
    void codesAreNearest() {
        for (int code = 0; code < 127; code++) {
            int exponent = code >> 3;
            double value = exponent == 0 ? Math.scalb(code, -9) : Math.scalb(8 + code % 8, exponent - 10);
            assertEquals((float) value, F8Rows.decode((byte) code));
            assertEquals((float) -value, F8Rows.decode((byte) (code | 0x80)));
            assertEquals(code, F8Rows.encode((float) value));
            assertEquals((byte) (code | 0x80), F8Rows.encode((float) -value));
            if (code == 126) continue;
            float next = F8Rows.decode((byte) (code + 1));
            float middle = (float) ((value + next) / 2);
            assertEquals(code % 2 == 0 ? code : code + 1, F8Rows.encode(middle));
            assertEquals(code, F8Rows.encode(Math.nextDown(middle)));
            assertEquals(code + 1, F8Rows.encode(Math.nextUp(middle)));
        }
        assertTrue(Float.isNaN(F8Rows.decode((byte) 0x7f)) && Float.isNaN(F8Rows.decode((byte) 0xff)));
        assertEquals(0x7e, F8Rows.encode(1e9f));
        assertEquals((byte) 0xfe, F8Rows.encode(Float.NEGATIVE_INFINITY));
        assertEquals(0, F8Rows.encode(Float.NaN));
    }

    /** The linears' weights become codes of random size; returns the same model with their values in f32. */
    private static TestModel quantise(TestModel model, String scales) throws IOException {
        TestModel values = TestModel.random(DType.F32, true);
        Random random = new Random(11);
        for (String name : List.copyOf(model.weights.keySet())) {
            TestModel.Weight weight = model.weights.get(name);
            values.weights.put(name, weight);
            if (!Linear.isWeight(name)) continue;
            int rows = (int) weight.shape()[0];
            int columns = (int) weight.shape()[1];
            byte[] codes = new byte[rows * columns];
            for (int i = 0; i < codes.length; i++) codes[i] = (byte) (random.nextInt(0x70) | random.nextInt(2) << 7);
            boolean one = scales.startsWith("one") || scales.equals("none");
            float[] scale = new float[one ? 1 : rows];
            for (int i = 0; i < scale.length; i++) {
                scale[i] = scales.equals("none") ? 1 : (1 + random.nextInt(100)) * 0x1p-15f; // exact in bf16
            }
            float[] decoded = new float[codes.length];
            for (int i = 0; i < codes.length; i++) {
                decoded[i] = scale[one ? 0 : i / columns] * F8Rows.decode(codes[i]);
            }
            values.weights.put(name, TestModel.weight(DType.F32, decoded, rows, columns));
            model.weights.put(name, new TestModel.Weight("F8_E4M3", weight.shape(), codes));
            DType type = scales.endsWith("bf16") ? DType.BF16 : DType.F32;
            long[] shape = scales.startsWith("one") ? new long[] {} : scales.startsWith("rows") ? new long[] {rows, 1}
                    : new long[] {rows};
            if (scales.equals("none")) continue;
            model.weights.put(name + "_scale", TestModel.weight(type, scale, shape));
            model.weights.put(name.replace(".weight", ".input_scale"),
                    TestModel.weight(DType.F32, new float[] {0.5f}, 1));
        }
        return values;
    }

    private static double[] nll(Path model, DType type) {
        List<String> notes = new ArrayList<>();
        try (LanguageModel opened = TestModel.open(model, type, notes)) {
            assertEquals(List.of(), notes);
            return new Scorer(opened, 64, 32).score(List.of(TEXT), done -> { }).getFirst().nll();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"rows", "rows bf16", "vector", "one", "one bf16", "none"})
    void checkpointsAreReadAsTheyAre(String scales) throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        TestModel values = quantise(model, scales);
        model.write(directory);
        for (String name : model.weights.keySet()) {
            if (!Linear.isWeight(name)) continue;
            Tensor tensor = TestModel.tensors(directory).get(name);
            assertArrayEquals(TestModel.floats(values.weights.get(name)), tensor.toFloats(), name);
            assertEquals(tensor.elements() * 4, values.weights.get(name).data().length);
            int columns = (int) tensor.shape()[1];
            byte[] row = new byte[4 + columns]; // the third, in two pieces that do not end where numbers do
            long at = tensor.bytes(2L * columns);
            tensor.copy(at, MemorySegment.ofArray(row).asSlice(0, 3));
            tensor.copy(at + 3, MemorySegment.ofArray(row).asSlice(3));
            float scale = ByteBuffer.wrap(row).order(ByteOrder.LITTLE_ENDIAN).getFloat();
            assertEquals(tensor.toFloats()[2 * columns + 5], scale * F8Rows.decode(row[4 + 5]));
        }
        double[] kept = nll(directory, null);
        double[] floats = nll(directory, DType.F32);
        Path other = Files.createDirectory(directory.resolve("other"));
        assertArrayEquals(nll(values.write(other), DType.F32), floats);
        double sum = 0;
        for (int i = 0; i < kept.length; i++) sum += kept[i] - floats[i];
        assertEquals(0, sum / kept.length, 0.1); // activations and K,V in bf16
    }

    @Test
    void otherScalesAreRefused() throws IOException {
        TestModel model = TestModel.random(DType.F32, true);
        quantise(model, "rows");
        String name = "model.layers.1.mlp.up_proj.weight";
        TestModel.Weight sound = model.weights.get(name + "_scale");
        model.weights.put(name + "_scale", TestModel.weight(DType.F32, new float[48], 48, 1));
        refused(model, "Tensor " + name + "_scale must hold one number, or one for each of the 96 rows");
        model.weights.put(name + "_scale", sound);
        model.weights.put(name + "_scale_inv", TestModel.weight(DType.F32, new float[1], 1, 1));
        refused(model, name + "_scale_inv), which are not supported");
        model.weights.remove(name + "_scale_inv");
        model.weights.put("model.norm.weight", new TestModel.Weight("F8_E4M3", new long[] {64}, new byte[64]));
        refused(model, "model.norm.weight is F8_E4M3 and no matrix");
    }

    private void refused(TestModel model, String sentence) throws IOException {
        model.write(directory);
        UserException e = assertThrows(UserException.class, () -> nll(directory, null));
        assertTrue(e.getMessage().contains(sentence), e.getMessage());
    }
}
