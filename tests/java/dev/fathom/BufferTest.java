package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.function.Consumer;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Buffers and rows: every way in and out, and that no index reaches outside. */
class BufferTest {
    private Context context;
    private Arena arena;

    @BeforeEach
    void open() {
        context = Context.cpu(1);
        arena = Arena.ofConfined();
    }

    @AfterEach
    void close() {
        arena.close();
        context.close();
    }

    private Buffer buffer(long bytes) {
        return context.allocate(arena, bytes);
    }

    @Test
    void floats() {
        float[] read = new float[4];
        buffer(12).write(new float[] {1, -2, 0.5f}).read(0, read, 1, 3);
        assertArrayEquals(new float[] {0, 1, -2, 0.5f}, read);
        Buffer buffer = buffer(16).write(8, new float[] {7, 8, 9}, 1, 2);
        buffer.read(read);
        assertArrayEquals(new float[] {0, 0, 8, 9}, read);
        buffer.setFloat(1, 4);
        assertEquals(4, buffer.getFloat(1));
        assertEquals(9, buffer.getFloat(3));
    }

    @Test
    void ints() {
        int[] read = new int[4];
        buffer(12).write(new int[] {1, -2, 3}).read(0, read, 1, 3);
        assertArrayEquals(new int[] {0, 1, -2, 3}, read);
        Buffer buffer = buffer(16).write(8, new int[] {7, 8, 9}, 1, 2);
        buffer.read(read);
        assertArrayEquals(new int[] {0, 0, 8, 9}, read);
        buffer.setInt(1, -4);
        assertEquals(-4, buffer.getInt(1));
        assertEquals(9, buffer.getInt(3));
    }

    @Test
    void shorts() {
        short[] read = new short[4];
        buffer(6).write(new short[] {1, -2, 3}).read(0, read, 1, 3);
        assertArrayEquals(new short[] {0, 1, -2, 3}, read);
        buffer(8).write(4, new short[] {7, 8, 9}, 1, 2).read(read);
        assertArrayEquals(new short[] {0, 0, 8, 9}, read);
    }

    @Test
    void longs() {
        long[] read = new long[4];
        buffer(24).write(new long[] {1, -2, 1L << 40}).read(0, read, 1, 3);
        assertArrayEquals(new long[] {0, 1, -2, 1L << 40}, read);
        buffer(32).write(16, new long[] {7, 8, 9}, 1, 2).read(read);
        assertArrayEquals(new long[] {0, 0, 8, 9}, read);
    }

    @Test
    void bytes() {
        byte[] read = new byte[4];
        buffer(3).write(new byte[] {1, -2, 3}).read(0, read, 1, 3);
        assertArrayEquals(new byte[] {0, 1, -2, 3}, read);
        buffer(4).write(2, new byte[] {7, 8, 9}, 1, 2).read(read);
        assertArrayEquals(new byte[] {0, 0, 8, 9}, read);
    }

    @Test
    void elementsAreLittleEndianAndNeedNoAlignment() {
        byte[] read = new byte[5];
        buffer(5).write(1, new int[] {0x04030201}, 0, 1).read(read);
        assertArrayEquals(new byte[] {0, 1, 2, 3, 4}, read);
    }

    @Test
    void partsShareTheMemory() {
        Buffer whole = buffer(16).write(new int[] {1, 2, 3, 4});
        Buffer part = whole.slice(4, 8);
        assertEquals(8, part.bytes());
        part.setInt(0, 20);
        assertEquals(20, whole.getInt(1));
        whole.copy(4, buffer(0).slice(0, 0), 0, 0);
        Buffer other = buffer(16);
        whole.copy(4, other, 8, 8);
        assertEquals(20, other.getInt(2));
        assertEquals(3, other.getInt(3));
        assertEquals(0, whole.slice(16, 0).bytes());
        part.clear();
        int[] read = new int[4];
        whole.read(read);
        assertArrayEquals(new int[] {1, 0, 0, 4}, read);
        String where = context.info().cuda() ? " of a CUDA device" : "";
        assertEquals("Buffer[16 bytes" + where + "]", whole.toString());
        assertEquals("Buffer[8 bytes" + where + ", read-only]", part.asReadOnly().toString());
        Buffer shared = context.allocateShared(16);
        assertEquals(shared.segment(), context.wrap(shared.segment()).segment());
    }

