package dev.fathom.examples;

import java.nio.file.Path;
import java.util.Locale;

import dev.fathom.Context;
import dev.fathom.DType;
import picocli.CommandLine.Option;

/** Options of every command that runs a model. */
final class ModelOptions {
    @Option(names = "--model", paramLabel = "DIR",
            description = "Directory with config.json and model.safetensors (default: the bundled model).")
    private Path directory;

    @Option(names = "--dtype", paramLabel = "f32|bf16",
            description = "Type of weights, K and V (default: bf16 if the checkpoint has 16 bits, else f32).")
    private String dtype;

    @Option(names = "--threads", paramLabel = "N", defaultValue = "0", description = "Threads (default: one per core).")
    private int threads;

    @Option(names = "--router-threshold", paramLabel = "Z", description = "With expert choice a token goes on from this"
            + " router logit on (default: as trained, 0); higher is faster, and a worse model.")
    private Float routerThreshold;

    /** An encoder-decoder. */
    EncoderDecoder openEncoderDecoder(ExitOptions exits) {
        checkThreads();
        if (routerThreshold != null) throw new UserException("--router-threshold: encoder-decoders have no routers.");
        if (directory == null) throw new UserException("--model must name a directory: no encoder-decoder is bundled.");
        ModelFiles files = ModelFiles.directory(directory);
        return EncoderDecoder.open(files, type(), Context.cpu(threads), exits.layers(), exits.propagates());
    }

    private void checkThreads() {
        if (threads < 0) throw new UserException("--threads must be at least 0, got " + threads + ".");
    }

    /** Warnings go to standard error. */
    LanguageModel open(ExitOptions exits) {
        checkThreads();
        ModelFiles files = directory == null ? ModelFiles.bundled() : ModelFiles.directory(directory);
        LanguageModel opened = LanguageModel.open(files, type(), threads, exits.layers(), exits.propagates(),
                warning -> Main.say("warning: " + warning));
        if (routerThreshold == null) return opened;
        try {
            return opened.withRouterThreshold(routerThreshold);
        } catch (IllegalArgumentException e) {
            opened.close();
            throw new UserException("--router-threshold: " + e.getMessage() + ".");
        }
    }

    private DType type() {
        if (dtype == null) return null;
        return switch (dtype.toLowerCase(Locale.ROOT)) {
            case "f32" -> DType.F32;
            case "bf16" -> DType.BF16;
            default -> throw new UserException("--dtype must be f32 or bf16, got " + dtype + ".");
        };
    }
}
