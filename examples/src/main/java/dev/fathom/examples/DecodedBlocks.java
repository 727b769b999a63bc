package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Blocks of a format that no kernel reads, from {@code offset} of a file on, as the f32 that they stand for. */
record DecodedBlocks(Contents file, Blocks format, long offset, long elements) implements Contents {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    @Override
    public long bytes() {
        return Float.BYTES * elements;
    }

    /** Of whole elements. */
    @Override
    public void read(long at, MemorySegment to) {
        float[] values = new float[format.elements];
        MemorySegment block = MemorySegment.ofArray(new byte[format.bytes]);
        long end = (at + to.byteSize()) / Float.BYTES;
        for (long element = at / Float.BYTES; element < end;) {
            long index = element / format.elements;
            file.read(offset + index * format.bytes, block);
            format.decode(block, 0, values, 0);
            int first = (int) (element - index * format.elements);
            int count = (int) Math.min(format.elements - first, end - element);
            MemorySegment.copy(values, first, to, FLOAT, Float.BYTES * element - at, count);
            element += count;
        }
    }

    @Override
    public void close() {} // of the file is its owner's
}
