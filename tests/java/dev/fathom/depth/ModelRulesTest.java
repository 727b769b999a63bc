package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.Collections;
import java.util.List;
import java.util.function.Supplier;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

import dev.fathom.BackfillShape;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.GateFunction;
import dev.fathom.GateShape;
import dev.fathom.HeadShape;
import dev.fathom.NormKind;
import dev.fathom.NormShape;
import dev.fathom.RopeStyle;
import dev.fathom.RouterKind;

/** What the parts of a model refuse when they are put together, rule by rule. */
class ModelRulesTest {
    private static final int HIDDEN = 32;

    private static Context context;
    /** Stands for weights, which the rules do not look into. */
    private static Buffer any;

    @BeforeAll
    static void open() {
        context = Context.cpu(1);
        any = context.allocate(64);
    }

    @AfterAll
    static void close() {
        context.close();
    }

    private static void refused(String words, Supplier<?> making) {
        String message = assertThrows(IllegalArgumentException.class, making::get, words).getMessage();
        assertEquals(words, message.contains(words) ? words : message);
    }

    private static BlockShape block(int hidden, int depths, boolean cross) {
        return BlockShape.builder(1, hidden, 48, 2).depths(depths).cross(cross).build();
    }

    private static GateShape gate(int hidden, int outputs, int depths, GateFunction function) {
        return new GateShape(hidden, 0, outputs, depths, RouterKind.LINEAR, function, 1, 1, 0);
    }

    private static GateShape expert(int hidden, int depths) {
        return gate(hidden, 1, depths, GateFunction.SIGMOID);
    }

    private static BackfillShape backfill(int hidden, int depths) {
        return new BackfillShape(hidden, depths, DType.F32, null, RopeStyle.NONE, 0, 0);
    }

    private static KvProjection projection(int hidden, int sets) {
        return new KvProjection(backfill(hidden, 1), Collections.nCopies(sets, any), null);
    }

    private static Stage stage(int hidden) {
        return new Stage(block(hidden, 1, false), any);
    }

    private static Stage crossing(int hidden) {
        return new Stage(block(hidden, 1, true), any, new Router.Always(), KvPolicy.PER_DEPTH, null,
                projection(hidden, 1));
    }

    private static EmbedShape embedding(int hidden) {
        return new EmbedShape(20, hidden, DType.F32, false, 1);
    }

    private static Head head(int hidden, int words) {
        return new Head(new HeadShape(hidden, words, DType.F32, NormKind.RMS, 0), null, null, any);
    }

    private static Encoder encoder(int hidden) {
        return new Encoder(embedding(hidden), any, List.of(stage(hidden)), new NormShape(NormKind.RMS, hidden, 0), null,
                null, 0);
    }

    @Test
    void heads() {
        HeadShape shape = new HeadShape(HIDDEN, 20, DType.F32, NormKind.RMS, 0);
        assertNotNull(new Head(shape, null, null, any));
        refused("shape must not be null", () -> new Head(null, null, null, any));
        refused("weights must not be null", () -> new Head(shape, null, null, null));
        refused("chosen of the head must equal none, that is 0, got 2",
                () -> new Head(new HeadShape(HIDDEN, 20, DType.F32, null, 0, 1, 0, 2), null, null, any));
    }

    @Test
    void projections() {
        assertNotNull(projection(HIDDEN, 2));
        refused("shape must not be null", () -> new KvProjection(null, List.of(any), null));
        refused("weights must not be null", () -> new KvProjection(backfill(HIDDEN, 1), null, null));
        refused("weights must not be empty", () -> new KvProjection(backfill(HIDDEN, 1), List.of(), null));
        refused("depths of the backfill must equal one pass, that is 1, got 2",
                () -> new KvProjection(backfill(HIDDEN, 2), List.of(any), null));
    }

