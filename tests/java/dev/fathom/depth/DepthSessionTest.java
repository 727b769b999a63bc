package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.Isa;
import dev.fathom.NormKind;
import dev.fathom.NormShape;

/** Models of every kind: right by a plain evaluation in double, and the same bits however the work is cut. */
class DepthSessionTest {
    /** Crosses a page of 64 entries, and more than one block call in pieces of {@link #FEW} rows. */
    private static final int TOKENS = 75;
    private static final int FEW = 13;

    static Stream<Arguments> systemsAndIsas() {
        return Stream.of(RandomModel.System.values())
                .flatMap(system -> Stream.of(Isa.values()).map(isa -> Arguments.of(system, isa)));
    }

    static Stream<Arguments> systemsAndTypes() {
        return Stream.of(RandomModel.System.values())
                .flatMap(system -> Stream.of(Arguments.of(system, DType.F32, DType.F32),
                        Arguments.of(system, DType.BF16, DType.BF16), Arguments.of(system, DType.F32, DType.I8)));
    }

    private static int[] text(int length, long seed) {
        return new SplittableRandom(seed).ints(length, 0, RandomModel.VOCAB).toArray();
    }

    private static Limits limits(int rows) {
        return new Limits(4, 128, rows, 4 * 128);
    }

    /** What a token's output is made of, to the bit. */
    private record Seen(List<Integer> hidden, float lse, float chosen, int argmax, int depth) {
        static Seen of(Step step, int output) {
            float[] row = new float[RandomModel.HIDDEN];
            step.hidden(output, row);
            List<Integer> bits = new ArrayList<>();
            for (float v : row) bits.add(Float.floatToRawIntBits(v));
            return new Seen(bits, step.stats().lse(output), (float) step.nll(output), step.argmax(output),
                    step.depth(step.token(output)));
        }
    }

    /** Everything about a text taken in at once, alone. */
    private static Seen[] alone(DepthSession session, int[] ids) {
        int sequence = session.open();
        Step step = session.step().score(sequence, ids, ids);
        session.run(step);
        session.close(sequence);
        return seen(step, 0, ids.length);
    }

    private static Seen[] seen(Step step, int from, int count) {
        Seen[] all = new Seen[count];
        for (int i = 0; i < count; i++) all[i] = Seen.of(step, from + i);
        return all;
    }

    // ---- right ---------------------------------------------------------------------------------------------------

    /**
     * fp32 against double: at most 14 sub-layers, each adding a relative error of some 1e-6 (sums of up to 72 products)
     * to a residual stream that the norms keep from growing. 2e-4 of the largest value leaves an order of magnitude.
     */
    @ParameterizedTest
    @MethodSource("systemsAndIsas")
    void matchesTheFormulas(RandomModel.System system, Isa isa) {
        int[] ids = text(TOKENS, 1);
        RandomModel random;
        ReferenceModel expected;
        long seed = 1;
        do { // no decision by a hair, every depth in use
            random = RandomModel.of(system, DType.F32, seed++);
            expected = new ReferenceModel(random, ids);
        } while (expected.margin < 1e-3 || Arrays.stream(expected.passes).distinct().count() < used(system));
        try (Context context = Context.cpu(2, isa);
             DepthSession session = new DepthSession(context, random.pack(context), limits(FEW))) {
            int sequence = session.open();
            int[] targets = text(TOKENS, 2);
            Step step = session.step().withLogits(true).score(sequence, ids, targets);
            session.run(step);
            float[] row = new float[RandomModel.HIDDEN];
            float[] logits = new float[RandomModel.VOCAB];
            for (int t = 0; t < TOKENS; t++) {
                assertEquals(expected.passes[t], step.depth(t), "depth of token " + t);
                assertEquals(t, step.position(t));
                step.hidden(t, row);
                assertClose(expected.hidden[t], row, "hidden row " + t);
                step.logits(t, logits);
                assertClose(expected.logits[t], logits, "logits of token " + t);
                assertEquals(expected.nll(t, targets[t]), step.nll(t), 2e-3);
            }
        }
    }

