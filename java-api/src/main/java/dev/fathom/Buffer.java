package dev.fathom;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Objects;

/**
 * Native memory that kernels read and write: from {@link Context#allocate} or {@link Context#wrap}. Its life is that
 * of the arena or context it came from; any use after that throws IllegalStateException. Kernels accept a buffer that
 * is larger than they need.
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

    /** Refuses memory on the Java heap, which kernels cannot reach. */
    Buffer(MemorySegment segment) {
        if (Check.notNull("segment", segment).isNative()) {
            this.segment = segment;
        } else {
            throw new IllegalArgumentException("segment must be native memory, got one on the Java heap;"
                    + " allocate a buffer and write the array into it");
        }
    }

    public long bytes() {
        return segment.byteSize();
    }

    /** The memory itself. */
    public MemorySegment segment() {
        return segment;
    }

    /** Part of this buffer; it shares the memory. */
    public Buffer slice(long offset, long bytes) {
        return new Buffer(segment.asSlice(offset, bytes));
    }

    /** This buffer for reading only: kernels refuse to write it. */
    public Buffer asReadOnly() {
        return new Buffer(segment.asReadOnly());
    }

    /** Sets every byte to zero. */
    public Buffer clear() {
        segment.fill((byte) 0);
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
        MemorySegment.copy(source, from, segment, FLOAT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, int[] source, int from, int count) {
        MemorySegment.copy(source, from, segment, INT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, short[] source, int from, int count) {
        MemorySegment.copy(source, from, segment, SHORT, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, long[] source, int from, int count) {
        MemorySegment.copy(source, from, segment, LONG, offset, count);
        return this;
    }

    /** Copies {@code source[from .. from + count)} to {@code offset}. */
    public Buffer write(long offset, byte[] source, int from, int count) {
        MemorySegment.copy(source, from, segment, BYTE, offset, count);
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
        MemorySegment.copy(segment, FLOAT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, int[] target, int from, int count) {
        MemorySegment.copy(segment, INT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, short[] target, int from, int count) {
        MemorySegment.copy(segment, SHORT, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, long[] target, int from, int count) {
        MemorySegment.copy(segment, LONG, offset, target, from, count);
    }

    /** Copies from {@code offset} to {@code target[from .. from + count)}. */
    public void read(long offset, byte[] target, int from, int count) {
        MemorySegment.copy(segment, BYTE, offset, target, from, count);
    }

    /** Copies {@code bytes} from {@code offset} to {@code targetOffset} of another buffer. */
    public void copy(long offset, Buffer target, long targetOffset, long bytes) {
        MemorySegment.copy(segment, offset, target.segment, targetOffset, bytes);
    }

    public float getFloat(long index) {
        return segment.get(FLOAT, offset(index));
    }

    public void setFloat(long index, float value) {
        segment.set(FLOAT, offset(index), value);
    }

    public int getInt(long index) {
        return segment.get(INT, offset(index));
    }

    public void setInt(long index, int value) {
        segment.set(INT, offset(index), value);
    }

    /** Of an element of 4 bytes. Checked before it is multiplied, which could wrap around. */
    private long offset(long index) {
        return 4 * Objects.checkIndex(index, bytes() / 4);
    }

    @Override
    public String toString() {
        return "Buffer[" + bytes() + " bytes" + (segment.isReadOnly() ? ", read-only]" : "]");
    }
}