    @Test
    void expertChoice() {
        GateShape shape = expert(HIDDEN, 3);
        assertNotNull(new Router.ExpertChoice(shape, any, Router.Gating.WEIGHTED));
        refused("shape must not be null", () -> new Router.ExpertChoice(null, any, Router.Gating.WEIGHTED));
        refused("weights must not be null", () -> new Router.ExpertChoice(shape, null, Router.Gating.WEIGHTED));
        refused("gating must not be null", () -> new Router.ExpertChoice(shape, any, null));
        refused("expert choice needs a router with 1 output, got 2", () -> new Router.ExpertChoice(
                gate(HIDDEN, 2, 3, GateFunction.SIGMOID), any, Router.Gating.WEIGHTED));
        refused("expert choice has no softmax", () -> new Router.ExpertChoice(
                gate(HIDDEN, 1, 3, GateFunction.SOFTMAX), any, Router.Gating.WEIGHTED));
        refused("depths of the auxiliary router must equal depths of the router 3, got 2",
                () -> withSelector(new Router.Selector(expert(HIDDEN, 2), any)));
        refused("hiddenSize of the auxiliary router must equal hiddenSize of the router 32, got 48",
                () -> withSelector(new Router.Selector(expert(48, 3), any)));
        assertNotNull(withSelector(new Router.Selector(expert(HIDDEN, 3), any)));
        refused("number of capacities must equal routers 3, got 2", () -> withCapacity(1.0, 0.5));
        for (double share : new double[] {0, -0.5, 1.0001, Double.NaN, Double.POSITIVE_INFINITY}) {
            refused("capacity must be above 0 and at most 1, got " + share, () -> withCapacity(1.0, share, 0.5));
        }
        assertEquals(List.of(1.0, 2.0 / 3, 1.0 / 3),
                new Router.ExpertChoice(shape, any, Router.Gating.WEIGHTED).wholeSequence().capacity());
    }

    private static Router withSelector(Router.Selector selector) {
        return new Router.ExpertChoice(expert(HIDDEN, 3), any, Router.Gating.WEIGHTED, selector, null);
    }

    private static Router withCapacity(Double... shares) {
        return new Router.ExpertChoice(expert(HIDDEN, 3), any, Router.Gating.WEIGHTED, null, List.of(shares));
    }

    @Test
    void selectors() {
        refused("shape must not be null", () -> new Router.Selector(null, any));
        refused("weights must not be null", () -> new Router.Selector(expert(HIDDEN, 2), null));
        refused("a selector has 1 output, got 2",
                () -> new Router.Selector(gate(HIDDEN, 2, 2, GateFunction.SIGMOID), any));
    }

    @Test
    void tokenChoice() {
        GateShape shape = gate(HIDDEN, 3, 1, GateFunction.SOFTMAX);
        assertNotNull(new Router.TokenChoice(shape, any, null, Router.Gating.WEIGHTED));
        refused("shape must not be null", () -> new Router.TokenChoice(null, any, null, Router.Gating.WEIGHTED));
        refused("weights must not be null", () -> new Router.TokenChoice(shape, null, null, Router.Gating.WEIGHTED));
        refused("gating must not be null", () -> new Router.TokenChoice(shape, any, null, null));
        refused("token choice needs 1 router, got 2", () -> new Router.TokenChoice(
                gate(HIDDEN, 3, 2, GateFunction.SOFTMAX), any, null, Router.Gating.WEIGHTED));
        refused("token choice needs a router with at least 2 outputs, got 1", () -> new Router.TokenChoice(
                gate(HIDDEN, 1, 1, GateFunction.SOFTMAX), any, null, Router.Gating.WEIGHTED));
    }

