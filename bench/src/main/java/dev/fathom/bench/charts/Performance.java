package dev.fathom.bench.charts;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import dev.fathom.bench.charts.NativeResults.Line;

/** Draws the newest results of each kind: {@code Performance RESULTS PAGE.html}. */
public final class Performance {
    private static final Pattern LINEAR = Pattern.compile("(\\S+) block (\\S+) (\\d+) rows (resident|streamed)");
    private static final Pattern PEER =
            Pattern.compile("\\S+ block (\\S+), (\\d+ workers?), (resident|streamed), (\\d+) rows?");
    private static final Pattern ATTENTION = Pattern.compile("(\\S+) (\\S+) (\\d+)x(\\d+) rows of (\\d+)");
    private static final String TOKEN = "a token, ";
    private static final List<String> PEERS = List.of("ggml", "ik-llama", "onednn", "onnxruntime", "openblas",
            "vector-api");

    private final Path results;
    private final StringBuilder out = new StringBuilder();

    private Performance(Path results) {
        this.results = results;
    }

    public static void main(String[] arguments) throws IOException {
        if (arguments.length != 2) {
            System.err.println("usage: Performance RESULTS PAGE.html");
            System.exit(2);
        }
        Performance page = new Performance(Path.of(arguments[0]));
        page.write();
        Files.writeString(Path.of(arguments[1]), page.out);
    }

    private void write() throws IOException {
        out.append("""
                <!doctype html>
                <html lang="en">
                <meta charset="utf-8">
                <meta name="viewport" content="width=device-width">
                <title>Fathom: performance</title>
                <style>
                body { font: 15px/1.5 sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222; }
                .figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1em; }
                figure { margin: 0; } figcaption { font-size: 13px; } svg { max-width: 100%; height: auto; }
                figcaption span { border-width: 0 0 3px; margin-right: 1em; }
                table { border-collapse: collapse; font-size: 12px; } td, th { padding: 1px 7px; text-align: right; }
                summary, .source { color: #777; font-size: 12px; }
                </style>
                <h1>Fathom: performance</h1>
                <p>Drawn from the files in <a href="../bench/results">bench/results</a>;
                <a href="../bench/README.md">bench</a> says how they were measured and how to measure here.
                """);
        linear();
        peers();
        attention();
        sharing();
        out.append("</html>\n");
    }

    private void linear() throws IOException {
        NativeResults measured = begin("Linear layers", "linear", """
                The four products of a decoder layer, activations rounded or quantised inside the call. 100 % is the
                least time that this machine allows: reading the same bytes, measured in turn, or the arithmetic at the
                peak of the type, whichever takes longer. Streamed: ever new layers, from memory. Resident: one layer
                again and again, from the cache that holds it. What exceeds 100 % is how far two readings of memory
                differ on this machine.""");
        Map<String, Figure> figures = new LinkedHashMap<>();
        each(measured, LINEAR, (line, part) -> figures
                .computeIfAbsent(part.group(1) + ", " + part.group(4), title -> Figure.ofLimit(title, "rows"))
                .add(part.group(2), part.group(3), 100 * line.ofLimit()));
        end(figures);
    }

    private void peers() throws IOException {
        out.append("""
                <h2>Beside other libraries</h2>
                <p>The peer's time over Fathom's for a layer of SmolLM-360M, both in one process and in turns, on the
                same numbers: above 1 Fathom is faster. oneDNN gets activations in the type it wants beforehand, which
                flatters it; <a href="../bench/peers/README.md">bench/peers</a> has the rules.
                """);
        Map<String, Figure> figures = new LinkedHashMap<>();
        List<String> sources = new ArrayList<>();
        for (String peer : PEERS) {
            Path file = NativeResults.newest(results, "peer-" + peer);
            NativeResults measured = NativeResults.read(file);
            String name = measured.peer().replaceFirst("( [0-9.]+).*", "$1");
            sources.add(name + ", " + NativeResults.date(file));
            each(measured, PEER, (line, part) -> figures
                    .computeIfAbsent(name + ", " + part.group(3), title -> Figure.times(title, "rows"))
                    .add(part.group(1) + (line.workers() == 1 ? "" : ", " + part.group(2)), part.group(4),
                            line.ratio()));
        }
        source(String.join("; ", sources));
        end(figures);
    }

    private void attention() throws IOException {
        NativeResults measured = begin("Attention", "attention", """
                One layer, K and V read from memory. 100 % is reading them at the bandwidth measured in turn, or the
                products at the peak of bf16 (f32 with f32), whichever takes longer: a single token of a sequence is
                bound by bandwidth unless many query heads share a head of K and V in 8 bits, as in TinyLlama and
                Gemma-2B; rows of a prompt are bound by the products.""");
        Map<String, Figure> figures = new LinkedHashMap<>();
        each(measured, ATTENTION, (line, part) -> {
            String model = part.group(1), type = part.group(2);
            if (line.operation().equals("decode")) {
                figures.computeIfAbsent(model + ", a token", title -> Figure.ofLimit(title, "sequences x tokens"))
                        .add(type, part.group(3) + " x " + part.group(5), 100 * line.ofLimit());
            } else {
                figures.computeIfAbsent(model + ", a prompt", title -> Figure.ofLimit(title, "rows, the last of 2048"))
                        .add(type, part.group(4), 100 * line.ofLimit());
            }
        });
        end(figures);
    }

    /** The lines come in pairs, measured in turn. */
    private void sharing() throws IOException {
        NativeResults measured = begin("Shared weights", "workers-sharing", """
                Layers of SmolLM-360M in bf16 that are used again, against ever new ones, by the time of a row: they
                come from a cache, and rows at several depths share one reading.""");
        Map<String, Figure> figures = new LinkedHashMap<>();
        List<Line> lines = measured.lines().stream().filter(line -> line.operation().equals("sharing")).toList();
        for (int i = 0; i + 1 < lines.size(); i += 2) {
            Line distinct = lines.get(i), shared = lines.get(i + 1);
            boolean whole = shared.what().startsWith(TOKEN);
            figures.computeIfAbsent(whole ? "24 layers, one token" : "one layer", title -> Figure.bars(title, "case"))
                    .add("speed-up", shared.what().substring(whole ? TOKEN.length() : 0),
                            shared.flops() / shared.seconds() * distinct.seconds() / distinct.flops());
        }
        end(figures);
    }

    // ---- parts of a page -------------------------------------------------------------------------------------------

    private interface Use {
        void line(Line line, Matcher part);
    }

    /** The lines whose case is of this form. */
    private static void each(NativeResults measured, Pattern form, Use use) {
        for (Line line : measured.lines()) {
            Matcher part = form.matcher(line.what());
            if (part.matches()) use.line(line, part);
        }
    }

    private NativeResults begin(String title, String kind, String text) throws IOException {
        Path file = NativeResults.newest(results, kind);
        NativeResults measured = NativeResults.read(file);
        out.append("<h2>").append(title).append("</h2>\n<p>").append(text).append('\n');
        source(String.format(Locale.ROOT, "%s; %s, %d workers; f32 %.0f, bf16 %.0f GFLOP/s, int8 %.0f Gop/s",
                NativeResults.date(file), measured.isa(), measured.workers(), measured.f32Flops() * 1e-9,
                measured.bf16Flops() * 1e-9, measured.i8Flops() * 1e-9));
        return measured;
    }

    private void source(String text) {
        out.append("<p class=\"source\">").append(text).append("\n<div class=\"figures\">\n");
    }

    private void end(Map<String, Figure> figures) throws IOException {
        for (Figure figure : figures.values()) out.append(figure.html());
        out.append("</div>\n");
    }
}
