package dev.fathom.examples;

import java.io.IOException;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorCompletionService;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.LongConsumer;

/** Computes LoRA pairs, several at a time, and writes them to a model and, if there is one, to a PEFT adapter. */
final class LoraWriter {
    /** How PEFT begins the names of a wrapped model's tensors. */
    static final String PEFT_PREFIX = "base_model.model.";
    /** Of matrices at work at the same time: each, and packed as it is and transposed, in fp32. */
    private static final long MOST_BYTES = 4L << 30;
    private static final int BYTES_PER_ELEMENT = 12;

    private final SafetensorsWriter model;
    private final SafetensorsWriter adapter;

    /** What a pair gave back, and of how much. */
    private record Written(long elements, double kept, double energy) {}

    /** @param adapter null: none */
    LoraWriter(SafetensorsWriter model, SafetensorsWriter adapter) {
        this.model = model;
        this.adapter = adapter;
    }

    /**
     * @param progress is told of the elements of matrices that are done
     * @return how much of the sum of squares of all differences the pairs hold, 0..1; 1 if there is none
     */
    double write(List<LoraPair> pairs, int threads, LongConsumer progress) throws IOException {
        if (pairs.isEmpty()) return 1;
        long largest = pairs.stream().mapToLong(LoraPair::elements).max().orElseThrow();
        int most = (int) Math.clamp(MOST_BYTES / (BYTES_PER_ELEMENT * largest), 1, threads);
        try (ExecutorService workers = Executors.newFixedThreadPool(most)) {
            ExecutorCompletionService<Written> results = new ExecutorCompletionService<>(workers);
            for (LoraPair pair : pairs) results.submit(() -> write(pair));
            long done = 0;
            double kept = 0;
            double energy = 0;
            for (int i = 0; i < pairs.size(); i++) {
                Written written = result(results, workers);
                done += written.elements;
                kept += written.kept;
                energy += written.energy;
                progress.accept(done);
            }
            return energy == 0 ? 1 : Math.min(1, kept / energy);
        }
    }

    private Written write(LoraPair pair) throws IOException {
        LowRank product = pair.decompose();
        write(model, pair, "", product);
        if (adapter != null) write(adapter, pair, PEFT_PREFIX, product);
        return new Written(pair.elements(), product.kept(), product.energy());
    }

    private static void write(SafetensorsWriter file, LoraPair pair, String prefix, LowRank product)
            throws IOException {
        file.write(prefix + pair.nameOfA(), product.a());
        file.write(prefix + pair.nameOfB(), product.b());
    }

    /** The next finished one. A failure of one ends all that have not begun. */
    private static Written result(ExecutorCompletionService<Written> results, ExecutorService workers)
            throws IOException {
        try {
            return results.take().get();
        } catch (ExecutionException e) {
            workers.shutdownNow();
            switch (e.getCause()) {
                case IOException io -> throw io;
                case RuntimeException runtime -> throw runtime;
                case Error error -> throw error;
                default -> throw new IllegalStateException(e.getCause());
            }
        } catch (InterruptedException e) {
            workers.shutdownNow();
            Thread.currentThread().interrupt();
            throw new UserException("The conversion was interrupted.");
        }
    }
}
