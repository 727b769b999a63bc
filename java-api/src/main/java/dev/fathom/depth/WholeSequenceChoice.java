package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.Context;

/**
 * The choice of the released evaluation of Mixture-of-Recursions: of a sequence's tokens that passed a depth those go
 * on that have the largest gates, as many as the next depth's capacity of the whole sequence says. It sees later
 * tokens, so a sequence must be there as a whole: see {@link Router.ExpertChoice#capacity}.
 */
final class WholeSequenceChoice {
    private final double[] capacity;
    private final Context context;
    private final Workspace space;
    private final Flight flight;
    /** Tokens of each sequence that entered. */
    private final int[] entered;
    private final Buffer begin;
    private final Buffer most;
    private final int[] picked;

    WholeSequenceChoice(List<Double> capacity, Context context, Arena arena, Workspace space, Flight flight,
            int sequences) {
        this.capacity = capacity.stream().mapToDouble(Double::doubleValue).toArray();
        this.context = context;
        this.space = space;
        this.flight = flight;
        entered = new int[sequences];
        begin = context.allocateShared(arena, 4L * (sequences + 1));
        most = context.allocateShared(arena, 4L * sequences);
        picked = new int[space.capacity];
    }

    /** All tokens of some sequences, those of a sequence together. */
    void enter(int[] slot, int count) {
        for (int i = 0; i < count; i++) entered[flight.sequence[slot[i]]] = 0;
        for (int i = 0; i < count; i++) entered[flight.sequence[slot[i]]]++;
    }

    /**
     * Of tokens about to take {@code depth}, those of a sequence together, with their gates in gate: 1 or 0 into ints.
     */
    void choose(int[] slot, int count, int depth) {
        int segments = 0;
        for (int i = 0; i < count; i++) {
            boolean first = i == 0 || flight.sequence[slot[i]] != flight.sequence[slot[i - 1]];
            if (!first) continue;
            // In double, truncated, as the released code computes it.
            int wanted = Math.max(1, (int) (capacity[depth] * entered[flight.sequence[slot[i]]]));
            begin.setInt(segments, i);
            most.setInt(segments++, wanted);
        }
        begin.setInt(segments, count);
        for (int s = 0; s < segments; s++) {
            most.setInt(s, Math.min(most.getInt(s), begin.getInt(s + 1) - begin.getInt(s)));
        }
        context.topK(count, space.gate, segments, begin, most, space.index);
        space.index.read(0, picked, 0, count);
        Arrays.fill(space.ints, 0, count, 0);
        for (int s = 0; s < segments; s++) {
            int from = begin.getInt(s);
            for (int i = 0; i < most.getInt(s); i++) space.ints[picked[from + i]] = 1;
        }
    }
}
