package dev.fathom.examples;

import java.lang.foreign.Arena;

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
        return allocate(what, null, bytes);
    }

    private Buffer allocate(String what, Arena arena, long bytes) {
        try {
            return arena == null ? context.allocate(bytes) : context.allocate(arena, bytes);
        } catch (KernelException | OutOfMemoryError e) {
            throw new UserException("There is not enough memory for " + what + ", which takes " + bytes + " bytes.");
        }
    }

    void block(BlockShape shape, int layer, int depth, Part part, Kind kind, float scale, Tensor tensor,
            Buffer weights) {
        context.blockPack(shape, layer, depth, part, kind, scale, tensor.type(), copy(tensor), weights);
    }

    void gate(GateShape shape, int depth, GatePart part, Tensor tensor, Buffer weights) {
        context.gatePack(shape, depth, part, tensor.type(), copy(tensor), weights);
    }

    Buffer linear(LinearShape shape, Tensor tensor) {
        Buffer packed = allocate("packed " + tensor.name(), context.linearBytes(shape));
        DType type = tensor.type();
        long rows = shape.weightRows();
        long rowBytes = (long) shape.inFeatures() * type.bytes();
        long slice = Math.clamp(SLICE_BYTES / rowBytes, 1, rows);
        for (long first = 0; first < rows; first += slice) {
            long count = Math.min(slice, rows - first);
            Buffer source = copy(tensor, first * rowBytes, count * rowBytes);
            context.linearPack(shape, first, count, type, source, packed);
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

    private Buffer copy(Tensor tensor) {
        return copy(tensor, 0, tensor.bytes());
    }

    /** Bytes {@code from .. from + bytes)} of a tensor, until the next copy. */
    private Buffer copy(Tensor tensor, long from, long bytes) {
        if (scratch == null || scratch.bytes() < bytes) {
            scratch = null; // may be freed first
            scratch = allocate("a copy of " + tensor.name(), Arena.ofAuto(), bytes);
        }
        Buffer copy = scratch.slice(0, bytes);
        tensor.copy(from, copy.segment());
        return copy;
    }
}
