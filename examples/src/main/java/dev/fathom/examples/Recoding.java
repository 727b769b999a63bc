package dev.fathom.examples;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.LongConsumer;

import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * Any model with its tensors in other types: quantised, or all of them in one. Names stay, and with them recursion,
 * routers and LoRA pairs.
 */
final class Recoding implements AutoCloseable {
    private final Checkpoint checkpoint;
    private final List<ModelWriter.Weight> weights = new ArrayList<>();
    private final List<String> unquantised = new ArrayList<>();
    private final ModelWriter writer;

    Recoding(Path model, StoredTypes types) {
        ModelFiles files = ModelFiles.of(model);
        ObjectNode config = ModelConfig.json(files);
        ModelConfig.parse(config);
        checkpoint = new Checkpoint(files);
        try {
            for (Tensor tensor : checkpoint.tensors().stream().sorted(Comparator.comparing(Tensor::name)).toList()) {
                SharedWeight stored = new SharedWeight(List.of(tensor), 1, types.of(tensor.name(), tensor));
                weights.add(new ModelWriter.Weight(stored, List.of(tensor.name())));
                if (types.quantises(tensor.name()) && !stored.type().quantised()) unquantised.add(tensor.name());
            }
            ModelWriter.putTypes(config, types.plain(), weights);
            writer = new ModelWriter(files, weights, List.of(), config, null);
        } catch (RuntimeException | Error e) {
            checkpoint.close();
            throw e;
        }
    }

    /** Matrices that should have been quantised, but whose rows cannot be cut into blocks. */
    List<String> unquantised() {
        return unquantised;
    }

    long parameters() {
        return weights.stream().mapToLong(weight -> weight.values().elements()).sum();
    }

    long quantisedParameters() {
        return weights.stream().map(ModelWriter.Weight::values).filter(values -> values.type().quantised())
                .mapToLong(SharedWeight::elements).sum();
    }

    long bytes() {
        return writer.bytes();
    }

    long steps() {
        return writer.steps();
    }

    void write(Path to, LongConsumer progress) {
        writer.write(to, 1, progress);
    }

    @Override
    public void close() {
        checkpoint.close();
    }
}
