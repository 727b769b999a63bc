package dev.fathom.examples;

import java.nio.file.Path;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KernelException;
import picocli.CommandLine.Option;

/** Options of every command that runs a model. */
final class ModelOptions {
    @Option(names = "--model", paramLabel = "PATH", description = "Directory with config.json and model.safetensors, or"
            + " a GGUF file (default: the bundled model).")
    private Path model;

    @Option(names = "--dtype", paramLabel = "f32|bf16|f8|i8|q8_0|q4_0", description = "Type of weights"
            + " (default: the model's own; bf16 for f16).")
    private String dtype;

    @Option(names = "--kv", paramLabel = "f32|bf16|i8", description = "Type of K and V; i8 has a scale per head and"
            + " token (default: f32 with weights in f32, else bf16).")
    private String kv;

    @Option(names = "--threads", paramLabel = "N", defaultValue = "0", description = "Threads (default: one per core).")
    private int threads;

    @Option(names = "--device", paramLabel = "cpu|cuda|cuda:N", defaultValue = "cpu", description = "Where the model runs"
            + " (default: cpu); cuda is the first CUDA device.")
    private String device;

    @Option(names = "--router-threshold", paramLabel = "Z", description = "With expert choice a token goes on from this"
            + " router logit on (default: as trained, 0); higher is faster, and a worse model.")
    private Float routerThreshold;

    /** An encoder-decoder. */
    EncoderDecoder openEncoderDecoder(ExitOptions exits) {
        if (routerThreshold != null) throw new UserException("--router-threshold: encoder-decoders have no routers.");
        if (model == null) throw new UserException("--model must name a directory: no encoder-decoder is bundled.");
        ModelFiles files = ModelFiles.of(model);
        return EncoderDecoder.open(files, type(), kvType(), context(), exits.layers(), exits.propagates());
    }

    private Context context() {
        if (threads < 0) throw new UserException("--threads must be at least 0, got " + threads + ".");
        if (device.equals("cpu")) return Context.cpu(threads);
        if (!device.matches("cuda(:\\d{1,4})?")) {
            throw new UserException("--device must be cpu, cuda or cuda:N, got " + device + ".");
        }
        try {
            return Context.cuda(device.equals("cuda") ? 0 : Integer.parseInt(device.substring(5)));
        } catch (KernelException e) {
            throw new UserException("--device " + device + ": " + e.getMessage() + ".");
        }
    }

    /** Warnings go to standard error. */
    LanguageModel open(ExitOptions exits) {
        ModelFiles files = model == null ? ModelFiles.bundled() : ModelFiles.of(model);
        LanguageModel opened = LanguageModel.open(files, type(), kvType(), context(), exits.layers(),
                exits.propagates(), warning -> Main.say("warning: " + warning));
        if (routerThreshold == null) return opened;
        try {
            return opened.withRouterThreshold(routerThreshold);
        } catch (IllegalArgumentException e) {
            opened.close();
            throw new UserException("--router-threshold: " + e.getMessage() + ".");
        }
    }

    private DType type() {
        return TypeOption.of("--dtype", dtype, DType.F32, DType.BF16, DType.F8_E4M3, DType.I8, DType.Q8_0,
                DType.Q4_0);
    }

    private DType kvType() {
        return TypeOption.of("--kv", kv, DType.F32, DType.BF16, DType.I8);
    }
}
