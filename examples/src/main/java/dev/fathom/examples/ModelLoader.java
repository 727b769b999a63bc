package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Consumer;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.GatePart;
import dev.fathom.GateShape;
import dev.fathom.HeadShape;
import dev.fathom.Kind;
import dev.fathom.LinearShape;
import dev.fathom.NormKind;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.RouterKind;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.Head;
import dev.fathom.depth.KvPolicy;
import dev.fathom.depth.Router;
import dev.fathom.depth.Stage;
import dev.fathom.examples.ModelConfig.Routing;

/** Packs a checkpoint's tensors into the weights of a {@link DepthModel}. Every tensor must have its place. */
final class ModelLoader {
    static final Map<Part, String> NORMS = new EnumMap<>(Map.of(
            Part.ATTENTION_PRE_NORM, "input_layernorm", Part.MLP_PRE_NORM, "post_attention_layernorm"));

    private final Context context;
    private final ModelConfig config;
    private final Checkpoint checkpoint;
    private final DType weightType;
    private final Consumer<String> warnings;
    private final List<Linear> linears;
    private final Set<String> untied = new TreeSet<>();

    private ModelLoader(Context context, ModelConfig config, Checkpoint checkpoint, DType weightType,
            Consumer<String> warnings) {
        this.context = context;
        this.config = config;
        this.checkpoint = checkpoint;
        this.weightType = weightType;
        this.warnings = warnings;
        linears = Linear.of(config);
    }

    /** Weights of {@code weightType} that live as long as the context. */
    static DepthModel load(Context context, ModelConfig config, Checkpoint checkpoint, DType weightType,
            Consumer<String> warnings) {
        return new ModelLoader(context, config, checkpoint, weightType, warnings).load();
    }

    private DepthModel load() {
        int hidden = config.hiddenSize();
        int words = config.vocabSize();
        HeadShape head = new HeadShape(hidden, words, weightType, NormKind.RMS, config.normEps());
        Tensor embedding = checkpoint.get("model.embed_tokens.weight", words, hidden);
        Buffer table = packLinear(head.weights(), embedding);
        Buffer headWeights = table;
        if (config.tiedEmbeddings()) {
            Tensor copy = checkpoint.find("lm_head.weight", words, hidden);
            if (copy != null && !copy.sameAs(embedding)) untied.add("lm_head.weight");
        } else {
            headWeights = packLinear(head.weights(), checkpoint.get("lm_head.weight", words, hidden));
        }
        List<Stage> stages = new ArrayList<>();
        for (StagePlan plan : StagePlan.of(config, checkpoint)) stages.add(stage(plan));
        Buffer gain = vector(checkpoint.get("model.norm.weight", hidden));
        checkpoint.requireAllRead();
        warnAboutUntied();
        return new DepthModel(new EmbedShape(words, hidden, weightType, true, 1), table, stages,
                new Head(head, gain, null, headWeights));
    }

    private void warnAboutUntied() {
        if (!untied.isEmpty()) {
            warnings.accept(untied.size() + " tied tensors differ from their first copy, which is used for all;"
                    + " the first is " + untied.iterator().next() + ".");
        }
    }

    // ---- stages --------------------------------------------------------------------------------------------------

