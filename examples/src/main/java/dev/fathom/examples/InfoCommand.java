package dev.fathom.examples;

import dev.fathom.Context;
import dev.fathom.KernelException;
import dev.fathom.ffi.Fathom;
import dev.fathom.ffi.FathomLibrary;
import picocli.CommandLine.Command;
import picocli.CommandLine.ParentCommand;

@Command(name = "info", description = "What this machine offers and what Fathom uses of it.")
final class InfoCommand implements Runnable {
    @ParentCommand
    private Main main;

    @Override
    public void run() {
        try (Context context = Context.cpu()) {
            Context.Info info = context.info();
            line("instructions", info.isa() + (info.bf16Dot() ? " with bf16 products" : "")
                    + (info.isa() == info.bestIsa() ? ", the best here" : ", best here: " + info.bestIsa()));
            line("workers", Integer.toString(info.workers()));
            line("caches", "L2 " + size(info.l2Bytes()) + " per core, L3 " + size(info.l3Bytes()) + " shared");
        }
        line("gpu", gpu());
        line("library", FathomLibrary.origin() + ", ABI " + Fathom.fth_abi());
        line("java", Runtime.version() + ", " + System.getProperty("java.vm.name"));
    }

    private static String gpu() {
        int devices = Context.cudaDevices();
        try (Context ignored = Context.cuda(0)) {
            return devices + (devices == 1 ? " CUDA device" : " CUDA devices");
        } catch (KernelException | IllegalArgumentException e) {
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