    /**
     * K,V in int8 are off by some 0.7 % of a head's usual element. A few layers chain and add that up to 2 % of a logit,
     * of which the usual one is 3.5: 0.07. Routers are left out: they could turn it into another depth.
     */
    @ParameterizedTest
    @EnumSource(mode = EnumSource.Mode.MATCH_NONE, names = "(EXPERT|TOKEN).*")
    void int8KvStaysNearTheLossOfF32(RandomModel.System system) {
        int[] ids = text(TOKENS, 1);
        int[] targets = text(TOKENS, 2);
        try (Context context = Context.cpu(2)) {
            double[] expected = losses(context, RandomModel.of(system, DType.F32, 7), ids, targets);
            double[] actual = losses(context, RandomModel.of(system, DType.F32, DType.I8, 7), ids, targets);
            double squares = 0;
            double sum = 0;
            for (int t = 0; t < TOKENS; t++) {
                squares += Math.pow(actual[t] - expected[t], 2);
                sum += actual[t] - expected[t];
            }
            assertTrue(squares > 0, "int8 must be in use");
            assertEquals(0, Math.sqrt(squares / TOKENS), 0.12);
            assertEquals(0, sum / TOKENS, 0.04);
        }
    }

    private static double[] losses(Context context, RandomModel model, int[] ids, int[] targets) {
        try (DepthSession session = new DepthSession(context, model.pack(context), limits(FEW))) {
            Step step = session.step().score(session.open(), ids, targets);
            session.run(step);
            return IntStream.range(0, TOKENS).mapToDouble(step::nll).toArray();
        }
    }

    private static int used(RandomModel.System system) {
        return switch (system) {
            case VANILLA, RECURSIVE, RECURSIVE_SEQUENCE, RELAXED, SHALLOW_DEEP, CYCLE, CYCLE_RELAXED -> 1;
            default -> 3;
        };
    }

    private static void assertClose(double[] expected, float[] actual, String what) {
        double largest = Arrays.stream(expected).map(Math::abs).max().getAsDouble();
        for (int i = 0; i < actual.length; i++) assertEquals(expected[i], actual[i], 2e-4 * largest, what);
    }

    /** A threshold that all pass gives gated recursion at full depth; the reference masks nobody then. */
    @ParameterizedTest
    @EnumSource(KvPolicy.class)
    @DisplayName("7: with all tokens selected, recursion-wise caching is dense gated recursion")
    void allTokensSelectedIsDenseGatedRecursion(KvPolicy kv) {
        int[] ids = text(TOKENS, 3);
        RandomModel random = RandomModel.expertOnly(3, -1e30f, kv, 5);
        ReferenceModel expected = new ReferenceModel(random, ids);
        try (Context context = Context.cpu(2);
             DepthSession session = new DepthSession(context, random.pack(context), limits(64))) {
            Step step = session.step().score(session.open(), ids, ids);
            session.run(step);
            float[] row = new float[RandomModel.HIDDEN];
            for (int t = 0; t < TOKENS; t++) {
                assertEquals(3, step.depth(t));
                step.hidden(t, row);
                assertClose(expected.hidden[t], row, "hidden row " + t);
            }
            DepthReport report = session.report();
            assertEquals(report.fullDepth(), report.done());
            assertEquals(List.of(0L, 0L, (long) TOKENS), report.depths());
        }
    }

    /** A token of depth d has the bits that the model cut to d depths gives it: later passes do not touch its row. */
    @ParameterizedTest
    @EnumSource(KvPolicy.class)
    @DisplayName("10: rows that are not selected keep their bits")
    void unselectedRowsKeepTheirBits(KvPolicy kv) {
        int[] ids = text(TOKENS, 4);
        try (Context context = Context.cpu(2)) {
            Seen[][] cut = new Seen[3][];
            for (int depths = 1; depths <= 3; depths++) {
                DepthModel model = RandomModel.expertOnly(depths, 0, kv, 6).pack(context);
                try (DepthSession session = new DepthSession(context, model, limits(64))) {
                    cut[depths - 1] = alone(session, ids);
                }
            }
            int[] histogram = new int[3];
            for (int t = 0; t < TOKENS; t++) {
                int depth = cut[2][t].depth();
                histogram[depth - 1]++;
                assertEquals(cut[depth - 1][t], cut[2][t]);
            }
            for (int count : histogram) assertTrue(count > 0, "the text must use every depth");
        }
    }

