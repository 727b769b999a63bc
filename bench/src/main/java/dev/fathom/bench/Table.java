package dev.fathom.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;
import java.util.stream.Stream;

/** A report as Markdown whose columns stand in line as plain text, too. */
final class Table {
    private static final double MIB = 1 << 20;

    private Table() {}

    static String of(Report report) {
        StringBuilder out = new StringBuilder();
        Machine machine = report.machine();
        out.append(String.format(Locale.ROOT, "%s, %d cores, %s%s, L2 %.1f MiB, L3 %.1f MiB; %s; %s%n", machine.cpu(),
                machine.cores(), machine.isa(), machine.bf16Dot() ? " (bf16 dot)" : "", machine.l2Bytes() / MIB,
                machine.l3Bytes() / MIB, machine.system(), machine.java()));
        out.append(report.date()).append("; JMH arguments: ");
        out.append(report.arguments().isEmpty() ? "none" : '`' + report.arguments() + '`').append("\n\n");
        MarkdownTable.append(out, 1, limits(report.limits()));
        out.append('\n');
        MarkdownTable.append(out, 2, rows(report.rows()));
        return out.toString();
    }

    /** A column for every number of workers. */
    private static List<List<String>> limits(List<Limits> limits) {
        List<List<String>> lines = new ArrayList<>();
        lines.add(line("limit", limits, l -> l.workers() + (l.workers() == 1 ? " worker" : " workers")));
        lines.add(line("f32, GFLOP/s", limits, l -> number(l.f32Flops() * 1e-9)));
        lines.add(line("bf16, GFLOP/s", limits, l -> number(l.bf16Flops() * 1e-9)));
        lines.add(line("int8, Gop/s", limits, l -> number(l.i8Flops() * 1e-9)));
        for (int i = 0; i < limits.getFirst().memory().size(); i++) {
            int size = i;
            String name = "read / copy " + limits.getFirst().memory().get(i).bytes() / 1024 + " KiB, GB/s";
            lines.add(line(name, limits, l -> number(l.memory().get(size).read() * 1e-9) + " / "
                    + number(l.memory().get(size).copy() * 1e-9)));
        }
        return lines;
    }

    private static List<String> line(String name, List<Limits> limits, Function<Limits, String> cell) {
        return Stream.concat(Stream.of(name), limits.stream().map(cell)).toList();
    }

    private static List<List<String>> rows(List<Row> rows) {
        List<List<String>> lines = new ArrayList<>();
        lines.add(List.of("kernel", "case", "workers", "ns/op", "GB/s", "GFLOP/s", "limit", "of limit", "heap B/op",
                "plain Java ns", "times plain Java", "empty call ns"));
        for (Row row : rows) {
            lines.add(List.of(row.kernel(), row.phrase(), "" + row.workers(), number(row.ns()),
                    number(row.gbPerSecond()), number(row.gflopPerSecond()), row.limit(),
                    number(100 * row.ofLimit()) + " %", number(row.heapBytes()), number(row.plainJavaNs()), number(row.timesPlainJava()),
                    number(row.emptyCallNs())));
        }
        return lines;
    }

    /** Three digits are more than a measurement tells. */
    private static String number(Double value) {
        if (value == null || value == 0) return "-";
        return String.format(Locale.ROOT, value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
    }
}
