package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.function.LongConsumer;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.DType;
import dev.fathom.Part;
import dev.fathom.depth.KvPolicy;
import dev.fathom.examples.ModelConfig.Sharing;

/**
 * A vanilla model as a recursive one (Relaxed Recursive Transformers, arXiv 2410.20672): its layers are tied to the
 * slots of a shared block, and what each layer loses can come back as a LoRA pair, the truncated singular value
 * decomposition of the difference. {@code docs/convert.md} has the rules and the files.
 */
final class Conversion implements AutoCloseable {
    /** Files beside the weights that a model keeps. */
    private static final String COMPANIONS = "tokenizer.*|special_tokens_map\\.json|added_tokens\\.json"
            + "|vocab\\.(json|txt)|merges\\.txt|chat_template.*|generation_config\\.json|.*\\.(model|tiktoken)"
            + "|LICEN[CS]E.*|NOTICE.*";
    private static final int PIECE = 1 << 16;
    /** A decomposition takes as long, per element, as so many elements take to be written: about. */
    private static final int LORA_STEPS = 32;

    private final Path model;
    private final Options options;
    private final ObjectNode json;
    private final ModelConfig config;
    private final Checkpoint checkpoint;
    private final LayerTying tying;
    /** The layer of the original that each unrolled layer stands for. */
    private final int[] origin;
    private final List<Weight> weights = new ArrayList<>();
    private final List<LoraPair> pairs = new ArrayList<>();
    private long originalParameters;

    /**
     * @param layers  unrolled layers of the result, ends included; 0: as many of the original's as divide
     * @param init    null: stepwise, with LoRA average
     * @param ranks   of the LoRA pairs; a part that is absent has none. More than the shorter side means that side
     * @param type    of all stored weights; null: each as in the original
     * @param compact store only what is needed to build the model again: tied weights once, and no PEFT adapter
     */
    record Options(int recursions, int layers, Sharing sharing, LayerInit init, boolean tiedNorms,
            Map<Part, Integer> ranks, DType type, boolean compact) {
        Options {
            Map<Part, Integer> positive = new EnumMap<>(Part.class);
            ranks.forEach((part, rank) -> {
                if (rank > 0) positive.put(part, rank);
            });
            ranks = positive;
            if (init == null) init = ranks.isEmpty() ? LayerInit.STEPWISE : LayerInit.AVERAGE;
        }
    }

    /** A weight and its names: more than one if its tied copies are stored. */
    private record Weight(SharedWeight values, List<String> names) {}

    /** Plans the conversion of a directory and checks everything that it needs. Its files stay open until the end. */
    Conversion(Path model, Options options) {
        this.model = model;
        this.options = options;
        ModelFiles files = ModelFiles.directory(model);
        json = ModelConfig.json(files);
        config = ModelConfig.parse(json);
        requireVanilla();
        tying = new LayerTying(options.sharing, layers(), options.recursions);
        origin = origin();
        checkpoint = new Checkpoint(files);
        try {
            plan();
        } catch (RuntimeException | Error e) {
            checkpoint.close();
            throw e;
        }
    }

    @Override
    public void close() {
        checkpoint.close();
    }

    // ---- layers --------------------------------------------------------------------------------------------------

    private void requireVanilla() {
        String kind = config.routing() != null ? "is a Mixture-of-Recursions already"
                : config.recursion() != null ? "is recursive already"
                : config.lora() != null ? "has LoRA pairs"
                : config.kv() != KvPolicy.PER_DEPTH ? "shares K and V" : null;
        if (kind != null) {
            throw new UserException("The model in " + model + " " + kind + ": convert takes vanilla models.");
        }
    }

