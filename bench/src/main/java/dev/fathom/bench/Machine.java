package dev.fathom.bench;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;

import dev.fathom.Context;

/** Where a result was measured. */
public record Machine(String cpu, String isa, boolean bf16Dot, int cores, long l2Bytes, long l3Bytes, String system,
               String java) {
    public static Machine here() throws IOException {
        try (Context context = Context.cpu()) {
            Context.Info info = context.info();
            return new Machine(cpuModel(), info.isa().toString(), info.bf16Dot(), info.workers(), info.l2Bytes(),
                    info.l3Bytes(), System.getProperty("os.name") + " " + System.getProperty("os.version"),
                    System.getProperty("java.vm.name") + " " + Runtime.version());
        }
    }

    private static String cpuModel() throws IOException {
        try (Stream<String> lines = Files.lines(Path.of("/proc/cpuinfo"))) {
            return lines.filter(line -> line.startsWith("model name")).findFirst()
                    .map(line -> line.substring(line.indexOf(':') + 2)).orElse("unknown");
        }
    }
}
