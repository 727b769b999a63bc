package dev.fathom.examples;

import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

import dev.fathom.Context;
import dev.fathom.KernelException;
import dev.fathom.ffi.Fathom;
import dev.fathom.ffi.FathomLibrary;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParentCommand;

@Command(name = "info", description = "What this machine offers and what Fathom uses of it; what a model is.")
final class InfoCommand implements Runnable {
    @ParentCommand
    private Main main;

    @Option(names = "--model", paramLabel = "PATH", description = "A directory or a GGUF file, to be described too.")
    private Path model;

    @Override
    public void run() {
        ModelFiles files = model == null ? null : ModelFiles.of(model);
        try (Context context = Context.cpu()) {
            Context.Info info = context.info();
            line("instructions", info.isa() + (info.bf16Dot() ? " with bf16 products" : "")
                    + (info.int8Dot() ? info.bf16Dot() ? " and 8-bit products" : " with 8-bit products" : "")
                    + (info.isa() == info.bestIsa() ? ", the best here" : ", best here: " + info.bestIsa()));
            line("workers", Integer.toString(info.workers()));
            line("caches", "L2 " + size(info.l2Bytes()) + " per core, L3 " + size(info.l3Bytes()) + " shared");
        }
        line("gpu", gpu());
        line("library", FathomLibrary.origin() + ", ABI " + Fathom.fth_abi());
        line("java", Runtime.version() + ", " + System.getProperty("java.vm.name"));
        if (files != null) describe(files);
    }

    private void describe(ModelFiles files) {
        ModelConfig config = ModelConfig.read(files);
        line("model", config.layers() + " layers" + (config.recursion() == null ? ""
                : ", recursive, " + config.depths() + " passes" + (config.routing() == null ? "" : " with routers"))
                + ", hidden " + config.hiddenSize() + ", " + config.heads() + " heads over " + config.kvHeads() + ", "
                + config.vocabSize() + " words, context " + config.contextLength());
        Map<String, Long> elements = new TreeMap<>();
        try (Checkpoint checkpoint = new Checkpoint(files)) {
            for (Tensor tensor : checkpoint.tensors()) elements.merge(tensor.dtype(), tensor.elements(), Long::sum);
        }
        line("parameters", elements.entrySet().stream().map(type -> String.format(Locale.ROOT, "%,d in %s",
                type.getValue(), type.getKey())).collect(Collectors.joining(", ")));
        TextCodec codec = TextCodec.of(files, config.vocabSize());
        line("text", codec == null ? files.withoutTokenizer() : codec.isBytes() ? "bytes" : "a tokenizer");
    }

    private static String gpu() {
        try (Context context = Context.cuda(0)) {
            int devices = Context.cudaDevices();
            Context.Device device = context.info().device();
            return String.format(Locale.ROOT, "CUDA, %d multiprocessors, compute capability %d.%d, %s, L2 %s%s",
                    device.multiprocessors(), device.computeCapability() / 10, device.computeCapability() % 10,
                    size(device.bytes()), size(context.info().l2Bytes()), devices == 1 ? "" : ", first of " + devices);
        } catch (KernelException e) {
            return "none used: " + e.getMessage();
        }
    }

    private static String size(long bytes) {
        return bytes == 0 ? "unknown" : bytes >= 1 << 20 ? bytes / (1 << 20) + " MiB" : bytes / 1024 + " KiB";
    }

    private void line(String name, String value) {
        main.out().format("%-13s %s", name, value);
    }
}
