package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.Arrays;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.HeadStats;
import dev.fathom.NormShape;
import dev.fathom.StateDelta;

/** Looks at tokens that are at an exit, as an {@link ExitPolicy} asks, and says which of them leave. */
final class Exits {
    private final Context context;
    private final ExitPolicy policy;
    private final Head head;
    private final Workspace space;
    private final Flight flight;
    private final Answers answers;
    private final Meter done;
    /** Per leg: which of the points lies behind it, or NONE. */
    private final int[] point;
    private final BetaMixture learned;
    private final StateDelta delta;
    private final NormShape norm;
    private final Buffer probability;
    /** Per slot: how far the last pass moved the token's state. */
    private final float[] step;

    Exits(Context context, Arena arena, DepthModel model, ExitPolicy policy, Legs legs, Workspace space,
            Flight flight, Answers answers, Meter done) {
        this.context = context;
        this.policy = policy;
        this.space = space;
        this.flight = flight;
        this.answers = answers;
        this.done = done;
        head = model.head();
        point = new int[legs.count];
        Arrays.fill(point, Flight.NONE);
        for (int i = 0; i < policy.points().size(); i++) {
            ExitPoint at = policy.points().get(i);
            point[legs.first(at.stage()) + at.depth()] = i;
        }
        learned = policy.threshold() instanceof Threshold.Adaptive adaptive
                ? new BetaMixture(adaptive.initial(), adaptive.confidence()) : null;
        step = new float[space.capacity];
        delta = policy.signal().usesStep() ? StateDelta.allocate(context, arena, space.capacity) : null;
        boolean classifies = policy.signal() instanceof Signal.Classifier;
        norm = classifies ? new NormShape(head.shape().norm(), head.shape().hiddenSize(), 1, head.shape().normEps())
                : null;
        probability = classifies ? context.allocate(arena, 8L * space.capacity) : null;
    }

    /** Whether a token may leave behind this leg. */
    boolean at(int leg) {
        return point[leg] != Flight.NONE;
    }

    /** A sequence begins. */
    void begin() {
        if (learned != null) learned.fit();
    }

    /** A token that was tested has been through all passes as well. */
    void learn(int slot, int argmax) {
        if (learned != null && !Float.isNaN(flight.signal[slot])) {
            learned.record(flight.signal[slot], flight.exitArgmax[slot] == argmax);
        }
    }

    boolean learns() {
        return learned != null;
    }

    /** Between a stage's run and its commit, when the states before and after the pass are both there. */
    void compare(StageRunner runner) {
        if (delta == null || runner.passingCount == 0) return;
        int count = runner.passingCount;
        space.gather(runner.passing, count, space.hidden, space.y);
        context.stateDelta(space.width, count, null, space.y, space.x, delta);
        boolean cosine = policy.signal() instanceof Signal.Saturation;
        for (int i = 0; i < count; i++) {
            step[runner.passing[i]] = cosine ? delta.cosine(i) : delta.relativeStep(i);
        }
    }

    /**
     * Tests tokens that have just passed the given legs; {@code leaves[i]} tells whether token i may leave. With a
     * signal that uses the head, the answers of all of them are there.
     */
    void test(int[] slot, int[] leg, int count, boolean[] leaves) {
        if (policy.signal().usesHead()) answers.run(slot, count);
        if (policy.signal() instanceof Signal.Classifier classifier) classify(classifier, slot, leg, count);
        for (int i = 0; i < count; i++) {
            float value = value(slot[i], i);
            flight.signal[slot[i]] = value;
            if (policy.signal().usesHead()) flight.exitArgmax[slot[i]] = answers.stats().argmax(i);
            leaves[i] = leaves(value, flight.generated[slot[i]]);
        }
    }

    private float value(int slot, int row) {
        HeadStats stats = answers.stats();
        return switch (policy.signal()) {
            case Signal.Margin margin -> stats.margin(row);
            case Signal.MaxProbability most -> stats.maxProbability(row);
            case Signal.Entropy entropy -> stats.entropy(row);
            case Signal.Saturation saturation -> step[slot];
            case Signal.RelativeStep relative -> step[slot];
            case Signal.Classifier classifier -> space.floats[row];
            case Signal.Always always -> 1;
            case Signal.Forced forced -> forced.at(flight.position[slot]);
        };
    }

    private boolean leaves(float value, int generated) {
        return switch (policy.threshold()) {
            case Threshold.Fixed fixed -> policy.signal().rises() ? value > fixed.value() : value < fixed.value();
            case Threshold.Decaying decaying -> value >= decaying.at(generated);
            case Threshold.DecayingScaled decaying -> value > decaying.at(generated);
            case Threshold.Adaptive adaptive -> value > learned.threshold();
        };
    }

    /** The probability of agreement into {@link Workspace#floats}. */
    private void classify(Signal.Classifier classifier, int[] slot, int[] leg, int count) {
        boolean perPoint = classifier.shape().depths() > 1;
        for (int i = 0; i < count; i++) space.others.depth(i, perPoint ? point[leg[i]] : 0);
        space.gather(slot, count, space.hidden, space.y);
        context.norm(norm, count, null, space.y, head.gain(), head.normBias(), space.y);
        context.gate(classifier.shape(), count, space.others, space.y, classifier.weights(), null, null, probability,
                space.gate, space.choice);
        done.compute(count * Cost.routerFlops(classifier.shape()));
        int outputs = classifier.shape().outputs();
        for (int i = 0; i < count; i++) space.floats[i] = probability.getFloat((long) i * outputs + outputs - 1);
    }
}