    private int layers() {
        int ends = options.sharing.ends();
        int recursions = options.recursions;
        int own = config.layers() - ends;
        if (own < (options.layers == 0 ? 2 : 1)) {
            throw new UserException("The model in " + model + " has too few layers to share, " + config.layers() + ".");
        }
        int most = options.layers == 0 ? Math.min(own, ModelConfig.MOST_RECURSIONS) : ModelConfig.MOST_RECURSIONS;
        if (recursions < 2 || recursions > most) {
            throw new UserException("--recursions must be in 2.." + most + ", got " + recursions + ".");
        }
        if (options.layers == 0) return ends + own / recursions * recursions;
        int shared = options.layers - ends;
        if (shared < recursions || shared % recursions != 0 || options.layers > ModelConfig.MOST_LAYERS) {
            throw new UserException("--layers must be " + (ends == 0 ? "" : ends + " unshared ones and ")
                    + "a multiple of the " + recursions + " recursions, got " + options.layers + ".");
        }
        return options.layers;
    }

    /** All of them, or some dropped or repeated at equal distances. Unshared ends stay. */
    private int[] origin() {
        int first = tying.first();
        int last = config.layers() - 1 - first;
        int[] inner = LayerInit.spread(first, last, tying.layers() - options.sharing.ends());
        if (first == 0) return inner;
        return IntStream.concat(IntStream.concat(IntStream.of(0), IntStream.of(inner)),
                IntStream.of(config.layers() - 1)).toArray();
    }

    // ---- tensors -------------------------------------------------------------------------------------------------

    private void plan() {
        long words = config.vocabSize();
        long hidden = config.hiddenSize();
        keep(checkpoint.get("model.embed_tokens.weight", words, hidden));
        List<Map<String, Tensor>> layers = IntStream.range(0, config.layers())
                .mapToObj(layer -> layer(checkpoint, layer)).toList();
        if (options.sharing.ownEnds) planEnd(layers, 0);
        for (int slot = 0; slot < tying.slots(); slot++) planSlot(layers, slot);
        if (options.sharing.ownEnds) planEnd(layers, tying.layers() - 1);
        keep(checkpoint.get("model.norm.weight", hidden));
        Tensor head = config.tiedEmbeddings() ? checkpoint.find("lm_head.weight", words, hidden)
                : checkpoint.get("lm_head.weight", words, hidden);
        if (head != null) keep(head);
        checkpoint.requireAllRead();
        originalParameters = checkpoint.parameters();
    }

    /** A layer's tensors by their names below its prefix. */
    private Map<String, Tensor> layer(Checkpoint checkpoint, int index) {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        String prefix = prefix(index);
        for (String norm : LayerTensors.NORMS.values()) {
            tensors.put(norm + ".weight", checkpoint.get(prefix + norm + ".weight", config.hiddenSize()));
        }
        for (Linear linear : Linear.of(config)) {
            String name = linear.name() + ".weight";
            tensors.put(name, checkpoint.get(prefix + name, linear.out(), linear.in()));
            Tensor bias = checkpoint.find(prefix + linear.name() + ".bias", linear.out());
            if (bias != null) tensors.put(linear.name() + ".bias", bias);
        }
        return tensors;
    }

    private static String prefix(int layer) {
        return "model.layers." + layer + ".";
    }

    private void keep(Tensor tensor) {
        add(List.of(tensor), 1, List.of(tensor.name()));
    }

    private SharedWeight add(List<Tensor> tensors, int count, List<String> names) {
        SharedWeight weight = new SharedWeight(tensors, count, options.type);
        weights.add(new Weight(weight, names));
        return weight;
    }

    private void planEnd(List<Map<String, Tensor>> layers, int layer) {
        layers.get(origin[layer]).forEach((name, tensor) -> add(List.of(tensor), 1, List.of(prefix(layer) + name)));
    }