    /** K and V are those of the first depth, so each token has the bits of a run in which all go on. */
    @Test
    @DisplayName("9: with shared K and V, computing the active rows alone is computing all rows")
    void skippingChangesNobodyWhoStays() {
        int[] ids = text(TOKENS, 4);
        try (Context context = Context.cpu(2)) {
            Seen[][] all = new Seen[3][];
            for (int depths = 1; depths <= 3; depths++) {
                DepthModel model = RandomModel.expertOnly(depths, -1e30f, KvPolicy.FIRST_DEPTH, 6).pack(context);
                try (DepthSession session = new DepthSession(context, model, limits(64))) {
                    all[depths - 1] = alone(session, ids);
                }
            }
            DepthModel model = RandomModel.expertOnly(3, 0, KvPolicy.FIRST_DEPTH, 6).pack(context);
            try (DepthSession session = new DepthSession(context, model, limits(64))) {
                Seen[] active = alone(session, ids);
                int[] histogram = new int[3];
                for (int t = 0; t < TOKENS; t++) {
                    histogram[active[t].depth() - 1]++;
                    assertEquals(all[active[t].depth() - 1][t], active[t]);
                }
                for (int count : histogram) assertTrue(count > 0, "the text must use every depth");
            }
        }
    }

    /** A threshold that none passes: depth 1 only, and nothing is computed or stored beyond. */
    @Test
    @DisplayName("11: tokens that never go on have the result of depth 1, and nothing beyond")
    void tokensThatNeverContinueCostOneDepth() {
        int[] ids = text(TOKENS, 5);
        try (Context context = Context.cpu(2);
             DepthSession none = session(context, 3, 1e30f);
             DepthSession one = session(context, 1, 1e30f)) {
            assertArrayEquals(alone(one, ids), alone(none, ids));
            DepthReport report = none.report();
            assertEquals(TOKENS, report.rows());
            assertEquals(List.of((long) TOKENS, 0L, 0L), report.depths());
            assertEquals(1.0, report.meanDepth());
            assertEquals(one.report().done().kvWrittenBytes(), report.done().kvWrittenBytes());
            assertEquals(3 * report.done().kvWrittenBytes(), report.fullDepth().kvWrittenBytes());
        }
    }

    /** Another threshold on packed weights is that of a model packed with it, whoever decides. */
    @Test
    void thresholdsOfRoutersCanMove() {
        int[] ids = text(TOKENS, 5);
        try (Context context = Context.cpu(2)) {
            DepthModel zero = RandomModel.expertOnly(3, 0, KvPolicy.PER_DEPTH, 6).pack(context);
            DepthModel high = RandomModel.expertOnly(3, 0.2f, KvPolicy.PER_DEPTH, 6).pack(context);
            Seen[] expected = alone(context, high, ids);
            assertArrayEquals(expected, alone(context, zero.withRouterThreshold(0.2f), ids));
            assertFalse(Arrays.equals(expected, alone(context, zero, ids)), "the threshold must decide something");

            Router.ExpertChoice main = (Router.ExpertChoice) zero.stages().getFirst().router();
            DepthModel deciding = zero.withStages(zero.stages().stream().map(s -> s.withRouter(new Router.ExpertChoice(
                    main.shape(), main.weights(), main.gating(), new Router.Selector(main.shape(), main.weights()),
                    null))).toList());
            assertArrayEquals(expected, alone(context, deciding.withRouterThreshold(0.2f), ids));

            DepthModel plain = RandomModel.of(RandomModel.System.VANILLA, DType.F32, 1).pack(context);
            assertSentence("the model has no router with expert choice", () -> plain.withRouterThreshold(0));
            assertSentence("threshold must be a finite number, got NaN", () -> zero.withRouterThreshold(Float.NaN));
        }
    }

    private static Seen[] alone(Context context, DepthModel model, int[] ids) {
        try (DepthSession session = new DepthSession(context, model, limits(64))) {
            return alone(session, ids);
        }
    }

    private static DepthSession session(Context context, int depths, float threshold) {
        RandomModel random = RandomModel.expertOnly(depths, threshold, KvPolicy.PER_DEPTH, 8);
        return new DepthSession(context, random.pack(context), limits(128));
    }

    // ---- the same bits -------------------------------------------------------------------------------------------

