package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.HeadShape;
import dev.fathom.HeadStats;

/** Final norm and LM head on the states of some tokens: row i tells of the i-th of them, until the next call. */
final class Answers {
    private final Context context;
    private final Head head;
    private final HeadShape choosing;
    private final Workspace space;
    private final Flight flight;
    private final Meter done;
    private final long flops;
    private final long weightBytes;
    private final Buffer targetId;
    private final Buffer targetLogit;
    private boolean hasTargets;
    /** Room for the logits of {@link #logitsRoom} rows. */
    private Buffer logits;
    private int logitsRoom;
    private boolean wantsLogits;

    Answers(Context context, Arena arena, Head head, Workspace space, Flight flight, Meter done) {
        this.context = context;
        this.head = head;
        this.space = space;
        this.flight = flight;
        this.done = done;
        choosing = head.choosing();
        flops = 2L * head.shape().hiddenSize() * head.shape().vocabSize();
        weightBytes = (long) head.shape().hiddenSize() * head.shape().vocabSize() * head.shape().weightType().bytes();
        targetId = context.allocateShared(arena, 4L * space.capacity);
        targetLogit = context.allocateShared(arena, 4L * space.capacity);
    }

    /** From now on logits are kept, of all rows of a call, or not. */
    void keepLogits(boolean wanted) {
        wantsLogits = wanted;
    }

    void run(int[] slot, int count) {
        hasTargets = false;
        for (int i = 0; i < count; i++) hasTargets |= flight.target[slot[i]] != Flight.NONE;
        for (int i = 0; i < count && hasTargets; i++) targetId.setInt(i, Math.max(0, flight.target[slot[i]]));
        if (wantsLogits && logitsRoom < count) {
            int wanted = Math.max(count, Math.min(2 * logitsRoom, space.capacity));
            logits = context.allocate(Arena.ofAuto(), 4L * wanted * head.shape().vocabSize());
            logitsRoom = wanted;
        }
        space.gather(slot, count, space.hidden, space.y);
        context.head(hasTargets ? choosing : head.shape(), count, space.y, head.gain(), head.normBias(),
                head.weights(), hasTargets ? targetId : null, space.stats, hasTargets ? targetLogit : null,
                wantsLogits ? logits : null);
        done.compute(count * flops);
        done.readWeights(weightBytes);
    }

    void countFull(Meter full, int answers) {
        full.compute(answers * flops);
        if (answers > 0) full.readWeights(weightBytes);
    }

    HeadStats stats() {
        return space.stats;
    }

    /** Logit of the token's target; NaN if none of the call's tokens had one. */
    float targetLogit(int row) {
        return hasTargets ? targetLogit.getFloat(row) : Float.NaN;
    }

    /** Negative log-likelihood of the token's target, in nats. */
    double nll(int row) {
        return (double) space.stats.lse(row) - targetLogit(row);
    }

    /** States before the head's norm. */
    Buffer hidden() {
        return space.y;
    }

    /** [rows, vocabSize]; null unless they are kept. */
    Buffer logits() {
        return wantsLogits ? logits : null;
    }
}
