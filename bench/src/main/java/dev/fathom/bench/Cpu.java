package dev.fathom.bench;

import java.lang.foreign.Arena;
import java.util.stream.IntStream;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KvShape;
import dev.fathom.LinearShape;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;

/** The context that kernels run on, and buffers of it made from Java arrays. */
@State(Scope.Benchmark)
public class Cpu {
    static final String ALL = "all";

    @Param({"1", ALL})
    public String workers;

    Context context;

    @Setup
    public void open() {
        context = Context.cpu(count(workers));
    }

    @TearDown
    public void close() {
        context.close();
    }

    /** As {@link Context#cpu(int)} takes it. */
    static int count(String workers) {
        return workers.equals(ALL) ? 0 : Integer.parseInt(workers);
    }

    Buffer floats(long count) {
        return context.allocate(count * 4);
    }

    Buffer buffer(int... values) {
        return context.allocate(values.length * 4L).write(values);
    }

    /** Rows of equal length, one after another. */
    Buffer buffer(float[]... rows) {
        return buffer(DType.F32, rows);
    }

    Buffer buffer(DType type, float[]... rows) {
        long rowBytes = (long) rows[0].length * type.bytes();
        Buffer buffer = context.allocate(rows.length * rowBytes);
        for (int r = 0; r < rows.length; r++) {
            if (type == DType.F32) buffer.write(r * rowBytes, rows[r], 0, rows[r].length);
            else buffer.write(r * rowBytes, Bf16.of(rows[r]), 0, rows[r].length);
        }
        return buffer;
    }

    /** The list 0, 1, 2, ... */
    Buffer list(int items) {
        return buffer(IntStream.range(0, items).toArray());
    }

    /** A pool whose entries hold the rows of k and v. */
    Buffer pool(KvShape shape, float[][] k, float[][] v) {
        Buffer pool = context.allocate(context.kvBytes(shape));
        Rows rows = Rows.allocate(context, k.length);
        for (int i = 0; i < k.length; i++) rows.entry(i, i);
        context.kvWrite(shape, 0, k.length, rows, buffer(k), buffer(v), pool);
        return pool;
    }

    Buffer pack(LinearShape shape, float[][] w) {
        Buffer packed = context.allocate(context.linearBytes(shape));
        try (Arena arena = Arena.ofConfined()) {
            Buffer source = transposed(arena, w, 0, shape.outFeatures());
            context.linearPack(shape, 0, shape.outFeatures(), DType.F32, source, packed);
        }
        return packed;
    }

    /** Columns of w [in][out] as rows [count, in] of a checkpoint. */
    Buffer transposed(Arena arena, float[][] w, int from, int count) {
        int in = w.length;
        Buffer rows = context.allocate(arena, (long) count * in * 4);
        for (int o = 0; o < count; o++) {
            for (int k = 0; k < in; k++) rows.setFloat((long) o * in + k, w[k][from + o]);
        }
        return rows;
    }
}
