package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;

/**
 * What must hold of early exits whatever the model: thresholds at their ends, exact K and V, the same bits in company.
 */
class ExitsTest {
    private static final int TOKENS = 90;
    private static final ExitPoint SHALLOW = new ExitPoint(0, 0);
    private static final ExitPoint MIDDLE = new ExitPoint(1, 0);

    private static int[] text(int count, long seed) {
        return new SplittableRandom(seed).ints(count, 0, RandomModel.VOCAB).toArray();
    }

    private static Limits limits() {
        return new Limits(4, 128, 24, 512);
    }

    private static ExitPolicy margin(float threshold, ExitPoint... points) {
        return ExitPolicy.deferring(new Signal.Margin(), new Threshold.Fixed(threshold), points);
    }

    /** Of each token the loss and the legs behind which it was answered. */
    private record Scores(double[] nll, int[] legs) {}

    /** Teacher-forced, a token at a time behind a prompt of 20. */
    private static Scores decode(DepthSession session, int sequence, int[] ids) {
        Scores scores = new Scores(new double[ids.length], new int[ids.length]);
        Step step = session.step();
        int prompt = 20;
        step.add(sequence, Arrays.copyOf(ids, prompt));
        session.run(step);
        scores.legs[prompt - 1] = step.legs(prompt - 1);
        for (int t = prompt; t < ids.length; t++) {
            step.clear().score(sequence, new int[] {ids[t]}, new int[] {ids[(t + 1) % ids.length]});
            session.run(step);
            scores.nll[t] = step.nll(0);
            scores.legs[t] = step.legs(0);
        }
        return scores;
    }

    private static Scores decode(Context context, DepthModel model, ExitPolicy policy, int[] ids) {
        try (DepthSession session = new DepthSession(context, model, policy, limits())) {
            return decode(session, session.open(), ids);
        }
    }

