package dev.fathom.depth;

import java.util.List;

import dev.fathom.BackfillShape;
import dev.fathom.Buffer;

/**
 * Makes K and V of all layers of a stage from states: from those of tokens that exit before it (state propagation), or
 * from an encoder's output (cross-attention).
 *
 * @param shape     of one pass: {@code depths} is 1
 * @param weights   packed, one per depth of the stage; one for all where shared weights, tied norms and no LoRA make
 *                  them equal: then one entry serves all depths
 * @param frequency of the rotation, or null without
 */
public record KvProjection(BackfillShape shape, List<Buffer> weights, Buffer frequency) {
    public KvProjection {
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
