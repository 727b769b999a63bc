package dev.fathom.examples;

import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;

import dev.fathom.KernelException;
import picocli.CommandLine;
import picocli.CommandLine.Command;

/** The command line. A failure is one sentence on standard error and exit code 2. */
@Command(name = "fathom", description = "Adaptive-depth language models on the JVM.",
        synopsisSubcommandLabel = "COMMAND", mixinStandardHelpOptions = true, version = "Fathom 0.1.0",
        scope = CommandLine.ScopeType.INHERIT,
        subcommands = {GenerateCommand.class, ScoreCommand.class, Seq2SeqCommand.class, ConvertCommand.class,
            InfoCommand.class})
public final class Main {
    static final int FAILED = 2;

    private Main() {}

    public static void main(String[] args) {
        System.exit(run(args));
    }

    /** Runs a command line and returns its exit code. */
    static int run(String... args) {
        CommandLine line = new CommandLine(new Main()).setCaseInsensitiveEnumValuesAllowed(true);
        line.setParameterExceptionHandler((e, ignored) -> fail(e.getMessage()));
        line.setExecutionExceptionHandler((e, command, ignored) -> fail(sentence(e)));
        try {
            return line.execute(args.length == 0 ? new String[] {"--help"} : args);
        } catch (OutOfMemoryError | LinkageError e) {
            return fail(sentence(e));
        }
    }

    private static String sentence(Throwable e) {
        return switch (e) {
            case UserException user -> user.getMessage();
            case KernelException kernel -> kernel.getMessage();
            case IllegalArgumentException argument -> argument.getMessage();
            case OutOfMemoryError memory -> "There is not enough memory: " + memory.getMessage();
            case LinkageError link when link.getMessage() != null -> link.getMessage();
            default -> "Unexpected: " + e + (e.getStackTrace().length == 0 ? "" : " at " + e.getStackTrace()[0]);
        };
    }

    private static int fail(String message) {
        say("error: " + message);
        return FAILED;
    }

    /** One line on standard error, whatever the message holds. */
    static void say(String message) {
        String line = Terminal.printable(message).replaceAll("\\s*\\R\\s*", " ");
        System.err.println(line.length() > 1000 ? line.substring(0, 1000) + "..." : line);
    }

    /** Standard output in UTF-8 whatever the locale, buffered: flush it. */
    static PrintStream out() {
        return new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8);
    }

    /** Why a file could not be used, without its name. */
    static String reason(Exception e) {
        return switch (e) {
            case NoSuchFileException none -> "there is no such file";
            case AccessDeniedException denied -> "access is denied";
            case InvalidPathException path -> "it is no path";
            default -> e.getMessage() == null ? e.toString() : e.getMessage();
        };
    }
}
