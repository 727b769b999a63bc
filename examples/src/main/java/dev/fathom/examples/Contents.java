package dev.fathom.examples;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;

/**
 * What a file holds, to be read by copying. Files are not mapped: when one shrinks meanwhile, a mapped page ends the
 * process that touches it in native code, and a copy only ends early.
 */
sealed interface Contents extends AutoCloseable
        permits Contents.Memory, Contents.OnDisk, DecodedBlocks, F8Rows, RowOrder {
    long bytes();

    /** Fills {@code to} with the bytes from {@code offset} on. Several threads may read at the same time. */
    void read(long offset, MemorySegment to);

    @Override
    void close();

    /** What is in memory. */
    static Contents of(byte[] bytes) {
        return new Memory(MemorySegment.ofArray(bytes));
    }

    static Contents of(Path file) throws IOException {
        FileChannel channel = FileChannel.open(file);
        try {
            return new OnDisk(file, channel, channel.size());
        } catch (IOException e) {
            channel.close();
            throw e;
        }
    }

    /** All of it; {@code name} begins the sentence of an error. */
    default byte[] all(String name, int most) {
        if (bytes() > most) throw new UserException(name + " has " + bytes() + " bytes, the limit is " + most + ".");
        byte[] all = new byte[(int) bytes()];
        read(0, MemorySegment.ofArray(all));
        return all;
    }

    record Memory(MemorySegment segment) implements Contents {
        @Override
        public long bytes() {
            return segment.byteSize();
        }

        @Override
        public void read(long offset, MemorySegment to) {
            MemorySegment.copy(segment, offset, to, 0, to.byteSize());
        }

        @Override
        public void close() {}
    }

    record OnDisk(Path file, FileChannel channel, long bytes) implements Contents {
        /** A thread keeps a native copy of what it reads into the heap: not more than this at once. */
        private static final long PIECE = 1 << 20;

        @Override
        public void read(long offset, MemorySegment to) {
            try {
                for (long at = 0; at < to.byteSize();) {
                    ByteBuffer piece = to.asSlice(at, Math.min(PIECE, to.byteSize() - at)).asByteBuffer();
                    int count = channel.read(piece, offset + at);
                    if (count < 0) throw new UserException(file + " ended early: it became shorter while it was read.");
                    at += count;
                }
            } catch (IOException e) {
                throw new UserException(file + " cannot be read: " + Main.reason(e) + ".");
            }
        }

        @Override
        public void close() {
            try {
                channel.close();
            } catch (IOException e) {
                // nothing was written
            }
        }
    }
}
