package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.Isa;
import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.CapacityException;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Generation;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Scheduler;
import dev.fathom.depth.Signal;
import dev.fathom.depth.SkippedKv;
import dev.fathom.depth.Step;
import dev.fathom.depth.Threshold;
import dev.fathom.depth.Verification;

/** Encoder-decoders against the oracle, as tests/golden/README.md describes its vectors. */
class T5GoldenTest {
    /** fp32 in at most 4 + 4 layers; decisions of the vectors are {@code min_margin} from a tie. */
    private static final double CLOSE = 1e-3;
    private static final Generation.Receiver NOBODY = new Generation.Receiver() {
        @Override
        public void token(Generation generation, int i) {}

        @Override
        public void ended(Generation generation) {}
    };

    static List<Path> kinds() throws IOException {
        try (Stream<Path> kinds = Files.list(TestModel.GOLDEN)) {
            return kinds.filter(kind -> kind.getFileName().toString().startsWith("t5_")).sorted().toList();
        }
    }

    private static List<int[]> texts(JsonNode node) {
        List<int[]> texts = new ArrayList<>();
        node.forEach(text -> texts.add(TestModel.ints(text)));
        return texts;
    }

    private static EncoderDecoder open(Path kind, List<Integer> exits) {
        return open(kind, exits, Isa.AVX512);
    }

    private static EncoderDecoder open(Path kind, List<Integer> exits, Isa isa) {
        return EncoderDecoder.open(ModelFiles.directory(kind), DType.F32, null, Context.cpu(2, isa), exits, true);
    }

    private static Limits limits(int sequences) {
        return new Limits(sequences, 64, 256, 64L * sequences).withSource(160);
    }

    static Stream<Arguments> kindsAndIsas() throws IOException {
        return kinds().stream().flatMap(kind -> Stream.of(Isa.values()).map(isa -> Arguments.of(kind, isa)));
    }