    @Test
    void stages() {
        BlockShape shape = block(HIDDEN, 3, false);
        Router always = new Router.Always();
        KvPolicy kv = KvPolicy.PER_DEPTH;
        refused("shape must not be null", () -> new Stage(null, any));
        refused("weights must not be null", () -> new Stage(shape, null));
        refused("router must not be null", () -> new Stage(shape, any, null, kv));
        refused("kv must not be null", () -> new Stage(shape, any, always, null));

        Router experts = new Router.ExpertChoice(expert(HIDDEN, 3), any, Router.Gating.WEIGHTED);
        assertNotNull(new Stage(shape, any, experts, kv));
        refused("routers of expert choice must equal depths of the block 2, got 3",
                () -> new Stage(block(HIDDEN, 2, false), any, experts, kv));
        refused("hiddenSize of the router must equal hiddenSize of the block 64, got 32",
                () -> new Stage(block(64, 3, false), any, experts, kv));
        Router tokens = new Router.TokenChoice(gate(HIDDEN, 3, 1, GateFunction.SIGMOID), any, null,
                Router.Gating.WEIGHTED);
        assertNotNull(new Stage(shape, any, tokens, kv));
        refused("outputs of token choice must equal depths of the block 2, got 3",
                () -> new Stage(block(HIDDEN, 2, false), any, tokens, kv));
        refused("hiddenSize of the router must equal hiddenSize of the block 64, got 32",
                () -> new Stage(block(64, 3, false), any, tokens, kv));

        assertNotNull(new Stage(shape, any, always, kv, projection(HIDDEN, 3), null));
        assertNotNull(new Stage(shape, any, always, kv, projection(HIDDEN, 1), null));
        refused("propagation has weights for 1 or 3 depths, got 2",
                () -> new Stage(shape, any, always, kv, projection(HIDDEN, 2), null));
        refused("propagation needs a stage without router and K,V per depth",
                () -> new Stage(shape, any, experts, kv, projection(HIDDEN, 3), null));
        refused("propagation needs a stage without router and K,V per depth",
                () -> new Stage(shape, any, always, KvPolicy.FIRST_DEPTH, projection(HIDDEN, 3), null));
        refused("hiddenSize of the projection must equal hiddenSize of the block 32, got 48",
                () -> new Stage(shape, any, always, kv, projection(48, 3), null));

        BlockShape cross = block(HIDDEN, 3, true);
        assertNotNull(new Stage(cross, any, always, kv, null, projection(HIDDEN, 1)));
        refused("a block with cross-attention needs a source", () -> new Stage(cross, any));
        refused("a block without cross-attention must have no source",
                () -> new Stage(shape, any, always, kv, null, projection(HIDDEN, 1)));
        refused("all depths share the K and V of the source",
                () -> new Stage(cross, any, always, kv, null, projection(HIDDEN, 3)));
        refused("hiddenSize of the projection must equal hiddenSize of the block 32, got 48",
                () -> new Stage(cross, any, always, kv, null, projection(48, 1)));
    }

    @Test
    void encoders() {
        EmbedShape embedding = embedding(HIDDEN);
        NormShape norm = new NormShape(NormKind.RMS, HIDDEN, 0);
        List<Stage> stages = List.of(stage(HIDDEN));
        assertNotNull(encoder(HIDDEN));
        refused("embedding must not be null", () -> new Encoder(null, any, stages, norm, null, null, 0));
        refused("table must not be null", () -> new Encoder(embedding, null, stages, norm, null, null, 0));
        refused("stages must not be null", () -> new Encoder(embedding, any, null, norm, null, null, 0));
        refused("stages must not be empty", () -> new Encoder(embedding, any, List.of(), norm, null, null, 0));
        refused("norm must not be null", () -> new Encoder(embedding, any, stages, null, null, null, 0));
        refused("radius must be at least 0, got -1", () -> new Encoder(embedding, any, stages, norm, null, null, -1));
        String plain = "stages of an encoder have one depth, no router and no cross-attention";
        refused(plain, () -> new Encoder(embedding, any, List.of(new Stage(block(HIDDEN, 2, false), any)), norm, null,
                null, 0));
        refused(plain, () -> new Encoder(embedding, any, List.of(crossing(HIDDEN)), norm, null, null, 0));
        refused(plain, () -> new Encoder(embedding, any, List.of(new Stage(block(HIDDEN, 1, false), any,
                new Router.ExpertChoice(expert(HIDDEN, 1), any, Router.Gating.WEIGHTED), KvPolicy.PER_DEPTH)), norm,
                null, null, 0));
        refused("hiddenSize of a stage must equal hiddenSize of the embedding 32, got 64",
                () -> new Encoder(embedding, any, List.of(stage(HIDDEN), stage(64)), norm, null, null, 0));
    }

