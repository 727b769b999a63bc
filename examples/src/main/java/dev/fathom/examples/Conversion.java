package dev.fathom.examples;

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

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.Part;
import dev.fathom.depth.KvPolicy;
import dev.fathom.examples.ModelConfig.Sharing;

/**
 * A vanilla model as a recursive one (Relaxed Recursive Transformers, arXiv 2410.20672): its layers are tied to the
 * slots of a shared block, and what each layer loses can come back as a LoRA pair, the truncated singular value
 * decomposition of the difference. {@code docs/convert.md} has the rules and the files.
 */
final class Conversion implements AutoCloseable {
    private final Path model;
    private final Options options;
    private final ObjectNode json;
    private final ModelConfig config;
    private final Checkpoint checkpoint;
    private final LayerTying tying;
    /** The layer of the original that each unrolled layer stands for. */
    private final int[] origin;
    private final List<ModelWriter.Weight> weights = new ArrayList<>();
    private final List<LoraPair> pairs = new ArrayList<>();
    private final List<String> unquantised = new ArrayList<>();
    private final ModelWriter writer;
    private long originalParameters;

    /**
     * @param layers  unrolled layers of the result, ends included; 0: as many of the original's as divide
     * @param init    null: stepwise, with LoRA average
     * @param ranks   of the LoRA pairs; a part that is absent has none. More than the shorter side means that side
     * @param types   of the stored weights
     * @param compact store only what is needed to build the model again: tied weights once, and no PEFT adapter
     */
    record Options(int recursions, int layers, Sharing sharing, LayerInit init, boolean tiedNorms,
            Map<Part, Integer> ranks, StoredTypes types, boolean compact) {
        Options {
            Map<Part, Integer> positive = new EnumMap<>(Part.class);
            ranks.forEach((part, rank) -> {
                if (rank > 0) positive.put(part, rank);
            });
            ranks = positive;
            if (init == null) init = ranks.isEmpty() ? LayerInit.STEPWISE : LayerInit.AVERAGE;
        }
    }

    /** Plans the conversion of a model and checks everything that it needs. Its files stay open until the end. */
    Conversion(Path model, Options options) {
        this.model = model;
        this.options = options;
        ModelFiles files = ModelFiles.of(model);
        json = ModelConfig.json(files);
        config = ModelConfig.parse(json);
        requireVanilla();
        tying = new LayerTying(options.sharing, layers(), options.recursions);
        origin = origin();
        checkpoint = new Checkpoint(files);
        try {
            plan();
            writer = new ModelWriter(files, weights, pairs, configJson(),
                    pairs.isEmpty() || options.compact ? null : adapterJson());
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
        String name = names.getFirst();
        SharedWeight weight = new SharedWeight(tensors, count, options.types.of(name, tensors.getFirst()));
        weights.add(new ModelWriter.Weight(weight, names));
        if (options.types.quantises(name) && !weight.type().quantised()) unquantised.addAll(names);
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
                pairs.add(new LoraPair(prefix(layer) + linear.name(), linear, original, weight, rank,
                        options.types.beside(original)));
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

    /** Names of matrices that should have been quantised, but whose rows cannot be cut into blocks. */
    List<String> unquantised() {
        return unquantised;
    }

    long originalParameters() {
        return originalParameters;
    }

    /** Tied ones once, without the LoRA pairs. */
    long sharedParameters() {
        return weights.stream().mapToLong(weight -> weight.values().elements()).sum();
    }

    long loraParameters() {
        return pairs.stream().mapToLong(LoraPair::parameters).sum();
    }

    // ---- files ---------------------------------------------------------------------------------------------------

    /** Bytes of all tensors that are stored. */
    long bytes() {
        return writer.bytes();
    }

    /** What {@link #write} tells of its progress when it is done. */
    long steps() {
        return writer.steps();
    }

    /** @return how much of the sum of squares of all differences the LoRA pairs hold, 0..1; 1 if there is none */
    double write(Path to, int threads, LongConsumer progress) {
        return writer.write(to, threads, progress);
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
        ModelWriter.putTypes(root, options.types.plain(), weights);
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
