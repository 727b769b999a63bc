package dev.fathom.examples;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.util.Locale;

/** Standard output in UTF-8 whatever the locale, buffered. What cannot be written ends the program. */
final class Output {
    /** The output cannot be written. */
    static final class Failure extends RuntimeException {
        private static final long serialVersionUID = 1;

        private Failure(IOException cause) {
            super("Standard output cannot be written: " + Main.reason(cause) + ".", cause);
        }
    }

    private final OutputStream to;

    Output(OutputStream to) {
        this.to = new BufferedOutputStream(to, 1 << 16);
    }

    void print(String text) {
        try {
            to.write(text.getBytes(StandardCharsets.UTF_8));
        } catch (IOException e) {
            throw new Failure(e);
        }
    }

    void line(String text) {
        print(text + "\n");
    }

    /** A line in which numbers look the same everywhere. */
    void format(String format, Object... values) {
        line(String.format(Locale.ROOT, format, values));
    }

    void flush() {
        try {
            to.flush();
        } catch (IOException e) {
            throw new Failure(e);
        }
    }

    /** For those who want a writer. */
    PrintWriter writer() {
        return new PrintWriter(new Writer() {
            @Override
            public void write(char[] text, int from, int count) {
                print(new String(text, from, count));
            }

            @Override
            public void flush() {
                Output.this.flush();
            }

            @Override
            public void close() {
                flush();
            }
        });
    }
}
