package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Objects;

/**
 * One allocation of a CUDA context, shared by all buffers that are parts of it. Kernels run behind the calls that enqueue
 * them; this remembers the last call whose kernels use the memory, so that Java waits for them where it must. Memory of
 * the device itself is copied in the order of the calls and needs no waiting.
 */
final class DeviceMemory {
    final boolean onDevice;

    private final Context context;
    private long lastRead;
    private long lastWritten;

    DeviceMemory(Context context, boolean onDevice) {
        this.context = context;
        this.onDevice = onDevice;
    }

    void readByKernels() {
        lastRead = context.nextCall();
    }

    void writtenByKernels() {
        lastWritten = context.nextCall();
    }

    void awaitWriters() {
        context.await(lastWritten);
    }

    void awaitAll() {
        context.await(Math.max(lastRead, lastWritten));
    }

    void clear(MemorySegment memory) {
        requireWritable(memory);
        context.clear(memory);
    }

    /** Copies bytes of a Java array to the device. */
    void write(MemorySegment memory, long offset, MemorySegment source, long from, long bytes) {
        Objects.checkFromIndexSize(offset, bytes, memory.byteSize());
        Objects.checkFromIndexSize(from, bytes, source.byteSize());
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment copy = scratch.allocate(Math.max(bytes, 1), 64).asSlice(0, bytes);
            MemorySegment.copy(source, from, copy, 0, bytes);
            copy(copy, memory.asSlice(offset, bytes));
        }
    }

    /** Copies bytes of the device to a Java array. */
    void read(MemorySegment memory, long offset, MemorySegment target, long from, long bytes) {
        Objects.checkFromIndexSize(offset, bytes, memory.byteSize());
        Objects.checkFromIndexSize(from, bytes, target.byteSize());
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment copy = scratch.allocate(Math.max(bytes, 1), 64).asSlice(0, bytes);
            copy(memory.asSlice(offset, bytes), copy);
            MemorySegment.copy(copy, 0, target, from, bytes);
        }
    }

    /** A copy that the host reads. */
    MemorySegment onHost(MemorySegment memory) {
        MemorySegment copy = Arena.ofAuto().allocate(memory.byteSize(), 64);
        copy(memory, copy);
        return copy;
    }

    /** The four bytes at an offset. */
    MemorySegment one(MemorySegment memory, long offset) {
        byte[] bytes = new byte[4];
        read(memory, offset, MemorySegment.ofArray(bytes), 0, 4);
        return MemorySegment.ofArray(bytes);
    }

    void copy(MemorySegment from, MemorySegment to) {
        requireWritable(to);
        if (to.byteSize() > 0) context.copy(from, to);
    }

    private static void requireWritable(MemorySegment memory) {
        if (memory.isReadOnly()) throw new IllegalArgumentException("the buffer is read-only");
    }
}
