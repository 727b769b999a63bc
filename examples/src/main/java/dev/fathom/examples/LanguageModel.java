package dev.fathom.examples;

import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KernelException;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Step;

/** A model ready to run: its weights, the context that runs it and its text codec. */
public final class LanguageModel implements AutoCloseable {
    private final Context context;
    private final ModelConfig config;
    private final DepthModel weights;
    private final ExitHeads exits;
    private final DType type;
    private final TextCodec codec;
    /** Begins the sentence that says why there is no codec. */
    private final String withoutTokenizer;

    private LanguageModel(Context context, ModelConfig config, DepthModel weights, ExitHeads exits, DType type,
            TextCodec codec, String withoutTokenizer) {
        this.context = context;
        this.config = config;
        this.weights = weights;
        this.exits = exits;
        this.type = type;
        this.codec = codec;
        this.withoutTokenizer = withoutTokenizer;
    }

    /**
     * A model in a Hugging Face directory or a GGUF file.
     *
     * @param type       of weights; null: as {@link WeightTypes#of} chooses
     * @param workers    0: one per core
     * @param exits      layers behind which a token may exit; null: as config.json says
     * @param propagates whether exits may propagate their states
     */
    public static LanguageModel open(Path model, DType type, int workers, List<Integer> exits,
            boolean propagates) {
        return open(ModelFiles.of(model), type, null, Context.cpu(workers), exits, propagates, warning -> { });
    }

    /** The model that comes with the library. */
    public static LanguageModel bundled(int workers) {
        return open(ModelFiles.bundled(), null, workers, warning -> { });
    }

    /** With the exits of config.json, which do not propagate. */
    static LanguageModel open(ModelFiles files, DType type, int workers, Consumer<String> warnings) {
        return open(files, type, null, Context.cpu(workers), null, false, warnings);
    }

    /**
     * @param type       of weights; null: as {@link WeightTypes#of} chooses
     * @param kv         type of K and V; null: as that of the weights has it
     * @param context    belongs to the model from now on
     * @param exits      layers behind which a token may exit; null: as config.json says
     * @param propagates whether exits may propagate their states
     */
    static LanguageModel open(ModelFiles files, DType type, DType kv, Context context, List<Integer> exits,
            boolean propagates, Consumer<String> warnings) {
        try {
            ModelConfig config = ModelConfig.read(files);
            if (exits != null) config = config.withExits(exits);
            TextCodec codec = TextCodec.of(files, config.vocabSize());
            try (Checkpoint checkpoint = new Checkpoint(files)) { // the weights belong to the context
                WeightTypes types = WeightTypes.of(checkpoint, type, warnings).withKv(kv);
                ModelLoader.Loaded loaded = ModelLoader.load(context, config, checkpoint, types, propagates, warnings);
                return new LanguageModel(context, config, loaded.model(), loaded.exits(), types.layers(), codec,
                        files.withoutTokenizer());
            }
        } catch (RuntimeException | Error e) {
            context.close();
            throw e;
        }
    }

    /** Runs the model over texts. */
    DepthSession session(ExitPolicy policy, Limits limits) {
        try {
            return new DepthSession(context, weights, policy, limits);
        } catch (KernelException | OutOfMemoryError e) {
            throw new UserException("There is not enough memory for K and V of " + limits.sequences() + " x "
                    + limits.tokens() + " tokens: " + e.getMessage() + ".");
        }
    }

    public Context context() {
        return context;
    }

    ModelConfig config() {
        return config;
    }

    public DepthModel weights() {
        return weights;
    }

    public ExitHeads exits() {
        return exits;
    }

    /**
     * How deep a token can go: passes through the looped layers; with exits, the legs behind which it may be answered.
     */
    int depths(ExitPolicy policy) {
        if (policy.points().isEmpty()) return config.depths();
        return weights.stages().stream().mapToInt(stage -> stage.shape().depths()).sum();
    }

    /** How deep a token of a step went. */
    int depth(ExitPolicy policy, Step step, int token) {
        return policy.points().isEmpty() ? step.depth(token) : step.legs(token);
    }

    /** The same weights, whose routers let tokens go on from another logit on; close one of the two. */
    LanguageModel withRouterThreshold(float threshold) {
        return new LanguageModel(context, config, weights.withRouterThreshold(threshold), exits, type, codec,
                withoutTokenizer);
    }

    DType type() {
        return type;
    }

    /** Refuses models whose text nothing here can read. */
    TextCodec codec() {
        if (codec != null) return codec;
        throw new UserException(withoutTokenizer + " and its " + config.vocabSize()
                + " words are not the 256 bytes: give token ids.");
    }

    /** Whether bits per token are bits per byte. */
    boolean hasByteTokens() {
        return codec != null && codec.isBytes();
    }

    @Override
    public void close() {
        context.close();
    }
}