    @Test
    void models() {
        EmbedShape embedding = embedding(HIDDEN);
        List<Stage> stages = List.of(stage(HIDDEN));
        Head head = head(HIDDEN, 20);
        assertEquals(1, new DepthModel(embedding, any, stages, head).depths());
        refused("embedding must not be null", () -> new DepthModel(null, any, stages, head));
        refused("table must not be null", () -> new DepthModel(embedding, null, stages, head));
        refused("stages must not be null", () -> new DepthModel(embedding, any, null, head));
        refused("stages must not be empty", () -> new DepthModel(embedding, any, List.of(), head));
        refused("head must not be null", () -> new DepthModel(embedding, any, stages, null));
        refused("hiddenSize of a stage must equal hiddenSize of the embedding 32, got 64",
                () -> new DepthModel(embedding, any, List.of(stage(HIDDEN), stage(64)), head));
        refused("hiddenSize of the head must equal hiddenSize of the embedding 32, got 64",
                () -> new DepthModel(embedding, any, stages, head(64, 20)));
        refused("vocabSize of the head must equal vocabSize of the embedding 20, got 21",
                () -> new DepthModel(embedding, any, stages, head(HIDDEN, 21)));
        List<Stage> crossing = List.of(crossing(HIDDEN));
        assertNotNull(new DepthModel(embedding, any, crossing, head, encoder(HIDDEN)));
        refused("a stage with cross-attention needs an encoder", () -> new DepthModel(embedding, any, crossing, head));
        refused("with an encoder every stage needs cross-attention",
                () -> new DepthModel(embedding, any, stages, head, encoder(HIDDEN)));
        refused("hiddenSize of the encoder must equal that of the decoder",
                () -> new DepthModel(embedding, any, crossing, head, encoder(64)));
    }

    @Test
    void limits() {
        assertEquals(6, new Limits(2, 3).poolTokens());
        assertEquals(5, new Limits(2, 3).withSource(5).source());
        refused("sequences must be at least 1, got 0", () -> new Limits(0, 3, 8, 6));
        refused("tokens must be at least 1, got 0", () -> new Limits(2, 0, 8, 6));
        refused("rows must be at least 1, got 0", () -> new Limits(2, 3, 0, 6));
        refused("poolTokens must be at least 1, got 0", () -> new Limits(2, 3, 8, 0));
        refused("source must be at least 0, got -1", () -> new Limits(2, 3, 8, 6, -1));
        assertEquals(1L << 60, new Limits(1 << 30, 1 << 30).poolTokens());
    }

    @Test
    void requestsAndSampling() {
        int[] prompt = {1, 2};
        assertEquals(2, new Request(prompt, 1).prompt().length);
        refused("prompt must not be null", () -> new Request(null, 1));
        refused("number of tokens in the prompt must be at least 1, got 0", () -> new Request(new int[0], 1));
        refused("tokens must be at least 1, got 0", () -> new Request(prompt, 0));
        refused("stop must be at least -1, got -2", () -> new Request(prompt, 1).withStop(-2));
        refused("sampling must not be null", () -> new Request(prompt, 1).withSampling(null));
        refused("depthCap must be at least 1, got 0", () -> new Request(prompt, 1).withDepthCap(0));
        for (float temperature : new float[] {-0.1f, Float.NaN, Float.POSITIVE_INFINITY}) {
            refused("temperature must be a finite number >= 0, got " + temperature,
                    () -> new Sampling(temperature, 0, 1));
        }
        refused("topK must be at least 0, got -1", () -> new Sampling(1, -1, 1));
        refused("sampling must not be null", () -> new Sampler(null));
        refused("greedy sampling draws nothing", () -> new Sampler(Sampling.greedy()));
    }