    @ParameterizedTest
    @MethodSource("systemsAndTypes")
    @DisplayName("5, 6, 8: prompts at once or token by token, alone or with others: the same bits")
    void cuttingTheWorkChangesNoBit(RandomModel.System system, DType type, DType kvType) {
        RandomModel random = RandomModel.of(system, type, kvType, 11);
        int[][] texts = {text(TOKENS, 21), text(1, 22), text(40, 23), text(17, 24)};
        try (Context one = Context.cpu(1); Context three = Context.cpu(3);
             DepthSession wide = new DepthSession(one, random.pack(one), limits(512));
             DepthSession narrow = new DepthSession(three, random.pack(three), limits(FEW))) {
            Seen[][] expected = new Seen[texts.length][];
            for (int i = 0; i < texts.length; i++) expected[i] = alone(wide, texts[i]);
            for (DepthSession session : List.of(wide, narrow)) {
                together(session, texts, expected);
                tokenByToken(session, texts, expected);
                mixedPieces(session, texts, expected);
                truncateAndReplay(session, texts[0], expected[0]);
                fork(session, texts[0], expected[0]);
                assertEquals(0, session.report().kvLiveBytes());
            }
        }
    }

    /** All texts in one step. */
    private static void together(DepthSession session, int[][] texts, Seen[][] expected) {
        Step step = session.step();
        for (int[] ids : texts) step.score(session.open(), ids, ids);
        session.run(step);
        int at = 0;
        for (int i = 0; i < texts.length; i++) {
            assertArrayEquals(expected[i], seen(step, at, texts[i].length), "text " + i);
            at += texts[i].length;
            session.close(i);
        }
    }

    /** One token of every text per step, as in decoding. */
    private static void tokenByToken(DepthSession session, int[][] texts, Seen[][] expected) {
        Step step = session.step();
        for (int i = 0; i < texts.length; i++) session.open();
        for (int t = 0; t < TOKENS; t++) {
            step.clear();
            for (int i = 0; i < texts.length; i++) {
                if (t < texts[i].length) step.score(i, new int[] {texts[i][t]}, new int[] {texts[i][t]});
            }
            session.run(step);
            for (int o = 0; o < step.outputs(); o++) {
                assertEquals(expected[step.sequence(step.token(o))][t], Seen.of(step, o), "token " + t);
            }
        }
        for (int i = 0; i < texts.length; i++) session.close(i);
    }

    /** Prompts that begin at different steps, in pieces of different length, beside decoding. */
    private static void mixedPieces(DepthSession session, int[][] texts, Seen[][] expected) {
        SplittableRandom random = new SplittableRandom(31);
        for (int i = 0; i < texts.length; i++) session.open();
        Step step = session.step();
        int[] at = new int[texts.length];
        while (session.length(0) < TOKENS) {
            step.clear();
            for (int i = texts.length - 1; i >= 0; i--) { // another order than before
                int left = texts[i].length - at[i];
                int count = Math.min(left, random.nextBoolean() ? 1 : random.nextInt(20));
                if (count == 0) continue;
                int[] piece = Arrays.copyOfRange(texts[i], at[i], at[i] + count);
                step.score(i, piece, piece);
                at[i] += count;
            }
            if (step.tokens() == 0) continue;
            session.run(step);
            for (int o = 0; o < step.outputs(); o++) {
                int token = step.token(o);
                assertEquals(expected[step.sequence(token)][step.position(token)], Seen.of(step, o));
            }
        }
        for (int i = 0; i < texts.length; i++) session.close(i);
    }

    private static void truncateAndReplay(DepthSession session, int[] ids, Seen[] expected) {
        int sequence = session.open();
        Step step = session.step().score(sequence, ids, ids);
        session.run(step);
        long live = session.report().kvLiveBytes();
        for (int keep : new int[] {70, 64, 63, 20, 1, 0}) {
            session.truncate(sequence, keep);
            int[] rest = Arrays.copyOfRange(ids, keep, ids.length);
            session.run(step.clear().score(sequence, rest, rest));
            Seen[] tail = Arrays.copyOfRange(expected, keep, ids.length);
            assertArrayEquals(tail, seen(step, 0, rest.length), "from " + keep);
            assertEquals(live, session.report().kvLiveBytes());
        }
        session.close(sequence);
    }

    /** Two continuations of one prompt, whose K and V are stored once; the first one is dropped midway. */
    private static void fork(DepthSession session, int[] ids, Seen[] expected) {
        int first = session.open();
        Step step = session.step().add(first, Arrays.copyOf(ids, 66));
        session.run(step);
        int second = session.fork(first);
        int[] other = text(5, 41);
        int[] rest = Arrays.copyOfRange(ids, 66, ids.length);
        session.run(step.clear().add(first, other).score(second, rest, rest));
        assertArrayEquals(Arrays.copyOfRange(expected, 66, ids.length), seen(step, 1, rest.length));
        session.truncate(second, 66);
        session.close(first);
        session.run(session.step().add(session.open(), other)); // uses what was freed
        session.run(step.clear().score(second, rest, rest));
        assertArrayEquals(Arrays.copyOfRange(expected, 66, ids.length), seen(step, 0, rest.length));
        session.close(first);
        session.close(second);
    }

