package dev.fathom.examples;

import java.lang.foreign.Arena;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.Kind;
import dev.fathom.LinearShape;
import dev.fathom.Part;

/** Packs tensors into memory that lives as long as the context. */
record Packing(Context context) {
    void block(BlockShape shape, int layer, int depth, Part part, Kind kind, float scale, Tensor tensor,
            Buffer weights) {
        try (Arena scratch = Arena.ofConfined()) {
            context.blockPack(shape, layer, depth, part, kind, scale, tensor.type(),
                    context.wrap(tensor.aligned(scratch)), weights);
        }
    }

    void gate(GateShape shape, int depth, GatePart part, Tensor tensor, Buffer weights) {
        try (Arena scratch = Arena.ofConfined()) {
            context.gatePack(shape, depth, part, tensor.type(), context.wrap(tensor.aligned(scratch)), weights);
        }
    }

    Buffer linear(LinearShape shape, Tensor tensor) {
        Buffer packed = context.allocate(context.linearBytes(shape));
        try (Arena scratch = Arena.ofConfined()) {
            context.linearPack(shape, 0, shape.outFeatures(), tensor.type(), context.wrap(tensor.aligned(scratch)),
                    packed);
        }
        return packed;
    }

    Buffer vector(Tensor tensor) {
        return vector(tensor.toFloats());
    }

    Buffer vector(float[] values) {
        return context.allocate(4L * values.length).write(values);
    }
}