    private void planSlot(List<Map<String, Tensor>> layers, int slot) {
        int[] passes = IntStream.range(0, tying.recursions()).map(depth -> tying.layer(slot, depth)).toArray();
        int[] sources = options.init.sources(tying, slot);
        for (String norm : LayerTensors.NORMS.values()) {
            String name = norm + ".weight";
            if (options.tiedNorms) addShared(layers, sources, passes, name);
            for (int layer : options.tiedNorms ? new int[0] : passes) {
                add(List.of(layers.get(origin[layer]).get(name)), 1, List.of(prefix(layer) + name));
            }
        }
        for (Linear linear : Linear.of(config)) {
            SharedWeight weight = addShared(layers, sources, passes, linear.name() + ".weight");
            addShared(layers, sources, passes, linear.name() + ".bias");
            int rank = rank(linear);
            for (int layer : rank > 0 ? passes : new int[0]) {
                Tensor original = layers.get(origin[layer]).get(linear.name() + ".weight");
                pairs.add(new LoraPair(prefix(layer) + linear.name(), linear, original, weight, rank));
            }
        }
    }

    /** The slot's weight of that name; null if none of the sources has one. */
    private SharedWeight addShared(List<Map<String, Tensor>> layers, int[] sources, int[] passes, String name) {
        List<Tensor> tensors = Arrays.stream(sources).mapToObj(layer -> layers.get(origin[layer]).get(name))
                .filter(Objects::nonNull).toList();
        if (tensors.isEmpty()) return null;
        return add(tensors, sources.length, Arrays.stream(passes).limit(options.compact ? 1 : passes.length)
                .mapToObj(layer -> prefix(layer) + name).toList());
    }

    private int rank(Linear linear) {
        return Math.min(options.ranks.getOrDefault(linear.part(), 0), Math.min(linear.out(), linear.in()));
    }

    // ---- what there is to tell -----------------------------------------------------------------------------------

    ModelConfig config() {
        return config;
    }

    LayerTying tying() {
        return tying;
    }

    LayerInit init() {
        return options.init;
    }

    /** The layer of the original that each unrolled layer stands for. */
    int[] origins() {
        return origin.clone();
    }

    long originalParameters() {
        return originalParameters;
    }

    /** Tied ones once, without the LoRA pairs. */
    long sharedParameters() {
        return weights.stream().mapToLong(weight -> weight.values.elements()).sum();
    }

    long loraParameters() {
        return pairs.stream().mapToLong(LoraPair::parameters).sum();
    }

    /** Bytes of all tensors that are stored. */
    long bytes() {
        long adapter = hasAdapter() ? entries("", false).stream().mapToLong(SafetensorsWriter.Entry::bytes).sum() : 0;
        return adapter + entries("", true).stream().mapToLong(SafetensorsWriter.Entry::bytes).sum();
    }

    // ---- files ---------------------------------------------------------------------------------------------------

    /** What {@link #write} tells of its progress when it is done. */
    long steps() {
        return sharedParameters() + LORA_STEPS * pairs.stream().mapToLong(LoraPair::elements).sum();
    }

