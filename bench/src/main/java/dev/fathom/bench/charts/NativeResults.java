package dev.fathom.bench.charts;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;

/**
 * What the native benchmark or a driver of a peer wrote with {@code --json}.
 *
 * @param peer name and version; null: the native benchmark
 */
@JsonIgnoreProperties(ignoreUnknown = true)
record NativeResults(String peer, String isa, int workers, @JsonProperty("f32_flops") double f32Flops,
                     @JsonProperty("bf16_flops") double bf16Flops, @JsonProperty("i8_ops") double i8Flops,
                     List<Line> lines) {
    /**
     * @param ideal the least time that the machine's limits allow; 0 beside a peer
     * @param ratio a peer's time over Fathom's; 0 without one
     */
    @JsonIgnoreProperties(ignoreUnknown = true)
    record Line(String operation, @JsonProperty("case") String what, int workers,
                @JsonProperty("median_seconds") double seconds, @JsonProperty("ideal_seconds") double ideal,
                double flops, double ratio) {
        double ofLimit() {
            return ideal / seconds;
        }
    }

    static NativeResults read(Path file) throws IOException {
        return new ObjectMapper().readValue(file.toFile(), NativeResults.class);
    }

    /** The file DATE-{@code kind}.json of the last date. */
    static Path newest(Path folder, String kind) throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.filter(file -> name(file).matches("\\d{4}-\\d\\d-\\d\\d-" + kind + "\\.json"))
                    .max(Comparator.comparing(NativeResults::name))
                    .orElseThrow(() -> new IOException(folder + " has no results of the kind " + kind + "."));
        }
    }

    static String date(Path file) {
        return name(file).substring(0, "yyyy-mm-dd".length());
    }

    private static String name(Path file) {
        return file.getFileName().toString();
    }
}
