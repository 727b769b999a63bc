package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.function.Consumer;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.HeadShape;
import dev.fathom.Kind;
import dev.fathom.LinearShape;
import dev.fathom.NormKind;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.Head;
import dev.fathom.depth.KvPolicy;
import dev.fathom.depth.KvProjection;
import dev.fathom.depth.Router;
import dev.fathom.depth.Stage;

/** Packs a checkpoint's tensors into the weights of a {@link DepthModel}. Every tensor must have its place. */
final class ModelLoader {
    private final Context context;
    private final ModelConfig config;
    private final Checkpoint checkpoint;
    private final WeightTypes types;
    private final boolean propagates;
    private final Packing packing;
    private final LayerTensors tensors;

    private ModelLoader(Context context, ModelConfig config, Checkpoint checkpoint, WeightTypes types,
            boolean propagates) {
        this.context = context;
        this.config = config;
        this.checkpoint = checkpoint;
        this.types = types;
        this.propagates = propagates;
        packing = new Packing(context);
        tensors = new LayerTensors(config, checkpoint);
    }

    /** A model and where its tokens may exit. */
    record Loaded(DepthModel model, ExitHeads exits) {}

    /**
     * Weights of those types that live as long as the context. {@code propagates}: with a second copy of the key
     * and value weights, for exits that propagate their states.
     */
    static Loaded load(Context context, ModelConfig config, Checkpoint checkpoint, WeightTypes types,
            boolean propagates, Consumer<String> warnings) {
        ModelLoader loader = new ModelLoader(context, config, checkpoint, types, propagates);
        Loaded loaded = loader.load();
        Set<String> untied = loader.tensors.untied();
        if (!untied.isEmpty()) {
            warnings.accept(untied.size() + " tied tensors differ from their first copy, which is used for all;"
                    + " the first is " + untied.iterator().next() + ".");
        }
        return loaded;
    }

    private Loaded load() {
        int hidden = config.hiddenSize();
        int words = config.vocabSize();
        DType tableType = config.tiedEmbeddings() ? types.head() : types.table();
        HeadShape head = new HeadShape(hidden, words, types.head(), NormKind.RMS, config.normEps());
        Tensor embedding = checkpoint.get("model.embed_tokens.weight", words, hidden);
        Buffer table = packing.linear(new LinearShape(hidden, words, tableType), embedding);
        Buffer headWeights = table;
        if (config.tiedEmbeddings()) {
            tensors.compare(checkpoint.find("lm_head.weight", words, hidden), embedding);
        } else {
            headWeights = packing.linear(head.weights(), checkpoint.get("lm_head.weight", words, hidden));
        }
        List<StagePlan> plans = StagePlan.of(config, checkpoint);
        List<Stage> stages = new ArrayList<>();
        for (StagePlan plan : plans) stages.add(stage(plan));
        if (config.lora() != null) tensors.requireRank(config.lora().rank());
        ExitHeads exits = ExitHeads.load(packing, hidden, checkpoint, StagePlan.exits(plans, config.exits()));
        Buffer gain = packing.vector(checkpoint.get("model.norm.weight", hidden));
        checkpoint.requireAllRead();
        return new Loaded(new DepthModel(new EmbedShape(words, hidden, tableType, true, 1), table, stages,
                new Head(head, gain, null, headWeights)), exits);
    }

    private Stage stage(StagePlan plan) {
        BlockShape shape = shape(plan);
        Buffer weights = packing.allocate("the weights of " + plan.prefix().of(0, 0) + "* and what is tied to it",
                context.blockBytes(shape));
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (Linear linear : tensors.linears()) packLinear(plan, shape, layer, linear, weights);
            for (Part norm : LayerTensors.NORMS.keySet()) packNorm(plan, shape, layer, norm, weights);
        }
        try (Arena scratch = Arena.ofConfined()) {
            Buffer frequency = packing.vector(scratch, config.ropeFrequency());
            context.blockPack(shape, 0, 0, Part.ROPE_FREQUENCY, Kind.WEIGHT, 1, DType.F32, frequency, weights);
        }
        Router router = plan.routed() ? new RouterLoader(packing, config, checkpoint).load(plan) : new Router.Always();
        KvPolicy kv = plan.depths() > 1 ? config.kv() : KvPolicy.PER_DEPTH;
        KvProjection propagation = propagates && !plan.routed() && kv == KvPolicy.PER_DEPTH
                ? new PropagationLoader(packing, config, tensors).load(plan, shape) : null;
        return new Stage(shape, weights, router, kv, propagation, null);
    }

    private BlockShape shape(StagePlan plan) {
        BlockShape.Builder builder = BlockShape
                .builder(plan.layers(), config.hiddenSize(), config.intermediateSize(), config.heads())
                .depths(plan.depths()).kvHeads(config.kvHeads()).headDim(config.headDim())
                .weightType(types.layers()).kvType(types.kv()).norm(NormKind.RMS, config.normEps())
                .normPerDepth(plan.depths() > 1 && !config.recursion().tiedNorms())
                .activation(config.activation(), true).bias(tensors.hasBias(plan))
                .rope(RopeStyle.HALF, 2 * config.ropeFrequency().length);
        if (config.lora() != null) {
            for (Linear linear : tensors.linears()) builder.loraRank(linear.part(), tensors.loraRank(plan, linear));
        }
        return builder.build();
    }

    private void packLinear(StagePlan plan, BlockShape shape, int layer, Linear linear, Buffer weights) {
        Part part = linear.part();
        packing.block(shape, layer, 0, part, Kind.WEIGHT, 1, tensors.weight(plan, layer, linear), weights);
        Tensor bias = tensors.bias(plan, layer, linear);
        if (bias != null) packing.block(shape, layer, 0, part, Kind.BIAS, 1, bias, weights);
        int rank = shape.loraRank(part);
        for (int depth = 0; rank > 0 && depth < plan.depths(); depth++) {
            Tensor a = tensors.loraA(plan, layer, depth, linear, rank);
            if (a == null) continue; // a depth without a pair adds nothing
            Tensor b = tensors.loraB(plan, layer, depth, linear, rank);
            packing.block(shape, layer, depth, part, Kind.LORA_A, 1, a, weights);
            packing.block(shape, layer, depth, part, Kind.LORA_B, config.lora().scale(), b, weights);
        }
    }

    /** Gains of its own for each depth, or one for all. */
    private void packNorm(StagePlan plan, BlockShape shape, int layer, Part norm, Buffer weights) {
        if (!shape.normPerDepth()) {
            packing.block(shape, layer, 0, norm, Kind.WEIGHT, 1, tensors.gain(plan, layer, norm), weights);
            return;
        }
        for (int depth = 0; depth < plan.depths(); depth++) {
            packing.block(shape, layer, depth, norm, Kind.WEIGHT, 1, tensors.gain(plan, layer, depth, norm), weights);
        }
    }
}
