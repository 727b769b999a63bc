package dev.fathom.bench;

import java.util.concurrent.TimeUnit;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Warmup;

/**
 * What the benchmarks of all kernels share. Each measures three things: {@code fathom} is the kernel, {@code plainJava}
 * the same on the heap by {@link Loops}, {@code emptyCall} what any call into the library costs. The numbers of the
 * plain loop live in a state {@code Plain}, those of the kernel in a state {@code Ours}, so that the loop is not run
 * again for what only the kernel knows: workers, element types. {@code Ours} refuses to start where the two disagree.
 */
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(2)
@Warmup(iterations = 3, time = 300, timeUnit = TimeUnit.MILLISECONDS)
@Measurement(iterations = 5, time = 300, timeUnit = TimeUnit.MILLISECONDS)
public abstract class KernelBench {
    /** What one call of the kernel computes and moves. */
    abstract Work work(Case c);

    @Benchmark
    public void emptyCall(Boundary boundary) {
        boundary.call();
    }
}
