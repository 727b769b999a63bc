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
    /** What adaptive thresholds have learned, per point; null: nothing is learned. */
    private final BetaMixture[] learned;
    private final StateDelta delta;
    private final NormShape norm;
    private final Buffer probability;
    private final long classifierFlops;
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
        learned = new BetaMixture[policy.points().size()];
        for (int i = 0; i < learned.length; i++) {
            if (threshold(i) instanceof Threshold.Adaptive a) learned[i] = new BetaMixture(a.initial(), a.confidence());
        }
        step = new float[space.capacity];
        delta = policy.signal().usesStep() ? StateDelta.allocate(context, arena, space.capacity) : null;
        boolean classifies = policy.signal() instanceof Signal.Classifier;
        norm = classifies ? new NormShape(head.shape().norm(), head.shape().hiddenSize(), 1, head.shape().normEps())
                : null;
        classifierFlops = policy.signal() instanceof Signal.Classifier c ? Cost.routerFlops(c.shape()) : 0;
        probability = classifies ? context.allocateShared(arena, 8L * space.capacity) : null;
    }

    /** Whether a token may leave behind this leg. */
    boolean at(int leg) {
        return point[leg] != Flight.NONE;
    }

    private Threshold threshold(int point) {
        return policy.thresholds().get(policy.thresholds().size() == 1 ? 0 : point);
    }

    /** A sequence begins. */
    void begin() {
        for (BetaMixture mixture : learned) {
            if (mixture != null) mixture.fit();
        }
    }

    /** A token that was tested has been through all passes as well, with this answer. */
    void learn(int slot, int argmax) {
        if (Float.isNaN(flight.signal[slot]) || flight.exitArgmax[slot] == Flight.NONE) return;
        BetaMixture mixture = learned[flight.testedAt[slot]];
        if (mixture != null) mixture.record(flight.signal[slot], flight.exitArgmax[slot] == argmax);
    }

    boolean learns() {
        for (BetaMixture mixture : learned) {
            if (mixture != null) return true;
        }
        return false;
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
            flight.testedAt[slot[i]] = point[leg[i]];
            if (policy.signal().usesHead()) flight.exitArgmax[slot[i]] = answers.stats().argmax(i);
            leaves[i] = leaves(value, flight.generated[slot[i]], point[leg[i]]);
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

    private boolean leaves(float value, int generated, int at) {
        return switch (threshold(at)) {
            case Threshold.Fixed fixed -> policy.signal().rises() ? value > fixed.value() : value < fixed.value();
            case Threshold.Decaying decaying -> value >= decaying.at(generated);
            case Threshold.DecayingScaled decaying -> value > decaying.at(generated);
            case Threshold.Adaptive adaptive -> value > learned[at].threshold();
        };
    }

    /** The probability of agreement into {@link Workspace#floats}. */
    private void classify(Signal.Classifier classifier, int[] slot, int[] leg, int count) {
        for (int i = 0; i < count; i++) {
            space.others.depth(i, classifier.head(policy.points().get(point[leg[i]])));
        }
        space.gather(slot, count, space.hidden, space.y);
        context.norm(norm, count, null, space.y, head.gain(), head.normBias(), space.y);
        context.gate(classifier.shape(), count, space.others, space.y, classifier.weights(), null, null, probability,
                space.gate, space.choice);
        done.compute(count * classifierFlops);
        int outputs = classifier.shape().outputs();
        for (int i = 0; i < count; i++) space.floats[i] = probability.getFloat((long) i * outputs + outputs - 1);
    }
}