    @ParameterizedTest
    @MethodSource("kindsAndIsas")
    void lossesAreThoseOfTheReference(Path kind, Isa isa) throws IOException {
        JsonNode expected = TestModel.json(kind.resolve("expected.json"));
        List<int[]> sources = texts(expected.get("source"));
        List<int[]> targets = texts(expected.get("target"));
        try (EncoderDecoder model = open(kind, List.of(), isa);
             DepthSession session = new DepthSession(model.context(), model.weights(), limits(sources.size()))) {
            int[] sequences = IntStream.range(0, sources.size()).map(i -> session.open()).toArray();
            session.encode(sequences, sources.toArray(int[][]::new));
            Step step = session.step();
            for (int i = 0; i < sequences.length; i++) {
                int[] target = targets.get(i);
                int[] input = new int[target.length];
                input[0] = model.config().startToken();
                System.arraycopy(target, 0, input, 1, target.length - 1);
                step.score(sequences[i], input, target);
            }
            session.run(step);
            for (int t = 0; t < step.tokens(); t++) {
                double loss = expected.get("nll").get(step.sequence(t)).get(step.position(t)).asDouble();
                assertEquals(loss, step.nll(t), CLOSE, "pair " + step.sequence(t) + " token " + step.position(t));
            }
        }
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void textsAreThoseOfTheReference(Path kind) throws IOException {
        JsonNode expected = TestModel.json(kind.resolve("expected.json"));
        List<int[]> sources = texts(expected.get("source"));
        try (EncoderDecoder model = open(kind, List.of())) {
            check(expected.get("greedy"), generate(model, sources, ExitPolicy.never()));
        }
        JsonNode free = expected.get("free");
        int shallow = free.get("shallow").asInt();
        ExitPolicy policy = ExitPolicy.deferring(new Signal.Margin(),
                new Threshold.Fixed((float) free.get("threshold").asDouble()), new ExitPoint(0, 0));
        try (EncoderDecoder model = open(kind, List.of(shallow))) {
            check(free.get("ids"), generate(model, sources, policy));
            // Verified, the text is that of the full model again.
            check(expected.get("greedy"), generate(model, sources, policy.withVerification(new Verification.Exact())));
            // State propagation runs too; its text is its own.
            generate(model, sources, policy.withSkipped(SkippedKv.PROPAGATE));
        }
    }

    /** What may exit, and how many tokens were generated before it, is the same for sessions and schedulers. */
    @ParameterizedTest
    @ValueSource(ints = {1, 3})
    void sessionsAndSchedulersCountAlike(int length) throws IOException {
        Path kind = kinds().get(0);
        int[] source = texts(TestModel.json(kind.resolve("expected.json")).get("source")).get(0);
        // Above 1, what the signal is, before the first generated token only.
        ExitPolicy policy = ExitPolicy.of(SkippedKv.HOLES, new Signal.Always(),
                new Threshold.DecayingScaled(1.087f, 1, 1), new ExitPoint(0, 0));
        try (EncoderDecoder model = open(kind, List.of(1))) {
            int[] prompt = new int[length];
            prompt[0] = model.config().startToken();
            Request request = new Request(prompt, 6).withSource(source);
            try (Scheduler scheduler = new Scheduler(model.context(), model.weights(), policy, BatchPolicy.PER_DEPTH,
                    limits(1));
                 DepthSession session = new DepthSession(model.context(), model.weights(), policy, limits(1))) {
                Generation g = scheduler.submit(request, NOBODY);
                scheduler.run();
                session.encode(session.open(), source);
                Step step = session.step();
                for (int i = 0; i < 6; i++) {
                    step.clear().add(0, i == 0 ? prompt : new int[] {g.token(i - 1)});
                    session.run(step);
                    assertEquals(g.token(i), step.argmax(0));
                }
                assertEquals(session.report().answers(), scheduler.report().work().answers());
            }
        }
    }

    /** Tokens take no room that is meant for sources. */
    @Test
    void sourcesHaveRoomOfTheirOwn() throws IOException {
        try (EncoderDecoder model = open(kinds().get(0), List.of());
             DepthSession session = new DepthSession(model.context(), model.weights(),
                     new Limits(2, 640, 256, 64).withSource(160))) {
            int one = session.open();
            session.encode(one, new int[160]);
            Step step = session.step().add(one, new int[256]);
            assertThrows(CapacityException.class, () -> session.run(step));
            session.run(step.clear().add(one, new int[128]));
            int fork = session.fork(one);
            session.close(one);
            session.encode(session.open(), new int[160]);
            assertEquals(128, session.length(fork));
        }
    }

    private static void check(JsonNode expected, List<int[]> texts) {
        for (int i = 0; i < texts.size(); i++) {
            assertArrayEquals(TestModel.ints(expected.get(i)), texts.get(i), "source " + i);
        }
    }

    private static List<int[]> generate(EncoderDecoder model, List<int[]> sources, ExitPolicy policy) {
        try (Scheduler scheduler = new Scheduler(model.context(), model.weights(), policy, BatchPolicy.PER_DEPTH,
                limits(2))) {
            List<Generation> generations = sources.stream().map(source -> scheduler.submit(
                    new Request(new int[] {model.config().startToken()}, 14).withStop(model.config().endToken())
                            .withSource(source), NOBODY)).toList();
            scheduler.run();
            return generations.stream().map(Generation::tokens).toList();
        }
    }

    @Test
    void sourcesAreChecked() throws IOException {
        Path kind = kinds().getFirst();
        try (EncoderDecoder model = open(kind, List.of());
             DepthSession session = new DepthSession(model.context(), model.weights(), limits(2))) {
            int sequence = session.open();
            refused("sequence 0 has no source; encode one first", () -> session.run(session.step().add(sequence, 1)));
            refused("number of tokens in a source must be in 1..160, got 0", () -> session.encode(sequence));
            refused("token must be in 0..95, got 96", () -> session.encode(sequence, 96));
            session.encode(sequence, 1, 2, 3);
            refused("sequence 0 has a source already", () -> session.encode(sequence, 1));
            session.run(session.step().add(sequence, 0));
            session.close(sequence);
            assertEquals(0, session.report().kvLiveBytes());
            refused("source of the limits, for a model with an encoder, must be at least 1, got 0",
                    () -> new DepthSession(model.context(), model.weights(), new Limits(1, 8)).close());
        }
    }

    private static void refused(String sentence, Executable code) {
        assertEquals(sentence, assertThrows(IllegalArgumentException.class, code).getMessage());
    }
}
