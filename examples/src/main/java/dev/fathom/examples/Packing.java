package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.util.function.LongFunction;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.Kind;
import dev.fathom.KernelException;
import dev.fathom.LinearShape;
import dev.fathom.Part;

/** Packs tensors into memory that lives as long as the context. Kernels read copies of them: see {@link Contents}. */
final class Packing {
    /** Of a linear's rows that are copied at once; every other tensor is copied whole. */
    private static final long SLICE_BYTES = 16 << 20;

    private final Context context;
    /** Grows to the largest copy. */
    private Buffer scratch;

    Packing(Context context) {
        this.context = context;
    }

    Context context() {
        return context;
    }

    /** Zeroed memory for something that the sentence of a failure names. */
    Buffer allocate(String what, long bytes) {
        return allocate(what, bytes, context::allocate);
    }

    private static Buffer allocate(String what, long bytes, LongFunction<Buffer> from) {
        try {
            return from.apply(bytes);
        } catch (KernelException | OutOfMemoryError e) {
            throw new UserException("There is not enough memory for " + what + ", which takes " + bytes + " bytes.");
        }
    }

    void block(BlockShape shape, int layer, int depth, Part part, Kind kind, float scale, Tensor tensor,
            Buffer weights) {
        Source source = source(tensor, 0, tensor.elements(), part.isLinear() && kind == Kind.WEIGHT);
        context.blockPack(shape, layer, depth, part, kind, scale, source.type, source.data, weights);
    }

    void gate(GateShape shape, int depth, GatePart part, Tensor tensor, Buffer weights) {
        Source source = source(tensor, 0, tensor.elements(), false);
        context.gatePack(shape, depth, part, source.type, source.data, weights);
    }

    Buffer linear(LinearShape shape, Tensor tensor) {
        Buffer packed = allocate("packed " + tensor.name(), context.linearBytes(shape));
        long rows = shape.weightRows();
        long columns = shape.inFeatures();
        long slice = Math.clamp(SLICE_BYTES / (columns * Float.BYTES), 1, rows);
        for (long first = 0; first < rows; first += slice) {
            long count = Math.min(slice, rows - first);
            Source source = source(tensor, first * columns, count * columns, true);
            context.linearPack(shape, first, count, source.type, source.data, packed);
        }
        return packed;
    }

    Buffer vector(Tensor tensor) {
        return vector(tensor.toFloats());
    }

    Buffer vector(float[] values) {
        return context.allocate(4L * values.length).write(values);
    }

    /** For as long as the arena lives. */
    Buffer vector(Arena arena, float[] values) {
        return context.allocate(arena, 4L * values.length).write(values);
    }

    private record Source(DType type, Buffer data) {}

    /**
     * Elements {@code from .. from + count)} of a tensor, until the next call: as they are stored, but decoded where
     * blocks are not taken.
     */
    private Source source(Tensor tensor, long from, long count, boolean takesBlocks) {
        DType type = tensor.type();
        if (type.quantised() && !takesBlocks) {
            float[] values = new float[Math.toIntExact(count)];
            tensor.read(from, values, values.length);
            return new Source(DType.F32, scratch(tensor, Float.BYTES * count).write(values));
        }
        Buffer copy = scratch(tensor, tensor.bytes(count));
        tensor.copy(tensor.bytes(from), copy.segment());
        return new Source(type, copy);
    }

    private Buffer scratch(Tensor tensor, long bytes) {
        if (scratch == null || scratch.bytes() < bytes) {
            scratch = null; // may be freed first
            scratch = allocate("a copy of " + tensor.name(), bytes, b -> context.allocateShared(Arena.ofAuto(), b));
        }
        return scratch.slice(0, bytes);
    }
}
