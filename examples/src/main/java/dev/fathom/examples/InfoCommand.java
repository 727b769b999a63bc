package dev.fathom.examples;

import java.io.PrintStream;

import dev.fathom.Context;
import dev.fathom.KernelException;
import dev.fathom.ffi.Fathom;
import dev.fathom.ffi.FathomLibrary;
import picocli.CommandLine.Command;

@Command(name = "info", description = "What this machine offers and what Fathom uses of it.")
final class InfoCommand implements Runnable {
    @Override
    public void run() {
        PrintStream out = Main.out();
        try (Context context = Context.cpu()) {
            Context.Info info = context.info();
            line(out, "instructions", info.isa() + (info.bf16Dot() ? " with bf16 products" : "")
                    + (info.isa() == info.bestIsa() ? ", the best here" : ", best here: " + info.bestIsa()));
            line(out, "workers", Integer.toString(info.workers()));
            line(out, "caches", "L2 " + size(info.l2Bytes()) + " per core, L3 " + size(info.l3Bytes()) + " shared");
        }
        line(out, "gpu", gpu());
        line(out, "library", FathomLibrary.origin() + ", ABI " + Fathom.fth_abi());
        line(out, "java", Runtime.version() + ", " + System.getProperty("java.vm.name"));
        out.flush();
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

    private static void line(PrintStream out, String name, String value) {
        out.println(String.format("%-13s %s", name, value));
    }
}
