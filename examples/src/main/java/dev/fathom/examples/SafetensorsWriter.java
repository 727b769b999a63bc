package dev.fathom.examples;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;

/**
 * Writes a safetensors file whose tensors are known beforehand. Their elements may come in pieces, in any order and
 * from any thread: each has its place in the file from the start.
 */
final class SafetensorsWriter implements AutoCloseable {
    /** Of the data, so that tensors of a mapped file are aligned. */
    private static final int ALIGNMENT = 64;
    private static final int PIECE = 1 << 16;

    record Entry(String name, DType type, long... shape) {
        long elements() {
            long elements = 1;
            for (long size : shape) elements = Math.multiplyExact(elements, size);
            return elements;
        }

        long bytes() {
            return Elements.bytes(type, elements());
        }

        /** Rows of blocks are rows of bytes. */
        private long[] storedShape() {
            long[] stored = shape.clone();
            if (inBlocks()) stored[stored.length - 1] = Elements.bytes(type, stored[stored.length - 1]);
            return stored;
        }

        private int alignment() {
            return inBlocks() ? 1 : type.bytes();
        }

        private boolean inBlocks() {
            return type.blockSize() > 1;
        }
    }

    private record Place(Entry entry, long offset) {}

    private final FileChannel channel;
    private final Map<String, Place> places = new LinkedHashMap<>();
    private final AtomicLong missing;

    SafetensorsWriter(Path file, List<Entry> entries) throws IOException {
        ObjectNode header = JsonNodeFactory.instance.objectNode();
        ObjectNode metadata = header.putObject("__metadata__").put("format", "pt");
        long end = 0;
        // The widest types first, bytes last: every tensor then begins at a multiple of its element.
        for (Entry entry : entries.stream().sorted(Comparator.comparingInt(e -> -e.alignment())).toList()) {
            ObjectNode node = header.putObject(entry.name);
            if (entry.inBlocks()) {
                metadata.put(Safetensors.BLOCKS + entry.name, entry.type.name());
                node.put("dtype", "U8");
            } else {
                node.put("dtype", entry.type.name());
            }
            for (long size : entry.storedShape()) node.withArray("shape").add(size);
            node.putArray("data_offsets").add(end).add(end + entry.bytes());
            if (places.put(entry.name, new Place(entry, end)) != null) {
                throw new IllegalArgumentException("tensor " + entry.name + " is there twice");
            }
            end += entry.bytes();
        }
        byte[] json = Json.bytes(header);
        int length = Math.ceilDiv(8 + json.length, ALIGNMENT) * ALIGNMENT;
        ByteBuffer beginning = ByteBuffer.allocate(length).order(ByteOrder.LITTLE_ENDIAN).putLong(length - 8).put(json);
        while (beginning.hasRemaining()) beginning.put((byte) ' ');
        places.replaceAll((name, place) -> new Place(place.entry, length + place.offset));
        missing = new AtomicLong(end);
        channel = FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        try {
            write(beginning.flip(), 0);
        } catch (IOException | RuntimeException e) {
            channel.close();
            throw e;
        }
    }

    /**
     * The first {@code count} of values to the tensor's elements from {@code from} on. Each must be written once; rows
     * of FP8 whole, and with them their scales, which are a tensor of their own.
     */
    void write(String name, long from, float[] values, int count) throws IOException {
        Place place = places.get(name);
        DType type = place.entry.type;
        if (type == DType.F8_E4M3) {
            writeRows(place, from, values, count);
            return;
        }
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes = arena.allocate(Elements.bytes(type, count));
            Elements.encode(type, values, count, bytes);
            requireFinite(name, type, from, bytes, count);
            write(bytes.asByteBuffer(), place.offset + Elements.bytes(type, from));
            missing.addAndGet(-bytes.byteSize());
        }
    }

    private void writeRows(Place place, long from, float[] values, int count) throws IOException {
        String name = place.entry.name;
        int columns = Math.toIntExact(place.entry.shape[1]);
        float[] scales = new float[columns == 0 ? 0 : count / columns];
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment codes = arena.allocate(count);
            for (int row = 0; row < scales.length; row++) {
                int at = row * columns;
                scales[row] = F8Rows.encode(values, at, columns, codes.asSlice(at, columns));
                for (int i = at; i < at + columns; i++) {
                    if (!Float.isFinite(values[i])) throw notFinite(name, from + i, values[i], DType.F8_E4M3);
                }
            }
            write(codes.asByteBuffer(), place.offset + from);
            missing.addAndGet(-count);
        }
        if (scales.length > 0) write(F8Rows.scaleName(name), from / columns, scales, scales.length);
    }

    private static void requireFinite(String name, DType type, long from, MemorySegment bytes, int count) {
        float[] stored = new float[count];
        Elements.decode(type, bytes, stored, 0, count);
        for (int i = 0; i < count; i++) {
            if (!Float.isFinite(stored[i])) throw notFinite(name, from + i, stored[i], type);
        }
    }

    private static UserException notFinite(String name, long element, float value, DType type) {
        return new UserException("Element " + element + " of tensor " + name + " is " + value + " as " + type
                + ", expected a finite number.");
    }

    /** The whole tensor. */
    void write(String name, float[] values) throws IOException {
        float[] piece = new float[Math.min(PIECE, values.length)];
        for (int from = 0; from < values.length; from += PIECE) {
            int count = Math.min(PIECE, values.length - from);
            System.arraycopy(values, from, piece, 0, count);
            write(name, from, piece, count);
        }
    }

    private void write(ByteBuffer bytes, long at) throws IOException {
        while (bytes.hasRemaining()) at += channel.write(bytes, at);
    }

    /** To be called when everything has been written: the file is then on the disk. */
    void finish() throws IOException {
        if (missing.get() != 0) throw new IllegalStateException(missing + " bytes of tensors were not written");
        channel.force(true);
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }
}