    /** @return how much of the sum of squares of all differences the LoRA pairs hold, 0..1; 1 if there is none */
    double write(Path to, int threads, LongConsumer progress) {
        try (DraftDirectory draft = new DraftDirectory(to)) {
            requireSpace(draft.path(), to);
            copyCompanions(draft.path());
            Files.writeString(draft.path().resolve("config.json"), Json.text(configJson()));
            double kept;
            try (SafetensorsWriter file = open(draft.path(), "model.safetensors", "", true);
                    SafetensorsWriter adapter = hasAdapter() ? openAdapter(draft.path()) : null) {
                long done = writeWeights(file, progress);
                kept = new LoraWriter(file, adapter).write(pairs, threads,
                        elements -> progress.accept(done + LORA_STEPS * elements));
                file.finish();
                if (adapter != null) adapter.finish();
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

    private void copyCompanions(Path draft) throws IOException {
        try (Stream<Path> files = Files.list(model)) {
            for (Path file : files.sorted().toList()) {
                String name = file.getFileName().toString();
                if (name.matches(COMPANIONS) && Files.isRegularFile(file)) Files.copy(file, draft.resolve(name));
            }
        }
    }

    private boolean hasAdapter() {
        return !pairs.isEmpty() && !options.compact;
    }

    private SafetensorsWriter openAdapter(Path draft) throws IOException {
        Path folder = Files.createDirectory(draft.resolve("adapter"));
        Files.writeString(folder.resolve("adapter_config.json"), Json.text(adapterJson()));
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
                entries.add(new SafetensorsWriter.Entry(name, weight.values.type(), weight.values.shape()));
            }
        }
        for (LoraPair pair : pairs) entries.addAll(pair.entries(prefix));
        return entries;
    }

    /** @return the steps that it took */
    private long writeWeights(SafetensorsWriter file, LongConsumer progress) throws IOException {
        float[] values = new float[PIECE];
        long done = 0;
        for (Weight weight : weights) {
            for (long from = 0; from < weight.values.elements(); from += PIECE) {
                int count = (int) Math.min(PIECE, weight.values.elements() - from);
                weight.values.read(from, values, count);
                for (String name : weight.names) file.write(name, from, values, count);
                done += count;
                progress.accept(done);
            }
        }
        return done;
    }

    // ---- descriptions --------------------------------------------------------------------------------------------

    /** The original's with what changes. */
    private ObjectNode configJson() {
        ObjectNode root = json.deepCopy();
        root.put("num_hidden_layers", tying.layers());
        JsonNode kinds = root.path("layer_types"); // one for each layer
        if (kinds.isArray() && kinds.size() == config.layers()) {
            ArrayNode tied = root.putArray("layer_types");
            for (int layer : origin) tied.add(kinds.get(layer));
        }
        if (options.type != null) {
            root.put(root.has("dtype") ? "dtype" : "torch_dtype", switch (options.type) {
                case F32 -> "float32";
                case BF16 -> "bfloat16";
                case F16 -> "float16";
                default -> throw new IllegalArgumentException(options.type + " is no type of a checkpoint's tensor");
            });
        }
        root.putObject("recursive").put("enable", true).put("num_recursion", tying.recursions())
                .put("sharing", options.sharing.name().toLowerCase(Locale.ROOT)).put("ln_share", options.tiedNorms)
                .put("initialization", options.init.name().toLowerCase(Locale.ROOT));
        if (!pairs.isEmpty()) {
            ObjectNode lora = root.putObject("relaxation").put("enable", true).put("method", "lora").putObject("lora");
            lora.put("r", largestRank()).put("alpha", largestRank()).put("dropout", 0.0);
            putRanks(lora, "target_modules", "rank_pattern");
        }
        return root;
    }

    /** As PEFT reads it. The scale alpha / r is 1 for every module. */
    private ObjectNode adapterJson() {
        ObjectNode root = json.objectNode();
        root.put("peft_type", "LORA").put("task_type", "CAUSAL_LM").putNull("base_model_name_or_path");
        root.put("r", largestRank()).put("lora_alpha", largestRank()).put("lora_dropout", 0.0).put("bias", "none");
        root.put("fan_in_fan_out", false).put("use_rslora", false).put("use_dora", false);
        root.put("init_lora_weights", true).put("inference_mode", true);
        putRanks(root, "target_modules", "rank_pattern", "alpha_pattern");
        ArrayNode relaxed = root.putArray("layers_to_transform");
        for (int layer = tying.first(); layer < tying.layers() - tying.first(); layer++) relaxed.add(layer);
        return root;
    }

    private int largestRank() {
        return pairs.stream().mapToInt(LoraPair::rank).max().orElse(0);
    }

    private void putRanks(ObjectNode node, String modules, String... patterns) {
        ArrayNode names = node.putArray(modules);
        for (Linear linear : Linear.of(config)) {
            if (rank(linear) == 0) continue;
            names.add(linear.module());
            for (String pattern : patterns) node.withObject("/" + pattern).put(linear.module(), rank(linear));
        }
    }
}