    private Stage stage(StagePlan plan) {
        BlockShape shape = shape(plan);
        Buffer weights = context.allocate(context.blockBytes(shape));
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (Linear linear : linears) packLinear(plan, shape, layer, linear, weights);
            for (var norm : NORMS.entrySet()) packNorm(plan, shape, layer, norm.getKey(), norm.getValue(), weights);
        }
        try (Arena scratch = Arena.ofConfined()) {
            Buffer frequency = context.wrap(scratch.allocate(4L * config.ropeFrequency().length, 64))
                    .write(config.ropeFrequency());
            context.blockPack(shape, 0, 0, Part.ROPE_FREQUENCY, Kind.WEIGHT, 1, DType.F32, frequency, weights);
        }
        boolean shared = config.sharedKv() && plan.depths() > 1;
        return new Stage(shape, weights, plan.routed() ? router(plan) : new Router.Always(),
                shared ? KvPolicy.FIRST_DEPTH : KvPolicy.PER_DEPTH);
    }

    private BlockShape shape(StagePlan plan) {
        BlockShape.Builder builder = BlockShape
                .builder(plan.layers(), config.hiddenSize(), config.intermediateSize(), config.heads())
                .depths(plan.depths()).kvHeads(config.kvHeads()).headDim(config.headDim())
                .weightType(weightType).kvType(weightType)
                .norm(NormKind.RMS, config.normEps()).normPerDepth(hasNormPerDepth(plan))
                .activation(config.activation(), true).bias(hasBias(plan))
                .rope(RopeStyle.HALF, 2 * config.ropeFrequency().length);
        if (config.lora() != null) {
            for (Linear linear : linears) builder.loraRank(linear.part(), loraRank(plan, linear.name()));
        }
        return builder.build();
    }

    private boolean hasNormPerDepth(StagePlan plan) {
        return plan.depths() > 1 && !config.recursion().tiedNorms();
    }

    private boolean hasBias(StagePlan plan) {
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (String prefix : plan.copies(layer)) {
                for (Linear linear : linears) {
                    if (checkpoint.has(prefix + linear.name() + ".bias")) return true;
                }
            }
        }
        return false;
    }

    /** The rank that all pairs of this linear have; 0 without any. */
    private int loraRank(StagePlan plan, String name) {
        long rank = 0;
        for (int layer = 0; layer < plan.layers(); layer++) {
            for (String prefix : plan.copies(layer)) {
                Tensor a = checkpoint.peek(prefix + name + ".lora_A.weight");
                if (a == null) continue;
                long own = a.shape().length == 0 ? 0 : a.shape()[0];
                if (own < 1 || rank != 0 && own != rank) {
                    throw new UserException("Tensor " + a.name() + " has rank " + own + ", expected "
                            + (rank == 0 ? "at least 1" : rank + " as in the other layers") + ".");
                }
                rank = own;
            }
        }
        return (int) Math.min(rank, Integer.MAX_VALUE);
    }

    private void packLinear(StagePlan plan, BlockShape shape, int layer, Linear linear, Buffer weights) {
        Part part = linear.part();
        List<String> copies = plan.copies(layer);
        Tensor weight = tied(plan, names(copies, linear.name() + ".weight"), linear.out(), linear.in());
        pack(shape, layer, 0, part, Kind.WEIGHT, 1, weight, weights);
        List<String> biases = names(copies, linear.name() + ".bias");
        if (biases.stream().anyMatch(checkpoint::has)) {
            pack(shape, layer, 0, part, Kind.BIAS, 1, tied(plan, biases, linear.out()), weights);
        }
        int rank = shape.loraRank(part);
        for (int depth = 0; rank > 0 && depth < plan.depths(); depth++) {
            String prefix = plan.prefix().of(layer, depth) + linear.name();
            Tensor a = checkpoint.find(prefix + ".lora_A.weight", rank, linear.in());
            if (a == null) continue; // a depth without a pair adds nothing
            Tensor b = checkpoint.get(prefix + ".lora_B.weight", linear.out(), rank);
            pack(shape, layer, depth, part, Kind.LORA_A, 1, a, weights);
            pack(shape, layer, depth, part, Kind.LORA_B, config.lora().scale(), b, weights);
        }
    }

    /** Gains of its own for each depth, or one for all. A depth that stores none has those of the first that does. */
    private void packNorm(StagePlan plan, BlockShape shape, int layer, Part part, String name, Buffer weights) {
        List<String> copies = names(plan.copies(layer), name + ".weight");
        if (!shape.normPerDepth()) {
            pack(shape, layer, 0, part, Kind.WEIGHT, 1, tied(plan, copies, config.hiddenSize()), weights);
            return;
        }
        Tensor first = checkpoint.copies(copies, config.hiddenSize()).getFirst();
        for (int depth = 0; depth < plan.depths(); depth++) {
            Tensor own = checkpoint.find(plan.prefix().of(layer, depth) + name + ".weight", config.hiddenSize());
            pack(shape, layer, depth, part, Kind.WEIGHT, 1, own == null ? first : own, weights);
        }
    }

    private static List<String> names(List<String> prefixes, String name) {
        return prefixes.stream().map(prefix -> prefix + name).toList();
    }

    /** The one weight that all stored copies are. Routed models whose passes differ are another kind of model. */
    private Tensor tied(StagePlan plan, List<String> names, long... shape) {
        List<Tensor> copies = checkpoint.copies(names, shape);
        Tensor first = copies.getFirst();
        for (Tensor copy : copies.subList(1, copies.size())) {
            if (copy.sameAs(first)) continue;
            if (plan.routed()) {
                throw new UserException("Tensor " + copy.name() + " differs from " + first.name()
                        + ": a router over weights that are not shared is not supported.");
            }
            untied.add(copy.name());
        }
        return first;
    }

    // ---- routers -------------------------------------------------------------------------------------------------

    private Router router(StagePlan plan) {
        Routing routing = config.routing();
        int first = config.recursion().sharing().ends() / 2;
        int routers = routing.tokenChoice() ? 1 : plan.depths();
        int outputs = routing.tokenChoice() ? plan.depths() : 1;
        boolean mlp = routing.router() == RouterKind.MLP;
        int inner = mlp ? innerSize("model.layers." + first + ".mor_router.router.0.weight") : 0;
        GateShape shape = new GateShape(config.hiddenSize(), inner, outputs, routers, routing.router(),
                routing.function(), routing.temperature(), routing.alpha(), 0);
        Buffer weights = context.allocate(context.gateBytes(shape));
        for (int depth = 0; depth < routers; depth++) {
            String prefix = "model.layers." + (first + depth) + ".mor_router.router.";
            if (mlp) {
                pack(shape, depth, GatePart.W1, checkpoint.get(prefix + "0.weight", inner, config.hiddenSize()),
                        weights);
                pack(shape, depth, GatePart.W2, checkpoint.get(prefix + "2.weight", outputs, inner), weights);
            } else {
                pack(shape, depth, GatePart.W1, checkpoint.get(prefix + "weight", outputs, config.hiddenSize()),
                        weights);
            }
        }
        Router.Gating gating = routing.weighted() ? Router.Gating.WEIGHTED : Router.Gating.ADDITIVE;
        return routing.tokenChoice()
                ? new Router.TokenChoice(shape, weights, routerBias("model.layers." + first + ".", outputs), gating)
                : new Router.ExpertChoice(shape, weights, gating);
    }

    private int innerSize(String name) {
        Tensor tensor = checkpoint.peek(name);
        if (tensor == null || tensor.shape().length == 0) return 2 * config.hiddenSize();
        return (int) Math.clamp(tensor.shape()[0], 1, Integer.MAX_VALUE);
    }

    /** The bias of loss-free balancing, under any of the names it has had; null without. */
    private Buffer routerBias(String prefix, int outputs) {
        Buffer bias = null;
        for (String name : List.of("router_bias", "mor_router.router_bias", "mor_router.bias")) {
            Tensor tensor = checkpoint.find(prefix + name, outputs);
            if (tensor != null && bias == null) bias = vector(tensor);
        }
        if (bias == null && config.routing().biased()) checkpoint.get(prefix + "router_bias", outputs);
        return bias;
    }

    // ---- packing -------------------------------------------------------------------------------------------------

    private void pack(BlockShape shape, int layer, int depth, Part part, Kind kind, float scale, Tensor tensor,
            Buffer weights) {
        try (Arena scratch = Arena.ofConfined()) {
            context.blockPack(shape, layer, depth, part, kind, scale, tensor.type(),
                    context.wrap(tensor.aligned(scratch)), weights);
        }
    }

    private void pack(GateShape shape, int depth, GatePart part, Tensor tensor, Buffer weights) {
        try (Arena scratch = Arena.ofConfined()) {
            context.gatePack(shape, depth, part, tensor.type(), context.wrap(tensor.aligned(scratch)), weights);
        }
    }

    private Buffer packLinear(LinearShape shape, Tensor tensor) {
        Buffer packed = context.allocate(context.linearBytes(shape));
        try (Arena scratch = Arena.ofConfined()) {
            context.linearPack(shape, 0, shape.outFeatures(), tensor.type(), context.wrap(tensor.aligned(scratch)),
                    packed);
        }
        return packed;
    }

    private Buffer vector(Tensor tensor) {
        float[] values = tensor.toFloats();
        return context.allocate(4L * values.length).write(values);
    }
}
