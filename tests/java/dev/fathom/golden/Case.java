package dev.fathom.golden;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.fail;

import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.Map;
import java.util.function.IntToDoubleFunction;

import com.fasterxml.jackson.databind.JsonNode;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.Rows;

/** One golden case, to be run on one context: its numbers, its tensors as buffers, and the comparison. */
final class Case {
    final Context context;
    private final Arena arena;
    private final JsonNode numbers;
    private final Map<String, Tensor> tensors;

    Case(Context context, Arena arena, JsonNode numbers, Map<String, Tensor> tensors) {
        this.context = context;
        this.arena = arena;
        this.numbers = numbers;
        this.tensors = tensors;
    }

    // ---- numbers

    JsonNode node(String name) {
        JsonNode node = numbers.get(name);
        if (node == null) throw new AssertionError("the case has no number " + name);
        return node;
    }

    int integer(String name) {
        return node(name).intValue();
    }

    float real(String name) {
        return node(name).floatValue();
    }

    boolean flag(String name) {
        return integer(name) == 1;
    }

    DType type(String name) {
        return DType.values()[integer(name)];
    }

    int count() {
        return integer("count");
    }

    // ---- tensors

    boolean has(String tensor) {
        return tensors.containsKey(key(tensor));
    }

    Tensor tensor(String name) {
        Tensor tensor = tensors.get(key(name));
        if (tensor == null) throw new AssertionError("the case has no tensor " + name);
        return tensor;
    }

    double[] values(String name) {
        return tensor(name).values();
    }

    /** The values, or {@code elements} times {@code absent}. */
    double[] values(String name, int elements, double absent) {
        if (has(name)) return values(name);
        double[] values = new double[elements];
        Arrays.fill(values, absent);
        return values;
    }

    private String key(String tensor) {
        return numbers.get("name").asText() + "." + tensor;
    }

    // ---- buffers

    Buffer allocate(long bytes) {
        return context.allocate(arena, bytes);
    }

    Buffer floats(int elements) {
        return allocate(elements * 4L);
    }

    /** A tensor as it is stored; null if the case has none, which is how the call spells it as well. */
    Buffer buffer(String name) {
        return has(name) ? allocate(tensor(name).data().remaining()).write(tensor(name).bytes()) : null;
    }

    /** Part {@code index} of {@code parts} equal ones of a tensor; null if the case has none. */
    Buffer part(String name, int index, int parts) {
        Buffer whole = buffer(name);
        return whole == null ? null : whole.slice(whole.bytes() / parts * index, whole.bytes() / parts);
    }

    Rows freshRows(int count) {
        return Rows.allocate(context, arena, count);
    }

    /** {@code count} rows; a field that the case has no tensor of keeps its default. */
    Rows rows(int count) {
        return rows(count, "");
    }

    /** Rows from the tensors whose names are a prefix and a field's. */
    Rows rows(int count, String prefix) {
        Rows rows = freshRows(count);
        for (int i = 0; i < count; i++) {
            if (has(prefix + "list")) rows.list(i, tensor(prefix + "list").integer(i));
            if (has(prefix + "visible")) rows.visible(i, integer(prefix + "visible", i));
            if (has(prefix + "start")) rows.start(i, integer(prefix + "start", i));
            if (has(prefix + "tree")) rows.tree(i, tensor(prefix + "tree").integer(i));
            if (has(prefix + "position")) rows.position(i, integer(prefix + "position", i));
            if (has(prefix + "depth")) rows.depth(i, integer(prefix + "depth", i));
            if (has(prefix + "sequence")) rows.sequence(i, integer(prefix + "sequence", i));
        }
        return rows;
    }

    int integer(String tensor, int i) {
        return (int) tensor(tensor).integer(i);
    }

    // ---- comparison

    /** Every element of the tensor within its bound. */
    void expect(String name, Buffer actual, IntToDoubleFunction bound) {
        Tensor want = tensor(name);
        for (int i = 0; i < want.elements(); i++) {
            near(name, i, want.get(i), actual.getFloat(i), bound.applyAsDouble(i));
        }
    }

    static void near(String name, int i, double want, double got, double bound) {
        if (!(want == got || Math.abs(want - got) <= bound)) {
            fail(name + "[" + i + "] must be " + want + " +- " + bound + ", got " + got);
        }
    }

    void expectIntegers(String name, Buffer actual) {
        for (int i = 0; i < tensor(name).elements(); i++) {
            assertEquals(integer(name, i), actual.getInt(i), name + "[" + i + "]");
        }
    }
}