    @ParameterizedTest
    @EnumSource(value = SkippedKv.class, names = {"HOLES", "DEFER"})
    @DisplayName("1: a threshold that nothing reaches gives the full model, bit by bit")
    void neverExitingIsTheFullModel(SkippedKv skipped) {
        int[] ids = text(TOKENS, 1);
        try (Context context = Context.cpu(2)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.BF16, 2).pack(context);
            Scores full = decode(context, model, ExitPolicy.never(), ids);
            Scores never = decode(context, model, margin(1, SHALLOW, MIDDLE).withSkipped(skipped), ids);
            assertArrayEquals(full.nll, never.nll);
            assertArrayEquals(full.legs, never.legs);
        }
    }

    @ParameterizedTest
    @EnumSource(value = SkippedKv.class, names = {"HOLES", "DEFER"})
    @DisplayName("1: a threshold that everything passes gives the model cut behind the exit, bit by bit")
    void alwaysExitingIsTheShallowModel(SkippedKv skipped) {
        int[] ids = text(TOKENS, 3);
        try (Context context = Context.cpu(2)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.BF16, 4).pack(context);
            DepthModel cut = new DepthModel(model.embedding(), model.table(), model.stages().subList(0, 2),
                    model.head());
            Scores always = decode(context, model, margin(-1, MIDDLE).withSkipped(skipped), ids);
            Scores shallow = decode(context, cut, ExitPolicy.never(), ids);
            assertArrayEquals(shallow.nll, always.nll);
            assertEquals(3, always.legs[19]);
            for (int t = 20; t < TOKENS; t++) assertEquals(2, always.legs[t]);
        }
    }

    @ParameterizedTest
    @CsvSource({"1, false", "2, true", "3, false", "16, true", "100, false"})
    @DisplayName("2: K and V of tokens that waited are those of full depth, bit by bit, however they were flushed")
    void deferredKvIsExact(int mostWaiting, boolean rideAlong) {
        int[] ids = text(TOKENS, 5);
        int[] others = text(TOKENS, 6);
        try (Context context = Context.cpu(2)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 7).pack(context);
            ExitPolicy policy = margin(0.3f, SHALLOW, MIDDLE).withMostWaiting(mostWaiting).withRideAlong(rideAlong);
            try (DepthSession full = new DepthSession(context, model, limits());
                 DepthSession free = new DepthSession(context, model, policy, limits())) {
                decode(full, full.open(), ids);
                int sequence = free.open();
                int other = free.open();
                Step step = free.step();
                for (int t = 0; t < TOKENS; t++) {
                    free.run(step.clear().add(other, others[t]).score(sequence, new int[] {ids[t]}, new int[] {1}));
                }
                free.settle(sequence);
                List<Long> answers = free.report().answers();
                assertTrue(answers.get(0) > 10 && answers.get(1) > 10 && answers.get(2) > 10,
                        "all exits must be used: " + answers);
                for (int stage = 0; stage < 3; stage++) {
                    assertEquals(TOKENS, free.cache(stage).length(sequence, 0));
                    assertArrayEquals(kv(context, full.cache(stage), 0), kv(context, free.cache(stage), sequence));
                }
            }
        }
    }

    /** K and V of all layers and items of a sequence's list 0. */
    private static float[] kv(Context context, KvCache cache, int sequence) {
        int count = cache.length(sequence, 0);
        int width = cache.shape().kvHeads() * cache.shape().headDim();
        Buffer entry = context.allocate(4L * count);
        for (int i = 0; i < count; i++) entry.setInt(i, cache.entry(sequence, 0, i));
        float[] all = new float[cache.shape().layers() * 2 * count * width];
        Buffer k = context.allocate(4L * count * width);
        Buffer v = context.allocate(4L * count * width);
        for (int layer = 0; layer < cache.shape().layers(); layer++) {
            context.kvRead(cache.shape(), layer, count, entry, cache.pool(), k, v);
            k.read(0, all, layer * 2 * count * width, count * width);
            v.read(0, all, (layer * 2 + 1) * count * width, count * width);
        }
        return all;
    }

    @Test
    @DisplayName("3: confidence from fused statistics is that of the softmax of stored logits")
    void confidenceIsThatOfTheLogits() {
        try (Context context = Context.cpu(1);
             DepthSession session = new DepthSession(context,
                     RandomModel.of(RandomModel.System.VANILLA, DType.F32, 8).pack(context), limits())) {
            int[] ids = text(40, 9);
            Step step = session.step().withLogits(true).score(session.open(), ids, ids);
            session.run(step);
            float[] logits = new float[RandomModel.VOCAB];
            for (int t = 0; t < ids.length; t++) {
                step.logits(t, logits);
                double[] p = softmax(logits);
                double[] sorted = p.clone();
                Arrays.sort(sorted);
                double entropy = 0;
                for (double x : p) entropy -= x * Math.log(x);
                assertEquals(sorted[p.length - 1], step.stats().maxProbability(t), 1e-5);
                assertEquals(sorted[p.length - 1] - sorted[p.length - 2], step.stats().margin(t), 1e-5);
                assertEquals(entropy, step.stats().entropy(t), 1e-4);
            }
        }
    }

    private static double[] softmax(float[] logits) {
        double sum = 0;
        double[] p = new double[logits.length];
        for (int i = 0; i < p.length; i++) sum += p[i] = Math.exp(logits[i]);
        for (int i = 0; i < p.length; i++) p[i] /= sum;
        return p;
    }

    @ParameterizedTest
    @EnumSource(value = SkippedKv.class, names = {"HOLES", "ALIAS", "DEFER"})
    @DisplayName("6: a loop with exits gives a text the same bits alone, in a batch, in one call or token by token")
    void companyAndCutsChangeNoBit(SkippedKv skipped) {
        ExitPolicy policy = ExitPolicy.of(skipped, new Signal.MaxProbability(), new Threshold.Fixed(0.4f), SHALLOW,
                new ExitPoint(0, 1)).withMostWaiting(5);
        int[][] texts = {text(TOKENS, 11), text(50, 12), text(33, 13)};
        try (Context one = Context.cpu(1); Context three = Context.cpu(3)) {
            RandomModel random = RandomModel.of(RandomModel.System.CYCLE_RELAXED, DType.BF16, 14);
            double[][] nll = new double[texts.length][];
            try (DepthSession session = new DepthSession(one, random.pack(one), policy, limits())) {
                for (int i = 0; i < texts.length; i++) {
                    int sequence = session.open();
                    Step step = session.step().score(sequence, texts[i], texts[i]);
                    session.run(step);
                    nll[i] = new double[texts[i].length];
                    for (int t = 0; t < nll[i].length; t++) nll[i][t] = step.nll(t);
                    session.close(sequence);
                }
                assertEquals(0, session.report().kvLiveBytes());
                for (long answers : session.report().answers()) assertTrue(answers > 10, "all exits must be used");
            }
            try (DepthSession session = new DepthSession(three, random.pack(three), policy, limits())) {
                for (int i = 0; i < texts.length; i++) session.open();
                Step step = session.step();
                for (int t = 0; t < TOKENS; t++) {
                    step.clear();
                    for (int i = texts.length - 1; i >= 0; i--) {
                        if (t < texts[i].length) step.score(i, new int[] {texts[i][t]}, new int[] {texts[i][t]});
                    }
                    session.run(step);
                    for (int o = 0; o < step.outputs(); o++) {
                        assertEquals(nll[step.sequence(step.token(o))][t], step.nll(o));
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 30, 57, 89})
    @DisplayName("a text that is truncated goes on as if nothing had been there; so does a fork")
    void truncationTakesWaitingTokensBack(int keep) {
        int[] ids = text(TOKENS, 15);
        try (Context context = Context.cpu(2)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 16).pack(context);
            ExitPolicy policy = margin(0.1f, SHALLOW);
            try (DepthSession session = new DepthSession(context, model, policy, limits())) {
                int sequence = session.open();
                Step step = session.step().score(sequence, ids, ids);
                session.run(step);
                double[] expected = new double[TOKENS];
                for (int t = 0; t < TOKENS; t++) expected[t] = step.nll(t);
                session.truncate(sequence, keep);
                session.run(step.clear().score(sequence, text(9, 17), text(9, 17)));
                session.truncate(sequence, keep);
                int fork = session.fork(sequence);
                int[] rest = Arrays.copyOfRange(ids, keep, TOKENS);
                session.run(step.clear().score(sequence, rest, rest).score(fork, rest, rest));
                for (int t = keep; t < TOKENS; t++) {
                    assertEquals(expected[t], step.nll(t - keep));
                    assertEquals(expected[t], step.nll(t - keep + rest.length));
                }
            }
        }
    }

    @Test
    @DisplayName("forced exits save the weights that the cost model says they save")
    void reportCountsWhatWasDone() {
        int[] ids = text(TOKENS, 18);
        try (Context context = Context.cpu(1)) {
            DepthModel model = RandomModel.of(RandomModel.System.SHALLOW_DEEP, DType.F32, 19).pack(context);
            ExitPolicy policy = ExitPolicy.deferring(new Signal.Forced(0.75, 1, false), new Threshold.Fixed(0.5f),
                    SHALLOW);
            try (DepthSession session = new DepthSession(context, model, policy, limits())) {
                int sequence = session.open();
                for (int id : ids) session.run(session.step().add(sequence, id));
                session.settle(sequence);
                DepthReport report = session.report();
                assertEquals(report.fullDepth().kvWrittenBytes(), report.done().kvWrittenBytes());
                assertEquals(TOKENS, report.stages().get(0).calls());
                assertEquals(TOKENS, report.stages().get(1).rows());
                assertTrue(report.stages().get(1).rowsPerCall() > 2.5, "rows per deep call");
                assertTrue(report.done().weightBytes() < 0.85 * report.fullDepth().weightBytes());
                assertEquals(TOKENS, report.answers().get(0) + report.answers().get(2));
            }
        }
    }
}
