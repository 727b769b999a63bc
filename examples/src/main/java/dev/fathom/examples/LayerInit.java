package dev.fathom.examples;

import java.util.stream.IntStream;

/** Where a shared layer's first weights come from, among the unrolled layers of the original. */
enum LayerInit {
    /** Layers at equal distances. */
    STEPWISE,
    /** The mean of the layers that are tied. */
    AVERAGE,
    /** The first layers. */
    LOWER,
    /** The last layers. */
    UPPER;

    /** The unrolled layers of which the slot's weights are the mean. */
    int[] sources(LayerTying tying, int slot) {
        int first = tying.first();
        int last = tying.layers() - 1 - first;
        return switch (this) {
            case STEPWISE -> new int[] {spread(first, last, tying.slots())[slot]};
            case AVERAGE -> IntStream.range(0, tying.recursions()).map(depth -> tying.layer(slot, depth)).toArray();
            case LOWER -> new int[] {first + slot};
            case UPPER -> new int[] {last + 1 - tying.slots() + slot};
        };
    }

    /**
     * {@code count} whole numbers at equal distances from {@code from} to {@code to}, rounded half to even: as
     * round(linspace(from, to, count)) gives them, step times index in doubles.
     */
    static int[] spread(int from, int to, int count) {
        double step = count == 1 ? 0 : (double) (to - from) / (count - 1);
        return IntStream.range(0, count)
                .map(i -> i > 0 && i == count - 1 ? to : (int) Math.rint(i * step + from)).toArray();
    }
}
