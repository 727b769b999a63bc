package dev.fathom.bench;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;

import dev.fathom.DType;

/**
 * What this machine does at best with so many threads, measured by the loops of {@code bench/native/limits.cpp}.
 *
 * @param f32Flops  fused multiply-adds, FLOP/s
 * @param bf16Flops bf16 dot products, FLOP/s; those of fp32 where there are none
 * @param i8Flops   8-bit dot products, op/s
 * @param memory    by size, since small buffers come from a cache
 */
record Limits(int workers, double f32Flops, double bf16Flops, double i8Flops, List<Memory> memory) {
    /**
     * Bytes/s of a buffer that is used again and again.
     *
     * @param read reading it
     * @param copy copying one half to the other, bytes read plus bytes written
     */
    record Memory(long bytes, double read, double copy) {}

    private static final long SMALLEST = 16 << 10;
    private static final int SIZES = 15; // each twice the one before, to 256 MiB

    /** @param workers 0: one per core */
    static Limits measure(Path library, int workers) {
        MemorySegment function = SymbolLookup.libraryLookup(library, Arena.global()).findOrThrow("fathom_limits");
        MethodHandle measure = Linker.nativeLinker().downcallHandle(function, FunctionDescriptor.of(
                ValueLayout.JAVA_INT, ValueLayout.JAVA_INT, ValueLayout.JAVA_INT, ValueLayout.ADDRESS,
                ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.ADDRESS));
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment bytes = arena.allocate(ValueLayout.JAVA_LONG, SIZES);
            for (int i = 0; i < SIZES; i++) bytes.setAtIndex(ValueLayout.JAVA_LONG, i, SMALLEST << i);
            MemorySegment peaks = arena.allocate(ValueLayout.JAVA_DOUBLE, 3);
            MemorySegment read = arena.allocate(ValueLayout.JAVA_DOUBLE, SIZES);
            MemorySegment copy = arena.allocate(ValueLayout.JAVA_DOUBLE, SIZES);
            int used = (int) measure.invokeExact(workers, SIZES, bytes, peaks, read, copy);
            if (used < 0) throw new IllegalStateException("The limits of " + workers + " workers cannot be measured.");
            List<Memory> memory = new ArrayList<>();
            for (int i = 0; i < SIZES; i++) {
                memory.add(new Memory(SMALLEST << i, read.getAtIndex(ValueLayout.JAVA_DOUBLE, i),
                        copy.getAtIndex(ValueLayout.JAVA_DOUBLE, i)));
            }
            return new Limits(used, peaks.getAtIndex(ValueLayout.JAVA_DOUBLE, 0),
                    peaks.getAtIndex(ValueLayout.JAVA_DOUBLE, 1), peaks.getAtIndex(ValueLayout.JAVA_DOUBLE, 2), memory);
        } catch (RuntimeException | Error e) {
            throw e;
        } catch (Throwable e) {
            throw new AssertionError(e); // a plain downcall throws nothing
        }
    }

    /** The better of every number. */
    Limits atLeast(Limits other) {
        List<Memory> best = new ArrayList<>();
        for (int i = 0; i < memory.size(); i++) {
            Memory a = memory.get(i), b = other.memory.get(i);
            best.add(new Memory(a.bytes, Math.max(a.read, b.read), Math.max(a.copy, b.copy)));
        }
        return new Limits(workers, Math.max(f32Flops, other.f32Flops), Math.max(bf16Flops, other.bf16Flops),
                Math.max(i8Flops, other.i8Flops), best);
    }

    /** The least that arithmetic takes. */
    double arithmeticSeconds(Work work) {
        return work.flops().keySet().stream().mapToDouble(type -> arithmeticSeconds(work, type)).sum();
    }

    /** The type whose arithmetic takes longest. */
    DType slowest(Work work) {
        return Collections.max(work.flops().keySet(),
                Comparator.comparingDouble(type -> arithmeticSeconds(work, type)));
    }

    private double arithmeticSeconds(Work work, DType type) {
        return work.flops().get(type) / switch (type) {
            case F32 -> f32Flops;
            case BF16, F8_E4M3 -> bf16Flops;
            case I8, Q8_0, Q4_0 -> i8Flops;
            case F16 -> throw new IllegalArgumentException("nothing computes with F16");
        };
    }

    /** The least that moving takes: what is written goes as a copy does, what is read beyond that as reads do. */
    double memorySeconds(Work work) {
        Memory rates = memory.getFirst();
        for (Memory m : memory) {
            if (m.bytes <= work.bytes()) rates = m;
        }
        double copied = work.written() + Math.min(work.read(), work.written());
        return copied / rates.copy + (work.bytes() - copied) / rates.read;
    }
}
