package dev.fathom;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Objects;

/**
 * Native memory that kernels read and write: from {@link Context#allocate}, {@link Context#allocateShared} or
 * {@link Context#wrap}. Its life is that of the arena or context it came from; any use after that throws
 * IllegalStateException. Kernels accept a buffer that is larger than they need.
 *
 * <p>On a CUDA context {@code allocate} gives memory of the device: reading and writing it here copies, in the order of
 * the calls. Shared memory is reached in place; where a kernel that was called before writes it, or still reads it,
 * access waits for that kernel.
 *
 * <p>All offsets and sizes are in bytes, indices in elements. A range outside the buffer throws
 * IndexOutOfBoundsException.
 */
public final class Buffer {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED;
    private static final ValueLayout.OfByte BYTE = ValueLayout.JAVA_BYTE;

    private final MemorySegment segment;
    /** What a CUDA context knows of the allocation; null for memory that belongs to the host alone. */
    private final DeviceMemory cuda;

    /** Refuses memory on the Java heap, which kernels cannot reach. */
    Buffer(MemorySegment segment) {
        this(Check.notNull("segment", segment), null);
    }

    Buffer(MemorySegment segment, DeviceMemory cuda) {
        if (!segment.isNative()) {
            throw new IllegalArgumentException("segment must be native memory, got one on the Java heap;"
                    + " allocate a buffer and write the array into it");
        }
        this.segment = segment;
        this.cuda = cuda;
    }

    public long bytes() {
        return segment.byteSize();
    }

    /** Whether this is memory of a CUDA device, which Java reaches by copies only. */
    public boolean onDevice() {
        return cuda != null && cuda.onDevice;
    }

    /**
     * The memory itself.
     *
     * @throws UnsupportedOperationException for memory of a device
     */
    public MemorySegment segment() {
        if (onDevice()) {
            throw new UnsupportedOperationException("memory of a CUDA device cannot be reached from Java;"
                    + " read and write copy it, allocateShared gives memory that both reach");
        }
        return writable();
    }

    /** The memory as a call takes it that enqueues kernels. */
    MemorySegment readByKernels() {
        if (cuda != null) cuda.readByKernels();
        return segment;
    }

    MemorySegment writtenByKernels() {
        if (cuda != null) cuda.writtenByKernels();
        return segment;
    }

    /** The same for what the call itself reads before it returns: rows, lists, indices. Of a device it gets a copy. */
    MemorySegment readByCall() {
        return onDevice() ? cuda.onHost(segment) : readable();
    }

    /** The memory, when no kernel writes it any more. */
    private MemorySegment readable() {
        if (cuda != null) cuda.awaitWriters();
        return segment;
    }

    /** The memory, when no kernel reads or writes it any more. */
    private MemorySegment writable() {
        if (cuda != null) cuda.awaitAll();
        return segment;
    }

    /** Part of this buffer; it shares the memory. */
    public Buffer slice(long offset, long bytes) {
        return new Buffer(segment.asSlice(offset, bytes), cuda);
    }

    /** This buffer for reading only: kernels refuse to write it. */
    public Buffer asReadOnly() {
        return new Buffer(segment.asReadOnly(), cuda);
    }

    /** Sets every byte to zero. */
    public Buffer clear() {
        if (onDevice()) cuda.clear(segment);
        else writable().fill((byte) 0);
        return this;
    }

    public Buffer write(float[] source) {
        return write(0, source, 0, source.length);
    }

    public Buffer write(int[] source) {
        return write(0, source, 0, source.length);
    }

    public Buffer write(short[] source) {
        return write(0, source, 0, source.length);
    }

    public Buffer write(long[] source) {
        return write(0, source, 0, source.length);
    }