    @Test
    void readOnlyMemoryIsNotWritten() {
        Buffer constant = buffer(16).asReadOnly();
        for (Consumer<Buffer> writing : List.<Consumer<Buffer>>of(b -> b.setFloat(0, 1), b -> b.setInt(0, 1),
                b -> b.write(new float[1]), b -> b.write(new byte[1]), Buffer::clear,
                b -> b.copy(0, constant, 8, 8))) {
            assertThrows(IllegalArgumentException.class, () -> writing.accept(constant));
        }
        assertEquals(0, constant.getInt(3));
    }

    /** Among them those whose offset in bytes wraps around to one inside. */
    @ParameterizedTest
    @ValueSource(longs = {-1, 4, 5, 1L << 30, 1L << 61, 1L << 62, (1L << 62) + 1, (3L << 62) + 2, 1L << 63,
            (1L << 63) + 1, Long.MAX_VALUE, -(1L << 62)})
    void indicesOutsideAreRefused(long index) {
        Buffer buffer = buffer(19);
        for (Consumer<Buffer> use : List.<Consumer<Buffer>>of(b -> b.getFloat(index), b -> b.setFloat(index, 1),
                b -> b.getInt(index), b -> b.setInt(index, 1))) {
            assertThrows(IndexOutOfBoundsException.class, () -> use.accept(buffer));
        }
        int[] zeros = new int[4];
        buffer.read(zeros);
        assertArrayEquals(new int[4], zeros);
    }

    @Test
    void rangesOutsideAreRefused() {
        Buffer buffer = buffer(16);
        for (Consumer<Buffer> use : List.<Consumer<Buffer>>of(b -> b.write(new float[5]), b -> b.read(new float[5]),
                b -> b.write(new int[5]), b -> b.read(new int[5]), b -> b.write(new short[9]),
                b -> b.read(new short[9]), b -> b.write(new long[3]), b -> b.read(new long[3]),
                b -> b.write(new byte[17]), b -> b.read(new byte[17]), b -> b.write(13, new int[1], 0, 1),
                b -> b.write(-1, new int[1], 0, 1), b -> b.write(0, new int[1], 0, 2),
                b -> b.write(0, new int[1], -1, 1), b -> b.read(0, new int[1], 1, 1),
                b -> b.read(Long.MAX_VALUE, new int[1], 0, 1),
                b -> b.write(0, new int[1], 0, -1), b -> b.slice(8, 9), b -> b.slice(-1, 1), b -> b.slice(0, -1),
                b -> b.slice(Long.MAX_VALUE, 1), b -> b.copy(0, b, 9, 8), b -> b.copy(Long.MAX_VALUE, b, 0, 8),
                b -> b.copy(0, b, 0, -1))) {
            assertThrows(IndexOutOfBoundsException.class, () -> use.accept(buffer));
        }
    }

    // ---- rows ----------------------------------------------------------------------------------------------------

    @Test
    void freshRowsAreCleared() {
        for (Rows rows : List.of(Rows.allocate(context, 3), Rows.allocate(context, arena, 3))) {
            assertEquals(3, rows.capacity());
            for (int i = 0; i < 3; i++) {
                assertEquals("0 -1 0 0 0 0 -1 0", fields(rows, i));
            }
        }
    }

    private static String fields(Rows rows, int i) {
        return rows.list(i) + " " + rows.tree(i) + " " + rows.visible(i) + " " + rows.start(i) + " "
                + rows.position(i) + " " + rows.depth(i) + " " + rows.entry(i) + " " + rows.sequence(i);
    }

    @Test
    void fieldsDoNotTouchOneAnother() {
        Rows rows = Rows.allocate(context, arena, 3);
        rows.list(1, 1L << 40).tree(1, 5).visible(1, 2).start(1, 3).position(1, 4).depth(1, 6).entry(1, 7)
                .sequence(1, 8);
        assertEquals("1099511627776 5 2 3 4 6 7 8", fields(rows, 1));
        assertEquals("0 -1 0 0 0 0 -1 0", fields(rows, 0));
        assertEquals("0 -1 0 0 0 0 -1 0", fields(rows, 2));
        rows.set(1, 10, 11, 12, 13, 14);
        assertEquals("10 5 11 3 12 13 14 8", fields(rows, 1));
        rows.clear(1);
        assertEquals("0 -1 0 0 0 0 -1 0", fields(rows, 1));
    }

