package dev.fathom.bench.depth;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.LinearShape;

/** Packed weights that mean nothing, for measurements in which only their number counts. */
final class Filled {
    private Filled() {}

    static Buffer block(Context context, BlockShape shape) {
        return fill(context.allocate(context.blockBytes(shape)));
    }

    static Buffer linear(Context context, LinearShape shape) {
        return fill(context.allocate(context.linearBytes(shape)));
    }

    /** Small numbers, whether they are read as bf16 or as fp32. */
    private static Buffer fill(Buffer buffer) {
        short[] chunk = new short[1 << 16];
        int state = 1;
        for (int i = 0; i < chunk.length; i++) {
            state = state * 1664525 + 1013904223;
            chunk[i] = (short) (0x3c00 | state >>> 16 & 0x80ff);
        }
        for (long at = 0; at < buffer.bytes(); at += 2L * chunk.length) {
            buffer.write(at, chunk, 0, (int) Math.min(chunk.length, (buffer.bytes() - at) / 2));
        }
        return buffer;
    }
}