    // ---- refusals ------------------------------------------------------------------------------------------------

    @Test
    void refusedStepsLoseNothing() {
        RandomModel random = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 51);
        int[] ids = text(64, 52);
        try (Context context = Context.cpu(2)) {
            DepthModel model = random.pack(context);
            try (DepthSession roomy = new DepthSession(context, model, limits(32));
                 DepthSession tight = new DepthSession(context, model, new Limits(2, 100, 32, 64))) {
                Seen[] expected = alone(roomy, ids);
                int first = tight.open();
                int second = tight.open();
                assertThrows(CapacityException.class, tight::open);
                int[] half = Arrays.copyOf(ids, 32);
                tight.run(tight.step().add(first, half));
                long live = tight.report().kvLiveBytes();

                String tooLong = assertThrows(CapacityException.class,
                        () -> tight.run(tight.step().add(first, text(69, 53)))).getMessage();
                assertEquals("sequence 0 may hold 100 tokens, got 69 more for its 32", tooLong);
                String noRoom = assertThrows(CapacityException.class,
                        () -> tight.run(tight.step().add(second, text(3, 54)).add(first, text(40, 55)))).getMessage();
                assertTrue(noRoom.startsWith("the step may need "), noRoom);
                assertEquals(live, tight.report().kvLiveBytes());
                assertEquals(32, tight.length(first));
                assertEquals(0, tight.length(second));

                int[] rest = Arrays.copyOfRange(ids, 32, 64);
                Step step = tight.step().score(first, rest, rest);
                tight.run(step);
                assertArrayEquals(Arrays.copyOfRange(expected, 32, 64), seen(step, 0, 32));
            }
        }
    }

    /** The last stage's weights are cut short: its call fails when the stages before it have taken the tokens in. */
    @Test
    void failureInTheMiddleOfAStepIsUndone() {
        RandomModel random = RandomModel.of(RandomModel.System.EXPERT, DType.F32, 55);
        try (Context context = Context.cpu(2)) {
            DepthModel whole = random.pack(context);
            Stage last = whole.stages().getLast();
            Stage broken = new Stage(last.shape(), last.weights().slice(0, 64));
            DepthModel model = new DepthModel(whole.embedding(), whole.table(),
                    List.of(whole.stages().get(0), whole.stages().get(1), broken), whole.head());
            try (DepthSession session = new DepthSession(context, model, limits(16))) {
                int sequence = session.open();
                Step step = session.step().add(sequence, text(20, 56));
                assertThrows(IllegalArgumentException.class, () -> session.run(step));
                assertEquals(0, session.length(sequence));
                assertEquals(0, session.report().kvLiveBytes());
                assertEquals(0, session.report().tokens());
            }
        }
    }

    /** Another thread uses the context too, so that calls fail anywhere in a step: nothing of it must stay behind. */
    @ParameterizedTest
    @EnumSource(value = RandomModel.System.class, names = {"VANILLA", "EXPERT", "TOKEN_SOFTMAX", "CYCLE_RELAXED"})
    void failedStepsLeaveNothingBehind(RandomModel.System system) throws InterruptedException {
        RandomModel random = RandomModel.of(system, DType.BF16, 57);
        int[] before = text(10, 58);
        int[] ids = text(40, 59);
        AtomicBoolean stop = new AtomicBoolean();
        try (Context context = Context.cpu(1);
             DepthSession session = new DepthSession(context, random.pack(context), limits(16))) {
            int sequence = session.open();
            session.run(session.step().add(sequence, before));
            Step step = session.step();
            session.resetReport();
            session.run(step.score(sequence, ids, ids));
            Seen[] expected = seen(step, 0, ids.length);
            DepthReport expectedReport = session.report();
            Thread other = Thread.ofPlatform().start(() -> disturb(context, stop));
            try {
                int failures = 0;
                for (int attempt = 0; attempt < 300 && failures < 10; attempt++) {
                    session.truncate(sequence, before.length);
                    session.resetReport();
                    try {
                        session.run(step.clear().score(sequence, ids, ids));
                        assertArrayEquals(expected, seen(step, 0, ids.length));
                        assertEquals(expectedReport, session.report());
                    } catch (IllegalStateException busy) {
                        failures++;
                        assertEquals(before.length, session.length(sequence));
                        assertEquals(0, session.report().rows());
                        assertEquals(0, session.report().done().flops());
                    }
                }
            } finally {
                stop.set(true);
                other.join();
            }
            session.truncate(sequence, before.length);
            session.resetReport();
            session.run(step.clear().score(sequence, ids, ids));
            assertArrayEquals(expected, seen(step, 0, ids.length));
            assertEquals(expectedReport, session.report());
        }
    }

    private static void disturb(Context context, AtomicBoolean stop) {
        NormShape shape = new NormShape(NormKind.RMS, 1024, 1, 1e-5f);
        Buffer x = context.allocate(Arena.ofAuto(), 4 * 1024 * 64);
        SplittableRandom random = new SplittableRandom(60);
        while (!stop.get()) {
            try {
                context.norm(shape, 64, null, x, null, null, x);
                LockSupport.parkNanos(random.nextInt(300_000));
            } catch (IllegalStateException busy) {
                Thread.onSpinWait();
            }
        }
    }

    @Test
    void badArgumentsAreNamed() {
        RandomModel random = RandomModel.of(RandomModel.System.VANILLA, DType.F32, 61);
        try (Context context = Context.cpu(1)) {
            DepthModel model = random.pack(context);
            DepthSession session = new DepthSession(context, model, limits(8));
            int sequence = session.open();
            Step step = session.step();
            assertSentence("step must have at least one token", () -> session.run(step));
            assertSentence("token must be in 0..95, got 96", () -> step.add(sequence, 96));
            assertSentence("token must be in 0..95, got -1", () -> step.add(sequence, -1));
            assertSentence("target must be in 0..95, got 400",
                    () -> step.score(sequence, new int[1], new int[] {400}));
            assertSentence("number of targets must equal number of tokens 1, got 2",
                    () -> step.score(sequence, new int[1], new int[2]));
            assertSentence("number of tokens must be at least 1, got 0", () -> step.add(sequence));
            assertSentence("sequence 3 is not open", () -> session.run(session.step().add(3, 1)));
            assertSentence("sequence must be in 0..3, got 4", () -> session.length(4));
            step.add(sequence, 1, 2);
            assertSentence("sequence 0 is in this step already", () -> step.add(sequence, 3));
            assertThrows(IllegalStateException.class, () -> step.depth(0));
            session.run(step);
            assertThrows(IllegalStateException.class, () -> session.run(step));
            assertThrows(IllegalStateException.class, () -> step.add(sequence, 1));
            assertThrows(IllegalStateException.class, () -> step.logits(0, new float[RandomModel.VOCAB]));
            assertEquals(1, step.outputs());
            assertTrue(Double.isNaN(step.nll(0)));
            assertSentence("count must be in 0..2, got 3", () -> session.truncate(sequence, 3));
            try (DepthSession other = new DepthSession(context, model, limits(8))) {
                assertSentence("step must be one that this session has made", () -> other.run(step));
            }
            session.close();
            session.close();
            assertThrows(IllegalStateException.class, () -> session.run(step.clear().add(sequence, 1)));
            assertThrows(IllegalStateException.class, session::open);
        }
    }

    @Test
    void modelsThatDoNotFitTogetherAreRefused() {
        try (Context context = Context.cpu(1)) {
            DepthModel three = RandomModel.expertOnly(3, 0, KvPolicy.PER_DEPTH, 1).pack(context);
            Stage two = RandomModel.expertOnly(2, 0, KvPolicy.PER_DEPTH, 1).pack(context).stages().getFirst();
            Stage stage = three.stages().getFirst();
            assertSentence("routers of expert choice must equal depths of the block 2, got 3",
                    () -> new Stage(two.shape(), two.weights(), stage.router(), KvPolicy.PER_DEPTH));
            BlockShape cross = BlockShape.builder(1, 16, 16, 1).cross(true).build();
            assertSentence("a block with cross-attention needs a source", () -> new Stage(cross, two.weights()));
            assertSentence("stages must not be empty",
                    () -> new DepthModel(three.embedding(), three.table(), List.of(), three.head()));
            assertSentence("rows must be at least 1, got 0", () -> new Limits(1, 1, 0, 1));
        }
    }

    private static void assertSentence(String expected, Executable code) {
        assertEquals(expected, assertThrows(IllegalArgumentException.class, code).getMessage());
    }
}
