package dev.fathom.bench;

import java.util.List;

/** A Markdown table whose columns stand in line as plain text, too. */
public final class MarkdownTable {
    private MarkdownTable() {}

    /** The first line is the head. The first columns are text and stand left, numbers right. */
    public static void append(StringBuilder out, int textColumns, List<List<String>> lines) {
        int columns = lines.getFirst().size();
        int[] width = new int[columns];
        for (List<String> line : lines) {
            for (int c = 0; c < columns; c++) width[c] = Math.max(width[c], line.get(c).length());
        }
        for (List<String> line : lines) {
            for (int c = 0; c < columns; c++) {
                String padding = " ".repeat(width[c] - line.get(c).length());
                out.append(c < textColumns ? "| " + line.get(c) + padding + " " : "| " + padding + line.get(c) + " ");
            }
            out.append("|\n");
            if (line != lines.getFirst()) continue;
            for (int c = 0; c < columns; c++) {
                out.append("| ").append("-".repeat(width[c] - 1)).append(c < textColumns ? "- " : ": ");
            }
            out.append("|\n");
        }
    }
}
