package dev.fathom.bench;

import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

import org.openjdk.jmh.infra.BenchmarkParams;
import org.openjdk.jmh.results.Result;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.util.Statistics;

/** The result of one run: where, when, the limits, and a row for every case of every kernel. */
record Report(Machine machine, String date, String arguments, List<Limits> limits, List<Row> rows) {
    /** @param limits by the values of {@link Cpu#workers} */
    static Report of(Machine machine, String date, String arguments, Map<String, Limits> limits,
                     Collection<RunResult> runs) throws ReflectiveOperationException {
        List<Row> rows = new ArrayList<>();
        for (RunResult run : runs) {
            if (method(run).equals("fathom")) rows.add(row(run, runs, limits.get(run.getParams().getParam("workers"))));
        }
        return new Report(machine, date, arguments, List.copyOf(limits.values()), rows);
    }

    private static Row row(RunResult run, Collection<RunResult> runs, Limits limits)
            throws ReflectiveOperationException {
        BenchmarkParams params = run.getParams();
        KernelBench bench = (KernelBench) Class.forName(className(run)).getDeclaredConstructor().newInstance();
        String kernel = bench.getClass().getSimpleName().replace("Bench", "");
        Map<String, String> shape = new LinkedHashMap<>();
        for (String name : params.getParamsKeys()) {
            if (!name.equals("workers")) shape.put(name, params.getParam(name));
        }
        Work work = bench.work(new Case(params));
        double arithmetic = limits.arithmeticSeconds(work), memory = limits.memorySeconds(work);
        String limit = memory >= arithmetic ? "memory" : switch (limits.slowest(work)) {
            case F32 -> "f32";
            case BF16 -> "bf16";
            default -> "i8";
        };
        Statistics times = run.getPrimaryResult().getStatistics();
        double ns = median(run), ofLimit = Math.max(memory, arithmetic) * 1e9 / ns;
        Double plain = companion(run, runs, "plainJava"), empty = companion(run, runs, "emptyCall");
        return new Row(kernel, shape, limits.workers(), ns, times.getMin(), times.getMax(), work.bytes() / ns,
                work.allFlops() / ns, limit, ofLimit, allocated(run), plain, plain == null ? null : plain / ns, empty);
    }

    /** The least of the iterations, since JMH itself allocates in some; null: it was not told to measure it. */
    private static Double allocated(RunResult run) {
        Result<?> bytes = run.getSecondaryResults().get("gc.alloc.rate.norm");
        return bytes == null ? null : bytes.getStatistics().getMin();
    }

    /** The time of another method of the same class, which has some of the parameters or none. */
    private static Double companion(RunResult run, Collection<RunResult> runs, String method) {
        return runs.stream().filter(other -> className(other).equals(className(run)) && method(other).equals(method))
                .filter(other -> other.getParams().getParamsKeys().stream().allMatch(name -> Objects.equals(
                        other.getParams().getParam(name), run.getParams().getParam(name))))
                .map(Report::median).findFirst().orElse(null);
    }

    private static double median(RunResult run) {
        return run.getPrimaryResult().getStatistics().getPercentile(50);
    }

    private static String className(RunResult run) {
        String name = run.getParams().getBenchmark();
        return name.substring(0, name.lastIndexOf('.'));
    }

    private static String method(RunResult run) {
        String name = run.getParams().getBenchmark();
        return name.substring(name.lastIndexOf('.') + 1);
    }
}