    @Test
    void memoryOfADeviceIsCopiedOnly() {
        assumeTrue(context.info().cuda());
        Buffer device = context.allocate(16);
        assertThrows(UnsupportedOperationException.class, device::segment);
        assertThrows(UnsupportedOperationException.class, () -> Rows.of(device));
        assertThrows(IllegalArgumentException.class, () -> device.asReadOnly().clear());
        Buffer shared = context.allocateShared(16).write(new int[] {1, 2, 3, 4});
        shared.copy(4, device, 0, 12);
        device.setInt(3, 5);
        device.copy(8, shared, 0, 8);
        int[] read = new int[4];
        shared.read(read);
        assertArrayEquals(new int[] {4, 5, 3, 4}, read);
    }

    @Test
    void rowsOfABuffer() {
        Buffer buffer = context.allocateShared(3 * Rows.BYTES + 39);
        Rows rows = Rows.of(buffer);
        assertEquals(3, rows.capacity());
        assertEquals("0 0 0 0 0 0 0 0", fields(rows, 0)); // as they are
        rows.entry(2, 9);
        assertEquals(9, Rows.of(rows.buffer()).entry(2));
        assertEquals(0, Rows.of(context.allocateShared(39)).capacity());
        for (int i : new int[] {-1, 4, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
            assertThrows(IndexOutOfBoundsException.class, () -> rows.depth(i));
            assertThrows(IndexOutOfBoundsException.class, () -> rows.depth(i, 1));
            assertThrows(IndexOutOfBoundsException.class, () -> rows.clear(i));
        }
    }

    @Test
    void slicesOfRowsShareTheMemory() {
        Rows rows = Rows.allocate(context, arena, 4);
        Rows middle = rows.slice(1, 2);
        assertEquals(2, middle.capacity());
        middle.position(1, 7);
        assertEquals(7, rows.position(2));
        assertEquals(0, rows.slice(4, 0).capacity());
        assertThrows(IndexOutOfBoundsException.class, () -> middle.position(2));
        for (int[] range : new int[][] {{-1, 2}, {3, 2}, {0, 5}, {0, -1}, {Integer.MAX_VALUE, 1}, {5, 0}}) {
            assertThrows(IndexOutOfBoundsException.class, () -> rows.slice(range[0], range[1]));
        }
        // The kernels see the slice from its first row on.
        NormShape shape = new NormShape(NormKind.RMS, 2, 3, 0);
        rows.depth(1, 2).depth(2, 1);
        Buffer gain = buffer(24).write(new float[] {1, 1, 10, 10, 100, 100});
        Buffer y = buffer(16);
        context.norm(shape, 2, middle, buffer(16).write(new float[] {1, 1, 1, 1}), gain, null, y);
        assertEquals(100, y.getFloat(0), 1e-4);
        assertEquals(10, y.getFloat(2), 1e-5);
    }

    // ---- context -------------------------------------------------------------------------------------------------

    @Test
    void theEmptyCallChangesNothing() {
        Buffer[] four = new Buffer[4];
        for (int i = 0; i < 4; i++) four[i] = buffer(4).write(new int[] {i + 1});
        context.nop(new NormShape(NormKind.RMS, 4, 0), four[0], four[1], four[2], four[3]);
        for (int i = 0; i < 4; i++) assertEquals(i + 1, four[i].getInt(0));
        context.close();
        assertThrows(IllegalStateException.class,
                () -> context.nop(new NormShape(NormKind.RMS, 4, 0), four[0], four[1], four[2], four[3]));
    }

    @Test
    void synchronizingFindsTheResultsThere() {
        Buffer x = buffer(8).write(new float[] {3, 4});
        context.norm(new NormShape(NormKind.RMS, 2, 0), 1, null, x, null, null, x);
        context.synchronize();
        assertEquals(3 / Math.sqrt(12.5), x.getFloat(0), 1e-6);
    }

    @Test
    void allocatedMemoryIsZeroAndAligned() {
        for (long bytes : new long[] {0, 1, 4096, (1 << 20) - 1, 1 << 20, (3 << 20) + 5}) {
            for (Buffer buffer : List.of(context.allocate(bytes), buffer(bytes))) {
                assertEquals(bytes, buffer.bytes());
                byte[] read = new byte[1];
                for (long at = 0; at < bytes; at += Math.max(1, bytes / 100)) {
                    buffer.read(at, read, 0, 1);
                    assertEquals(0, read[0]);
                }
                if (!buffer.onDevice()) assertEquals(0, buffer.segment().address() % 64);
            }
        }
    }
}
