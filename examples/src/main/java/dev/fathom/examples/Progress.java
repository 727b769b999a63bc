package dev.fathom.examples;

import java.io.PrintStream;
import java.util.function.LongConsumer;

import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/** Shows how far long work has come, on standard error if that is a terminal. */
final class Progress implements LongConsumer, AutoCloseable {
    private static final long LONG_WORK = 20_000;

    /** Null: nobody is watching, or there is little to watch. */
    private final ProgressBar bar;

    private Progress(ProgressBar bar) {
        this.bar = bar;
    }

    static Progress of(String task, long steps) {
        return steps < LONG_WORK || !Terminal.isTerminal(Terminal.ERR) ? new Progress(null)
                : on(System.err, task, steps);
    }

    static Progress on(PrintStream terminal, String task, long steps) {
        return new Progress(new ProgressBarBuilder()
                .setTaskName(task)
                .setInitialMax(steps)
                .setStyle(ProgressBarStyle.ASCII)
                .setConsumer(new ConsoleProgressBarConsumer(terminal, 80))
                .clearDisplayOnFinish()
                .build());
    }

    @Override
    public void accept(long done) {
        if (bar != null) bar.stepTo(done);
    }

    @Override
    public void close() {
        if (bar != null) bar.close();
    }
}
