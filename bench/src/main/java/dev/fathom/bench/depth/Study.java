package dev.fathom.bench.depth;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;

import dev.fathom.Context;
import dev.fathom.bench.Machine;
import dev.fathom.depth.BatchPolicy;

/**
 * Measures the systems on trained models and writes what it found as JSON:
 * {@code Study MODELS TEXT LOGS RESULT.json [quick]}. TEXT is the corpus, whose last tenth is held out; MODELS has a
 * folder per exported model; LOGS the oracle's scores.
 */
public final class Study {
    private static final List<Integer> BATCHES = List.of(1, 4, 16, 64);

    private final Catalogue catalogue;
    private final int[] text;
    private final boolean quick;

    private Study(Catalogue catalogue, int[] text, boolean quick) {
        this.catalogue = catalogue;
        this.text = text;
        this.quick = quick;
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (arguments.length < 4) {
            System.err.println("usage: Study MODELS TEXT LOGS RESULT.json [quick]");
            System.exit(2);
        }
        byte[] corpus = Files.readAllBytes(Path.of(arguments[1]));
        int cut = (int) (corpus.length * 0.9);
        int[] held = new int[corpus.length - cut];
        for (int i = 0; i < held.length; i++) held[i] = corpus[cut + i] & 0xff;
        boolean quick = arguments.length > 4 && arguments[4].equals("quick");
        try (Catalogue catalogue = new Catalogue(Path.of(arguments[0]))) {
            Results results = new Study(catalogue, held, quick).run(training(Path.of(arguments[2])));
            new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT).writeValue(new File(arguments[3]), results);
        }
    }

    private static Map<String, Results.Trained> training(Path logs) throws IOException {
        Map<String, Results.Trained> training = new TreeMap<>();
        try (Stream<Path> files = Files.list(logs)) {
            for (Path file : files.filter(f -> f.toString().endsWith(".json")).toList()) {
                JsonNode log = new ObjectMapper().readTree(file.toFile());
                training.put(log.get("model").asText(), new Results.Trained(log.get("steps").asInt(),
                        log.get("nats_per_byte").asDouble(), log.get("parameters").asLong()));
            }
        }
        return training;
    }

    private Results run(Map<String, Results.Trained> training) throws IOException, InterruptedException {
        int bytes = quick ? 4 * 1024 : 24 * 1024;
        int tokens = quick ? 32 : 128;
        int rounds = quick ? 1 : 5;
        List<Point> points = points(Arrays.copyOf(text, bytes + 257), tokens, rounds);
        List<Traces.Served> traces = traces();
        say("overhead of the scheduler");
        Overhead.Result overhead = Overhead.measure(catalogue.plain("mor"), text);
        List<Bandwidth.Result> bandwidth = bandwidth();
        say("skipped work");
        List<Skipped.Result> skipped = Skipped.measure(quick ? 1 : 7);
        return new Results(Machine.here(), LocalDate.now().toString(), bytes, tokens, rounds, BATCHES, training, points,
                traces, bandwidth, skipped, overhead);
    }

    private List<Point> points(int[] scored, int tokens, int rounds) {
        List<Subject> subjects = catalogue.subjects;
        Quality quality = new Quality(scored);
        Map<Subject, Quality.Scores> scores = new HashMap<>();
        for (Subject subject : subjects) {
            if (subject.lossless()) continue;
            say("scoring " + subject.model() + ", " + subject.setting());
            scores.put(subject, quality.score(subject));
        }
        Map<Subject, Map<Integer, List<Throughput.Round>>> speeds = speeds(subjects, tokens, rounds);
        List<Point> points = new ArrayList<>();
        for (Subject s : subjects) {
            Map<Integer, Point.Speed> speed = new TreeMap<>();
            speeds.getOrDefault(s, Map.of()).forEach((batch, r) -> speed.put(batch, Throughput.summary(r)));
            Quality.Scores own = scores.get(s);
            Quality.Scores full = scores.get(catalogue.plain(s.model()));
            Quality.Scores shown = own == null ? full : own;
            points.add(new Point(s.system(), s.model(), s.setting(), shown.nats(), shown.agreement(full),
                    own == null ? 0 : own.depth(), own == null ? 0 : own.layers(), s.layers(),
                    own == null ? 0 : own.flops(), own == null ? 0 : own.kvBytes(), speed));
        }
        return points;
    }

    /** Rounds over all subjects, so that whatever else the machine does meets all of them. */
    private Map<Subject, Map<Integer, List<Throughput.Round>>> speeds(List<Subject> subjects, int tokens, int rounds) {
        Throughput throughput = new Throughput(text, tokens);
        Map<Subject, Map<Integer, List<Throughput.Round>>> speeds = new HashMap<>();
        for (int round = -1; round < rounds; round++) { // the first one warms up
            for (int batch : BATCHES) {
                say("speed, round " + (round + 1) + " of " + rounds + ", batch " + batch);
                for (Subject subject : subjects) {
                    if (Catalogue.looksAhead(subject)) continue;
                    Throughput.Round measured = throughput.round(subject, batch);
                    if (round < 0) continue;
                    speeds.computeIfAbsent(subject, s -> new TreeMap<>())
                            .computeIfAbsent(batch, b -> new ArrayList<>()).add(measured);
                }
            }
        }
        return speeds;
    }

    private List<Traces.Served> traces() throws InterruptedException {
        Subject vanilla = catalogue.plain("vanilla");
        Subject mor = catalogue.plain("mor");
        List<Traces.Served> served = new ArrayList<>();
        if (vanilla == null) return served;
        int count = quick ? 24 : 192;
        Traces.Trace warm = Traces.Trace.of("warm", Double.POSITIVE_INFINITY, 16, text, 1);
        double rate = 0.7 * Traces.serve(vanilla, BatchPolicy.PER_TOKEN, warm).tokensPerSecond()
                / (warm.tokens() / 16.0);
        for (int seed = 0; seed < (quick ? 1 : 5); seed++) {
            for (Traces.Trace trace : List.of(
                    Traces.Trace.of("all at once", Double.POSITIVE_INFINITY, count, text, 100 + seed),
                    Traces.Trace.of(String.format(Locale.ROOT, "%.1f requests/s", rate), rate, count, text,
                            200 + seed))) {
                for (Subject subject : List.of(vanilla, mor, catalogue.moved(12), catalogue.moved(24))) {
                    for (BatchPolicy batching : BatchPolicy.values()) {
                        say("trace " + trace.name() + ", " + subject.model() + ", " + batching);
                        served.add(Traces.serve(subject, batching, trace));
                    }
                }
            }
        }
        return served;
    }

    private List<Bandwidth.Result> bandwidth() {
        List<Bandwidth.Result> results = new ArrayList<>();
        try (Context context = Context.cpu()) {
            say("weights beyond the caches");
            Bandwidth bandwidth = new Bandwidth(context);
            bandwidth.measure(0.5, 1, 16);
            for (double rate : quick ? new double[] {0.75} : new double[] {0.5, 0.75, 0.875, 0.9375}) {
                say("exits at rate " + rate);
                results.add(bandwidth.measure(rate, quick ? 1 : 5, quick ? 32 : 96));
            }
        }
        return results;
    }

    private static void say(String what) {
        System.err.println(what);
    }
}
