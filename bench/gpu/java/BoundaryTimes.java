import java.util.Arrays;
import java.util.Locale;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.NormKind;
import dev.fathom.NormShape;

/**
 * What a call costs from Java: one that does nothing, and the norm of one row, enqueued alone and waited for. Medians of
 * rounds, after a warm-up, as JMH would measure it; prints one object of JSON.
 */
final class BoundaryTimes {
    private static final int ROUNDS = 15;
    private static final long ROUND_NANOS = 100_000_000;

    private BoundaryTimes() {}

    public static void main(String[] arguments) {
        boolean cuda = arguments.length > 0 && arguments[0].equals("cuda");
        try (Context context = cuda ? Context.cuda(0) : Context.cpu(1)) {
            NormShape shape = new NormShape(NormKind.RMS, 960, 1e-5f);
            float[] numbers = new float[960];
            for (int i = 0; i < numbers.length; i++) numbers[i] = (i % 17 - 8) / 8f;
            Buffer x = context.allocate(960 * 4).write(numbers);
            Buffer gain = context.allocate(960 * 4).write(numbers);
            Buffer y = context.allocate(960 * 4);
            double nop = nanos(() -> context.nop(shape, x, gain, x, y), () -> {});
            double enqueued = nanos(() -> context.norm(shape, 1, null, x, gain, null, y), context::synchronize);
            double waited = nanos(() -> {
                context.norm(shape, 1, null, x, gain, null, y);
                context.synchronize();
            }, () -> {});
            System.out.printf(Locale.ROOT, "{\"context\": \"%s\", \"nop_nanos\": %.1f, \"norm_of_one_row_nanos\": %.1f, "
                    + "\"norm_of_one_row_waited_for_nanos\": %.1f}%n", context, nop, enqueued, waited);
        }
    }

    /** Median of one call; {@code after} is called, untimed, now and then, so that the device does not fall behind. */
    private static double nanos(Runnable call, Runnable after) {
        double[] rounds = new double[ROUNDS];
        for (int round = -5; round < ROUNDS; round++) {
            long calls = 0, spent = 0;
            while (spent < ROUND_NANOS) {
                long start = System.nanoTime();
                for (int i = 0; i < 200; i++) call.run();
                spent += System.nanoTime() - start;
                calls += 200;
                after.run();
            }
            if (round >= 0) rounds[round] = (double) spent / calls;
        }
        Arrays.sort(rounds);
        return rounds[ROUNDS / 2];
    }
}
