package dev.fathom.depth;

import java.util.List;

import dev.fathom.BackfillShape;
import dev.fathom.Buffer;

/**
 * What a stage needs to compute K and V of passes that a token skipped, from its exit state (state propagation).
 *
 * @param shape     of one pass: {@code depths} is 1
 * @param weights   packed, one per depth of the stage; one for all where shared weights, tied norms and no LoRA make
 *                  them equal: then one entry serves all remaining depths
 * @param frequency of the rotation, or null without
 */
public record Propagation(BackfillShape shape, List<Buffer> weights, Buffer frequency) {
    public Propagation {
        Require.notNull("shape", shape);
        weights = List.copyOf(Require.notNull("weights", weights));
        Require.equal("depths of the backfill", shape.depths(), "one pass, that is", 1);
        Require.that(!weights.isEmpty(), "weights must not be empty");
    }

    boolean sharesEntry() {
        return weights.size() == 1;
    }

    Buffer weights(int depth) {
        return weights.get(sharesEntry() ? 0 : depth);
    }
}
