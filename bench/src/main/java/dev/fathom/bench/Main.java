package dev.fathom.bench;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.options.CommandLineOptions;
import org.openjdk.jmh.runner.options.Options;
import org.openjdk.jmh.runner.options.OptionsBuilder;

/** Measures the limits and the benchmarks: {@code Main LIMITS_LIBRARY RESULT.json [arguments of JMH]}. */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws Exception {
        Path library = Path.of(args[0]).toAbsolutePath(), result = Path.of(args[1]);
        String[] jmhArgs = Arrays.copyOfRange(args, 2, args.length);
        CommandLineOptions given = new CommandLineOptions(jmhArgs);
        // The report counts on the unit; a benchmark that computes something else is no result.
        Options options = new OptionsBuilder().parent(given).mode(Mode.AverageTime).timeUnit(TimeUnit.NANOSECONDS)
                .shouldFailOnError(true).build();
        Runner runner = new Runner(options);
        if (given.shouldHelp()) {
            given.showHelp();
        } else if (given.shouldList()) {
            runner.list();
        } else if (given.shouldListWithParams()) {
            runner.listWithParams(given);
        } else {
            String date = Instant.now().truncatedTo(ChronoUnit.SECONDS).toString();
            Collection<String> workers = given.getParameter("workers").orElse(List.of("1", Cpu.ALL));
            Map<String, Limits> before = limits(library, workers);
            Collection<RunResult> runs = runner.run();
            Map<String, Limits> limits = limits(library, workers);
            before.forEach((name, earlier) -> limits.merge(name, earlier, Limits::atLeast));
            write(result, Report.of(Machine.here(), date, String.join(" ", jmhArgs), limits, runs));
        }
    }

    /** By the values of {@link Cpu#workers}. What one worker does, several can do as well. */
    private static Map<String, Limits> limits(Path library, Collection<String> workers) {
        System.out.println("Measuring the limits of this machine.");
        Limits one = Limits.measure(library, 1);
        Map<String, Limits> limits = new LinkedHashMap<>();
        for (String name : workers) {
            int count = Cpu.count(name);
            limits.put(name, count == 1 ? one : Limits.measure(library, count).atLeast(one));
        }
        return limits;
    }

    /** As JSON, and as a table beside it and on the terminal. */
    private static void write(Path result, Report report) throws Exception {
        String table = Table.of(report), name = result.getFileName().toString().replaceFirst("\\.json$", "");
        Files.createDirectories(result.toAbsolutePath().getParent());
        JsonMapper.builder().enable(SerializationFeature.INDENT_OUTPUT).build().writeValue(result.toFile(), report);
        Files.writeString(result.resolveSibling(name + ".md"), table);
        System.out.println();
        System.out.println(table);
    }
}
