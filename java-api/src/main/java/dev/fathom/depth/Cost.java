package dev.fathom.depth;

import dev.fathom.BlockShape;
import dev.fathom.DType;
import dev.fathom.GateShape;
import dev.fathom.Kind;
import dev.fathom.Part;
import dev.fathom.RouterKind;

/** What a pass of a block costs, from its shape. A weight costs 2 flops per row and is read once per call. */
final class Cost {
    /** Flops of a row without attention, and the part of them that makes K and V. */
    final long rowFlops;
    final long kvFlops;
    /** Flops of attention per item that a row sees. */
    final long itemFlops;
    /** Weights of one depth. */
    final long weightBytes;
    private final int weightSize;
    /** An entry's K and V. */
    final long entryBytes;

    Cost(BlockShape shape) {
        long weights = 0;
        long kv = 0;
        for (Part part : Part.values()) {
            if (!part.isLinear() || !shape.has(part)) continue;
            long size = shape.elements(part, Kind.WEIGHT) + shape.elements(part, Kind.LORA_A)
                    + shape.elements(part, Kind.LORA_B);
            weights += size;
            if (part == Part.K || part == Part.V) kv += size;
        }
        rowFlops = 2 * weights * shape.layers();
        kvFlops = 2 * kv * shape.layers();
        itemFlops = 4L * shape.heads() * shape.headDim() * shape.layers();
        weightSize = shape.weightType().bytes();
        weightBytes = weights * shape.layers() * weightSize;
        long head = (long) shape.headDim() * shape.kvType().bytes() + (shape.kvType() == DType.I8 ? Float.BYTES : 0);
        entryBytes = 2 * head * shape.layers() * shape.kvHeads();
    }

    /** A row that sees {@code items} items, its own included, and {@code sourceItems} of an encoder. */
    void row(Meter meter, int items, int sourceItems, boolean stores) {
        long all = (long) items + sourceItems;
        meter.compute(rowFlops - (stores ? 0 : kvFlops) + all * itemFlops);
        meter.readKv(all * entryBytes);
        if (stores) meter.writeKv(entryBytes);
    }

    /** Entries that are written without being computed. */
    void store(Meter meter, int entries) {
        meter.writeKv(entries * entryBytes);
    }

    /** K and V of {@code rows} rows from their exit states. */
    void propagate(Meter meter, int rows) {
        meter.compute(rows * kvFlops);
        meter.readWeights(kvFlops / 2 * weightSize);
        meter.writeKv(rows * entryBytes);
    }

    /** Flops of one router on one row. */
    static long routerFlops(GateShape shape) {
        long inner = shape.innerSize();
        return shape.router() == RouterKind.LINEAR ? 2L * shape.hiddenSize() * shape.outputs()
                : 2 * inner * shape.hiddenSize() + 2 * inner * shape.outputs();
    }
}
