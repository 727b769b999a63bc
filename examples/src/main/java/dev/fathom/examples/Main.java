package dev.fathom.examples;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.OutputStream;
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
    /** As a shell tells of a program that SIGPIPE ended. */
    static final int PIPE_CLOSED = 128 + 13;

    private final Output out;

    private Main(Output out) {
        this.out = out;
    }

    public static void main(String[] args) {
        System.exit(run(new FileOutputStream(FileDescriptor.out), args));
    }

    /** Runs a command line and returns its exit code. */
    static int run(OutputStream standardOutput, String... args) {
        Output out = new Output(standardOutput);
        CommandLine line = new CommandLine(new Main(out)).setCaseInsensitiveEnumValuesAllowed(true)
                .setOut(out.writer());
        line.setParameterExceptionHandler((e, ignored) -> fail(e.getMessage()));
        line.setExecutionExceptionHandler((e, command, ignored) -> failure(e));
        try {
            int code = line.execute(args.length == 0 ? new String[] {"--help"} : args);
            if (code == 0) out.flush();
            return code;
        } catch (Output.Failure | Error e) {
            return failure(e);
        }
    }

    /** Where a command writes; it is flushed at the end. */
    Output out() {
        return out;
    }

    /** Tells of a failure and returns its exit code. */
    static int failure(Throwable e) {
        // A pipe fails when its reader is gone: nobody is left to be told why.
        return e instanceof Output.Failure && Terminal.isPipe(Terminal.OUT) ? PIPE_CLOSED : fail(sentence(e));
    }

    private static String sentence(Throwable e) {
        return switch (e) {
            case UserException user -> user.getMessage();
            case Output.Failure output -> output.getMessage();
            case KernelException kernel -> kernel.getMessage();
            case IllegalArgumentException argument when argument.getMessage() != null -> argument.getMessage();
            case OutOfMemoryError memory -> "There is not enough memory: " + memory.getMessage();
            case LinkageError link when link.getMessage() != null -> link.getMessage();
            default -> "Unexpected: " + e + (e.getStackTrace().length == 0 ? "" : " at " + e.getStackTrace()[0]);
        };
    }

    /** Messages of libraries become sentences. */
    private static int fail(String message) {
        String sentence = message.strip().replaceFirst("^Error: ", "");
        say("error: " + sentence + (sentence.matches("(?s).*[.!?]") ? "" : "."));
        return FAILED;
    }

    /** One line on standard error, whatever the message holds. */
    static void say(String message) {
        String line = Terminal.printable(message).replaceAll("\\s*\\R\\s*", " ");
        System.err.println(line.length() > 1000 ? line.substring(0, 1000) + "..." : line);
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
