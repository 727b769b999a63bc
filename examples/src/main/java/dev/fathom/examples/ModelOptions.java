package dev.fathom.examples;

import java.nio.file.Path;
import java.util.Locale;

import dev.fathom.DType;
import picocli.CommandLine.Option;

/** Options of every command that runs a model. */
final class ModelOptions {
    @Option(names = "--model", paramLabel = "DIR",
            description = "Directory with config.json and model.safetensors (default: the bundled model).")
    private Path directory;

    @Option(names = "--dtype", paramLabel = "f32|bf16",
            description = "Type of weights, K and V (default: as in the checkpoint).")
    private String dtype;

    @Option(names = "--threads", paramLabel = "N", defaultValue = "0", description = "Threads (default: one per core).")
    private int threads;

    /** Warnings go to standard error. */
    LanguageModel open() {
        if (threads < 0) throw new UserException("--threads must be at least 0, got " + threads + ".");
        ModelFiles files = directory == null ? ModelFiles.bundled() : ModelFiles.directory(directory);
        return LanguageModel.open(files, type(), threads, warning -> Main.say("warning: " + warning));
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
