package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.LongConsumer;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;

/** Writes a model's directory from an original's: its tensors, config.json, and what an original has beside them. */
final class ModelWriter {
    /** Files beside the weights that a model keeps. */
    private static final String COMPANIONS = "tokenizer.*|special_tokens_map\\.json|added_tokens\\.json"
            + "|vocab\\.(json|txt)|merges\\.txt|chat_template.*|generation_config\\.json|.*\\.(model|tiktoken)"
            + "|LICEN[CS]E.*|NOTICE.*";
    private static final int PIECE = 1 << 16;
    /** A decomposition takes as long, per element, as so many elements take to be written: about. */
    private static final int LORA_STEPS = 32;

    private final ModelFiles original;
    private final List<Weight> weights;
    private final List<LoraPair> pairs;
    private final ObjectNode config;
    private final ObjectNode adapter;

    /** A weight and its names: more than one if its tied copies are stored. */
    record Weight(SharedWeight values, List<String> names) {}

    /**
     * @param config  the original's with what changes but for the types of tensors
     * @param adapter describes the pairs as a PEFT adapter; null: none is written
     */
    ModelWriter(ModelFiles original, List<Weight> weights, List<LoraPair> pairs, ObjectNode config,
            ObjectNode adapter) {
        this.original = original;
        this.weights = weights;
        this.pairs = pairs;
        this.config = config;
        this.adapter = adapter;
    }

    /** Bytes of all tensors that are stored. */
    long bytes() {
        long bytes = entries("", true).stream().mapToLong(SafetensorsWriter.Entry::bytes).sum();
        return adapter == null ? bytes
                : bytes + entries("", false).stream().mapToLong(SafetensorsWriter.Entry::bytes).sum();
    }

    /** What {@link #write} tells of its progress when it is done. */
    long steps() {
        return weights.stream().mapToLong(weight -> weight.values.elements()).sum()
                + LORA_STEPS * pairs.stream().mapToLong(LoraPair::elements).sum();
    }

    /** @return how much of the sum of squares of all differences the LoRA pairs hold, 0..1; 1 if there is none */
    double write(Path to, int threads, LongConsumer progress) {
        try (DraftDirectory draft = new DraftDirectory(to)) {
            requireSpace(draft.path(), to);
            writeCompanions(draft.path());
            Files.writeString(draft.path().resolve("config.json"), Json.text(config));
            double kept;
            try (SafetensorsWriter file = open(draft.path(), "model.safetensors", "", true);
                    SafetensorsWriter pairsAlone = adapter == null ? null : openAdapter(draft.path())) {
                long done = writeWeights(file, progress);
                kept = new LoraWriter(file, pairsAlone).write(pairs, threads,
                        elements -> progress.accept(done + LORA_STEPS * elements));
                file.finish();
                if (pairsAlone != null) pairsAlone.finish();
            }
            draft.publish();
            return kept;
        } catch (IOException e) {
            throw new UserException(to + " cannot be written: " + Main.reason(e) + ".");
        }
    }

    private void requireSpace(Path draft, Path to) throws IOException {
        long free = Files.getFileStore(draft).getUsableSpace();
        if (bytes() > free) {
            throw new UserException(to + " needs " + bytes() + " bytes, " + free + " are free there.");
        }
    }

    private void writeCompanions(Path draft) throws IOException {
        if (original instanceof ModelFiles.Directory from) {
            try (Stream<Path> files = Files.list(from.directory())) {
                for (Path file : files.sorted().toList()) {
                    String name = file.getFileName().toString();
                    if (name.matches(COMPANIONS) && Files.isRegularFile(file)) Files.copy(file, draft.resolve(name));
                }
            }
        } else {
            byte[] tokenizer = original.read("tokenizer.json", TokenizerCodec.MAX_BYTES);
            if (tokenizer != null) Files.write(draft.resolve("tokenizer.json"), tokenizer);
        }
    }

    private SafetensorsWriter openAdapter(Path draft) throws IOException {
        Path folder = Files.createDirectory(draft.resolve("adapter"));
        Files.writeString(folder.resolve("adapter_config.json"), Json.text(adapter));
        return open(folder, "adapter_model.safetensors", LoraWriter.PEFT_PREFIX, false);
    }

    private SafetensorsWriter open(Path folder, String name, String prefix, boolean shared) throws IOException {
        return new SafetensorsWriter(folder.resolve(name), entries(prefix, shared));
    }

    /** Of the LoRA pairs, with the shared weights or without. */
    private List<SafetensorsWriter.Entry> entries(String prefix, boolean shared) {
        List<SafetensorsWriter.Entry> entries = new ArrayList<>();
        for (Weight weight : shared ? weights : List.<Weight>of()) {
            for (String name : weight.names) {
                DType type = weight.values.type();
                long[] shape = weight.values.shape();
                entries.add(new SafetensorsWriter.Entry(name, type, shape));
                if (type == DType.F8_E4M3) {
                    entries.add(new SafetensorsWriter.Entry(F8Rows.scaleName(name), DType.F32, shape[0], 1));
                }
            }
        }
        for (LoraPair pair : pairs) entries.addAll(pair.entries(prefix));
        return entries;
    }

    /** @return the steps that it took */
    private long writeWeights(SafetensorsWriter file, LongConsumer progress) throws IOException {
        long done = 0;
        for (Weight weight : weights) {
            int piece = weight.values.piece(PIECE);
            float[] values = new float[piece];
            for (long from = 0; from < weight.values.elements(); from += piece) {
                int count = (int) Math.min(piece, weight.values.elements() - from);
                weight.values.read(from, values, count);
                for (String name : weight.names) file.write(name, from, values, count);
                done += count;
                progress.accept(done);
            }
        }
        return done;
    }

    /** Says in config.json which types the tensors have. */
    static void putTypes(ObjectNode config, DType plain, List<Weight> weights) {
        if (plain != null) {
            config.put(config.has("dtype") ? "dtype" : "torch_dtype", switch (plain) {
                case F32 -> "float32";
                case BF16 -> "bfloat16";
                case F16 -> "float16";
                default -> throw new IllegalArgumentException(plain + " is no type of a checkpoint's tensor");
            });
        }
        // For programs that would take blocks for something else; the weights' file has the type of each tensor.
        config.remove("quantization_config");
        weights.stream().map(weight -> weight.values.type()).filter(DType::quantised).findFirst().ifPresent(type ->
                config.putObject("quantization_config").put("quant_method", "fathom")
                        .put("weights", type.name().toLowerCase(Locale.ROOT)));
    }
}
