package dev.fathom.examples;

import java.util.List;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.depth.DepthModel;

/** A T5 model ready to run: its weights and the context that runs it. */
final class EncoderDecoder implements AutoCloseable {
    private final Context context;
    private final T5Config config;
    private final ModelLoader.Loaded loaded;
    private final TextCodec codec;

    private EncoderDecoder(Context context, T5Config config, ModelLoader.Loaded loaded, TextCodec codec) {
        this.context = context;
        this.codec = codec;
        this.config = config;
        this.loaded = loaded;
    }

    /** As {@link LanguageModel#open}; the context is closed with the model. */
    static EncoderDecoder open(ModelFiles files, DType type, DType kv, Context context, List<Integer> exits,
            boolean propagates) {
        try {
            T5Config config = T5Config.parse(ModelConfig.json(files));
            if (exits != null) config = config.withExits(exits);
            TextCodec codec = TextCodec.of(files, config.vocabSize());
            try (Checkpoint checkpoint = new Checkpoint(files)) { // the weights belong to the context
                WeightTypes types = WeightTypes.of(checkpoint, type, note -> { }).withKv(kv);
                return new EncoderDecoder(context, config,
                        T5Loader.load(context, config, checkpoint, types, propagates), codec);
            }
        } catch (RuntimeException | Error e) {
            context.close();
            throw e;
        }
    }

    Context context() {
        return context;
    }

    T5Config config() {
        return config;
    }

    /** Null: the model comes without tokenizer.json, and its words are not the 256 bytes. */
    TextCodec codec() {
        return codec;
    }

    DepthModel weights() {
        return loaded.model();
    }

    ExitHeads exits() {
        return loaded.exits();
    }

    @Override
    public void close() {
        context.close();
    }
}