    @Test
    void thresholds() {
        refused("value must be a number, got NaN", () -> new Threshold.Fixed(Float.NaN));
        refused("value must be a number, got NaN", () -> new Threshold.Decaying(Float.NaN, 1, 1));
        refused("value must be a number, got NaN", () -> new Threshold.DecayingScaled(Float.NaN, 1, 1));
        for (float tau : new float[] {-1, Float.NaN, Float.POSITIVE_INFINITY}) {
            refused("tau must be a finite number >= 0, got " + tau, () -> new Threshold.Decaying(0.5f, tau, 1));
            refused("tau must be a finite number >= 0, got " + tau, () -> new Threshold.DecayingScaled(0.5f, tau, 1));
        }
        refused("length must be at least 1, got 0", () -> new Threshold.Decaying(0.5f, 1, 0));
        refused("length must be at least 1, got 0", () -> new Threshold.DecayingScaled(0.5f, 1, 0));
        refused("initial must be a number, got NaN", () -> new Threshold.Adaptive(Float.NaN, 0.4f));
        for (float confidence : new float[] {0, 1, -1, Float.NaN}) {
            refused("confidence must be in 0..1, got " + confidence, () -> new Threshold.Adaptive(0.5f, confidence));
        }
        for (float limit : new float[] {-1, Float.NaN}) {
            refused("limit must be a number >= 0, got " + limit, () -> new Verification.CrossEntropy(limit));
        }
        refused("stage must be at least 0, got -1", () -> new ExitPoint(-1, 0));
        refused("depth must be at least 0, got -1", () -> new ExitPoint(0, -1));
    }

    @Test
    void signals() {
        GateShape shape = gate(HIDDEN, 1, 1, GateFunction.SIGMOID);
        List<ExitPoint> points = List.of(new ExitPoint(0, 0));
        assertNotNull(new Signal.Classifier(shape, any, points));
        refused("shape must not be null", () -> new Signal.Classifier(null, any, points));
        refused("weights must not be null", () -> new Signal.Classifier(shape, null, points));
        refused("points must not be null", () -> new Signal.Classifier(shape, any, null));
        refused("depths of the heads must equal number of exits 2, got 1",
                () -> new Signal.Classifier(shape, any, List.of(new ExitPoint(0, 0), new ExitPoint(1, 0))));
        String fits = "a classifier has 1 output and SIGMOID or 2 and SOFTMAX, got ";
        refused(fits + "1", () -> new Signal.Classifier(gate(HIDDEN, 1, 1, GateFunction.SOFTMAX), any, points));
        refused(fits + "2", () -> new Signal.Classifier(gate(HIDDEN, 2, 1, GateFunction.SIGMOID), any, points));
        refused(fits + "3", () -> new Signal.Classifier(gate(HIDDEN, 3, 1, GateFunction.SOFTMAX), any, points));
    }

    @Test
    void sessionsAndSchedulers() {
        Limits limits = new Limits(2, 8);
        DepthModel model = RandomModel.of(RandomModel.System.VANILLA, DType.F32, 1).pack(context);
        refused("context must not be null", () -> new DepthSession(null, model, limits));
        refused("model must not be null", () -> new DepthSession(context, null, limits));
        refused("policy must not be null", () -> new DepthSession(context, model, null, limits));
        refused("limits must not be null", () -> new DepthSession(context, model, null));
        refused("entries must be a multiple of 64",
                () -> new DepthSession(context, model, new Limits(1 << 20, 1 << 20)));
    }

    /** What a session has counted begins anew. */
    @Test
    void reportsCanBeReset() {
        DepthModel model = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 1).pack(context);
        try (DepthSession session = new DepthSession(context, model, new Limits(1, 16))) {
            int sequence = session.open();
            session.run(session.step().add(sequence, 1, 2, 3));
            DepthReport first = session.report();
            assertEquals(1, first.steps());
            assertEquals(3, first.tokens());
            session.resetReport();
            DepthReport none = session.report();
            assertEquals(0, none.steps());
            assertEquals(0, none.tokens());
            session.run(session.step().add(sequence, 4));
            assertEquals(1, session.report().steps());
            assertEquals(1, session.report().tokens());
            assertEquals(4, session.length(sequence));
        }
    }
}
