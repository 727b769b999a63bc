package dev.fathom.examples;

import java.util.Collection;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;

import dev.fathom.DType;

/**
 * The types that weights are held in: those of the layers' linears, which a block has in one type, of the embeddings,
 * of the head; and that of K and V. Everything else is held in fp32 whatever it is stored in.
 */
record WeightTypes(DType layers, DType table, DType head, DType kv) {
    private WeightTypes(DType layers, DType table, DType head) {
        this(layers, table, head, layers.quantised() ? DType.BF16 : layers);
    }

    /** The same for all; K and V in bf16 beside integers. */
    static WeightTypes all(DType type) {
        return new WeightTypes(type, type, type);
    }

    /** With K and V in another type; null: as they are. */
    WeightTypes withKv(DType type) {
        return type == null ? this : new WeightTypes(layers, table, head, type);
    }

    /**
     * The type that is asked for; null: as the checkpoint stores them. Without quantised matrices that is bf16 if all
     * of them have 16 bits, else f32. With some it is the type that holds most of the linears, in bytes, and each its
     * own for embeddings and head.
     *
     * @param notes is told what is not held as it is stored
     */
    static WeightTypes of(Checkpoint checkpoint, DType asked, Consumer<String> notes) {
        if (asked != null) return all(asked);
        Collection<Tensor> matrices = checkpoint.tensors().stream().filter(t -> t.shape().length > 1).toList();
        if (matrices.stream().noneMatch(t -> held(t).quantised())) {
            return all(matrices.stream().anyMatch(t -> held(t) == DType.F32) ? DType.F32 : DType.BF16);
        }
        List<Tensor> linears = matrices.stream().filter(t -> Linear.isWeight(t.name())).toList();
        DType layers = mostly(linears);
        long others = linears.stream().filter(t -> held(t) != layers).count();
        if (others > 0) {
            notes.accept(others + " of " + linears.size() + " linears are stored in other types than "
                    + layers.name().toLowerCase(Locale.ROOT) + " and are converted: the layers have one type.");
        }
        DType table = held(checkpoint.peek("model.embed_tokens.weight"));
        Tensor head = checkpoint.peek("lm_head.weight");
        return new WeightTypes(layers, table, head == null ? table : held(head));
    }

    private static DType mostly(List<Tensor> linears) {
        Map<DType, Long> bytes = new EnumMap<>(DType.class);
        for (Tensor tensor : linears) {
            DType type = held(tensor);
            bytes.merge(type, Elements.bytes(type, tensor.elements()), Long::sum);
        }
        return bytes.entrySet().stream().max(Map.Entry.comparingByValue()).map(Map.Entry::getKey).orElse(DType.F32);
    }

    /** The nearest type of packed weights. */
    private static DType held(Tensor tensor) {
        if (tensor == null) return DType.F32; // it is missing, which whoever loads it will tell
        return switch (tensor.dtype()) {
            case "F16", "BF16" -> DType.BF16;
            case "Q4_0" -> DType.Q4_0;
            case "F8_E4M3" -> DType.F8_E4M3;
            case "Q8_0", "Q4_1", "Q6_K" -> DType.Q8_0;
            default -> DType.F32;
        };
    }
}
