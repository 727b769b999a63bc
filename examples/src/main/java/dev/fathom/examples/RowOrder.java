package dev.fathom.examples;

import java.lang.foreign.MemorySegment;

/**
 * The rows of a matrix, from {@code offset} of a file on, in the order of rotary positions by halves. In the file the
 * two elements of each rotated pair of a head are neighbours: rows 2i and 2i + 1, here i and {@code headDim / 2 + i}.
 */
record RowOrder(Contents file, long offset, long rowBytes, int rows, int headDim) implements Contents {
    @Override
    public long bytes() {
        return rows * rowBytes;
    }

    @Override
    public void read(long at, MemorySegment to) {
        for (long done = 0; done < to.byteSize();) {
            long row = (at + done) / rowBytes;
            long within = (at + done) % rowBytes;
            long count = Math.min(rowBytes - within, to.byteSize() - done);
            file.read(offset + source(row) * rowBytes + within, to.asSlice(done, count));
            done += count;
        }
    }

    /** Where the file has a row. */
    private long source(long row) {
        long inHead = row % headDim;
        int half = headDim / 2;
        return row - inHead + 2 * (inHead % half) + inHead / half;
    }

    @Override
    public void close() {} // of the file is its owner's
}
