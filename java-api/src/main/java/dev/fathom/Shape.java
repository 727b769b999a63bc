package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.GroupLayout;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SequenceLayout;
import java.lang.foreign.ValueLayout;
import java.util.StringJoiner;

/**
 * The numbers of an operation. Shapes are immutable, checked when they are made, equal if their numbers are, and free
 * to be shared between threads and contexts. Make one per layer, not one per call.
 */
public abstract sealed class Shape permits LinearShape, NormShape, RopeShape, KvShape, AttentionShape, DenseKvShape,
        BackfillShape, BlockShape, HeadShape, GateShape, RecursionShape, EmbedShape {
    private final GroupLayout layout;
    /** The C struct. Written by the constructor of the subclass only. */
    final MemorySegment struct;

    Shape(GroupLayout layout) {
        this.layout = layout;
        this.struct = Arena.ofAuto().allocate(layout);
    }

    @Override
    public final boolean equals(Object other) {
        return other != null && other.getClass() == getClass() && struct.mismatch(((Shape) other).struct) == -1;
    }

    @Override
    public final int hashCode() {
        int hash = 0;
        for (long at = 0; at < struct.byteSize(); at += 4) hash = 31 * hash + struct.get(ValueLayout.JAVA_INT, at);
        return hash;
    }

    /** The fields of the C struct by name. */
    @Override
    public final String toString() {
        StringJoiner fields = new StringJoiner(", ", getClass().getSimpleName() + "[", "]");
        long at = 0;
        for (MemoryLayout field : layout.memberLayouts()) {
            String name = field.name().orElse("");
            if (!name.equals("reserved")) fields.add(name + "=" + value(field, at));
            at += field.byteSize();
        }
        return fields.toString();
    }

    private String value(MemoryLayout field, long at) {
        return switch (field) {
            case ValueLayout.OfInt integer -> Integer.toString(struct.get(integer, at));
            case ValueLayout.OfLong integer -> Long.toString(struct.get(integer, at));
            case ValueLayout.OfFloat number -> Float.toString(struct.get(number, at));
            case SequenceLayout array -> {
                StringJoiner items = new StringJoiner(" ", "[", "]");
                for (long i = 0; i < array.elementCount(); i++) {
                    items.add(value(array.elementLayout(), at + i * array.elementLayout().byteSize()));
                }
                yield items.toString();
            }
            default -> throw new AssertionError(field);
        };
    }
}
