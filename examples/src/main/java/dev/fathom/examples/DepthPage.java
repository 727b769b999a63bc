package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.FileSystemLoopException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.List;

/** The depth map of generated texts as one HTML page without references to anything else. */
final class DepthPage {
    private static final String STYLE = """
            :root { color-scheme: light dark; }
            body { font: 16px/1.6 ui-monospace, monospace; max-width: 80ch; margin: 2em auto; padding: 0 1em; }
            pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
            h1, h2 { font: 600 18px/1.4 system-ui, sans-serif; }
            p { font: 14px/1.5 system-ui, sans-serif; }
            b { padding: 0 .5em; border-radius: 3px; color: #fff; font-weight: 400; }
            .prompt { text-decoration: underline; text-underline-offset: 4px; text-decoration-thickness: 1px; }
            """;

    private static final int MOST_LINKS = 40;

    /** Characters that tokens of one depth brought. */
    record Piece(String text, int depth, boolean prompt) {}

    private DepthPage() {}

    /** Refuses a file that cannot be written, before there is anything to write. */
    static void check(Path file) {
        Path target = target(file);
        if (Files.exists(target) && !Files.isRegularFile(target)) {
            throw new UserException(file + " is there and not a regular file: it cannot be replaced by a page.");
        }
        if (Files.exists(target) && !Files.isWritable(target) || !Files.isWritable(target.getParent())) {
            throw new UserException(file + " cannot be written.");
        }
    }

    /** Writes the page under another name first, so that no half of one is ever left under {@code file}. */
    static void write(Path file, List<List<Piece>> texts, int depths, String facts) {
        check(file);
        Path target = target(file);
        Path draft = target.resolveSibling(".fathom." + Long.toHexString(System.nanoTime()) + ".tmp");
        try {
            try {
                Files.writeString(draft, html(texts, depths, facts), StandardOpenOption.CREATE_NEW);
                if (Files.exists(target)) {
                    Files.setPosixFilePermissions(draft, Files.getPosixFilePermissions(target));
                }
                Files.move(draft, target, StandardCopyOption.ATOMIC_MOVE);
            } finally {
                Files.deleteIfExists(draft);
            }
        } catch (IOException e) {
            throw new UserException(file + " cannot be written: " + Main.reason(e) + ".");
        }
    }

    /** What would be replaced: symbolic links are followed, also to where there is nothing yet. */
    private static Path target(Path file) {
        try {
            Path at = file.toAbsolutePath();
            for (int links = 0; Files.isSymbolicLink(at); links++) {
                if (links == MOST_LINKS) throw new FileSystemLoopException(at.toString());
                at = at.resolveSibling(Files.readSymbolicLink(at));
            }
            if (at.getFileName() != null) return at;
        } catch (IOException e) {
            // is the same to the user
        }
        throw new UserException(file + " cannot be written.");
    }

    static String html(List<List<Piece>> texts, int depths, String facts) {
        StringBuilder page = new StringBuilder("""
                <!doctype html>
                <html lang="en">
                <head>
                <meta charset="utf-8">
                <meta name="viewport" content="width=device-width, initial-scale=1">
                <title>Depth map</title>
                <style>
                """);
        page.append(STYLE);
        for (int depth = 1; depth <= depths; depth++) {
            String colour = DepthPalette.css(depth, depths);
            page.append(".d").append(depth).append(" { color: ").append(colour).append("; }\n");
            page.append("b.k").append(depth).append(" { background: ").append(colour).append("; }\n");
        }
        page.append("</style>\n</head>\n<body>\n<h1>Depth of every token</h1>\n<p>");
        for (int depth = 1; depth <= depths; depth++) {
            page.append("<b class=\"k").append(depth).append("\">").append(depth).append("</b> ");
        }
        page.append("passes through the shared layers; the prompt is underlined.</p>\n");
        for (List<Piece> text : texts) {
            page.append("<pre>");
            for (Piece piece : text) {
                page.append("<span class=\"d").append(piece.depth).append(piece.prompt ? " prompt" : "").append("\">");
                escape(piece.text, page);
                page.append("</span>");
            }
            page.append("</pre>\n");
        }
        page.append("<p>");
        escape(facts, page);
        return page.append("</p>\n</body>\n</html>\n").toString();
    }

    private static void escape(String text, StringBuilder to) {
        Terminal.printable(text).chars().forEach(c -> {
            switch (c) {
                case '<' -> to.append("&lt;");
                case '>' -> to.append("&gt;");
                case '&' -> to.append("&amp;");
                case '"' -> to.append("&quot;");
                default -> to.append((char) c);
            }
        });
    }
}