    public Buffer write(byte[] source) {
        return write(0, source, 0, source.length);
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, float[] source, int from, int count) {
        if (onDevice()) cuda.write(segment, offset, MemorySegment.ofArray(source), 4L * from, 4L * count);
        else MemorySegment.copy(source, from, writable(), FLOAT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, int[] source, int from, int count) {
        if (onDevice()) cuda.write(segment, offset, MemorySegment.ofArray(source), 4L * from, 4L * count);
        else MemorySegment.copy(source, from, writable(), INT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, short[] source, int from, int count) {
        if (onDevice()) cuda.write(segment, offset, MemorySegment.ofArray(source), 2L * from, 2L * count);
        else MemorySegment.copy(source, from, writable(), SHORT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, long[] source, int from, int count) {
        if (onDevice()) cuda.write(segment, offset, MemorySegment.ofArray(source), 8L * from, 8L * count);
        else MemorySegment.copy(source, from, writable(), LONG, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, byte[] source, int from, int count) {
        if (onDevice()) cuda.write(segment, offset, MemorySegment.ofArray(source), from, count);
        else MemorySegment.copy(source, from, writable(), BYTE, offset, count);
        return this;
    }

    public void read(float[] target) {
        read(0, target, 0, target.length);
    }

    public void read(int[] target) {
        read(0, target, 0, target.length);
    }

    public void read(short[] target) {
        read(0, target, 0, target.length);
    }

    public void read(long[] target) {
        read(0, target, 0, target.length);
    }

    public void read(byte[] target) {
        read(0, target, 0, target.length);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, float[] target, int from, int count) {
        if (onDevice()) cuda.read(segment, offset, MemorySegment.ofArray(target), 4L * from, 4L * count);
        else MemorySegment.copy(readable(), FLOAT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, int[] target, int from, int count) {
        if (onDevice()) cuda.read(segment, offset, MemorySegment.ofArray(target), 4L * from, 4L * count);
        else MemorySegment.copy(readable(), INT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, short[] target, int from, int count) {
        if (onDevice()) cuda.read(segment, offset, MemorySegment.ofArray(target), 2L * from, 2L * count);
        else MemorySegment.copy(readable(), SHORT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, long[] target, int from, int count) {
        if (onDevice()) cuda.read(segment, offset, MemorySegment.ofArray(target), 8L * from, 8L * count);
        else MemorySegment.copy(readable(), LONG, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, byte[] target, int from, int count) {
        if (onDevice()) cuda.read(segment, offset, MemorySegment.ofArray(target), from, count);
        else MemorySegment.copy(readable(), BYTE, offset, target, from, count);
    }

    /** Copies {@code bytes} from {@code offset} to {@code targetOffset} of another buffer. */
    public void copy(long offset, Buffer target, long targetOffset, long bytes) {
        DeviceMemory through = onDevice() ? cuda : target.onDevice() ? target.cuda : null;
        if (through == null) MemorySegment.copy(readable(), offset, target.writable(), targetOffset, bytes);
        else through.copy(segment.asSlice(offset, bytes), target.segment.asSlice(targetOffset, bytes));
    }

    public float getFloat(long index) {
        return onDevice() ? cuda.one(segment, offset(index)).get(FLOAT, 0) : readable().get(FLOAT, offset(index));
    }

    public void setFloat(long index, float value) {
        if (onDevice()) write(offset(index), new float[] {value}, 0, 1);
        else writable().set(FLOAT, offset(index), value);
    }

    public int getInt(long index) {
        return onDevice() ? cuda.one(segment, offset(index)).get(INT, 0) : readable().get(INT, offset(index));
    }

    public void setInt(long index, int value) {
        if (onDevice()) write(offset(index), new int[] {value}, 0, 1);
        else writable().set(INT, offset(index), value);
    }

    /** Of an element of 4 bytes. Checked before it is multiplied, which could wrap around. */
    private long offset(long index) {
        return 4 * Objects.checkIndex(index, bytes() / 4);
    }

    @Override
    public String toString() {
        return "Buffer[" + bytes() + " bytes" + (onDevice() ? " of a CUDA device" : "")
                + (segment.isReadOnly() ? ", read-only]" : "]");
    }
}
