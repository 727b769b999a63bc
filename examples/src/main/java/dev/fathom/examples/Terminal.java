package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** What the standard streams are connected to, and what may be written there. */
final class Terminal {
    static final int OUT = 1;
    static final int ERR = 2;

    private Terminal() {}

    /** Java can only ask for all streams at once; on Linux the descriptor tells. */
    static boolean isTerminal(int descriptor) {
        return target(descriptor).matches("/dev/(pts/|tty).*|/dev/console");
    }

    /** Whether there is a reader who may go away. */
    static boolean isPipe(int descriptor) {
        return target(descriptor).matches("(pipe|socket):.*");
    }

    private static String target(int descriptor) {
        try {
            return Files.readSymbolicLink(Path.of("/proc/self/fd/" + descriptor)).toString();
        } catch (IOException e) {
            return "";
        }
    }

    /** The text without control characters that would move the cursor or change the terminal. */
    static String printable(String text) {
        StringBuilder safe = new StringBuilder(text.length());
        text.codePoints().forEach(c -> safe.appendCodePoint(Character.isISOControl(c) && c != '\n' && c != '\t'
                ? '\uFFFD' : c));
        return safe.toString();
    }
}
