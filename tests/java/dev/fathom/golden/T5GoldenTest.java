package dev.fathom.golden;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.HeadStats;
import dev.fathom.Isa;
import dev.fathom.Rows;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Whole encoder-decoders against the reference in float64, on every instruction set of this machine. */
class T5GoldenTest {
    /**
     * Sums of at most 72 products and 140 keys err by some 1e-6 of their terms; residual streams are up to 20 times
     * their parts, and up to eight layers of three sub-layers carry what came before on.
     */
    private static final double TOLERANCE = 3e-4;

    static List<Path> models() throws IOException {
        try (Stream<Path> kinds = Files.list(Path.of(System.getProperty("fathom.root"), "tests", "golden", "models"))) {
            return kinds.filter(kind -> kind.getFileName().toString().startsWith("t5_")).sorted().toList();
        }
    }

    /** One model in one arena: sources and targets, and the lists of all pairs in one array. */
    private static final class Scene {
        final T5 model;
        final JsonNode expected;
        final Map<String, Tensor> tensors;
        final int[][] sources;
        final int[][] targets;
        final Buffer memory;
        /** Where the list of a pair's encoder, or of its decoder, begins. An item is its own entry. */
        final int[] encoder;
        final int[] decoder;
        final Buffer entries;

        Scene(Context context, Arena arena, Path directory, int roomForTarget) throws IOException {
            expected = Golden.json(directory.resolve("expected.json"));
            tensors = Golden.tensors(directory.resolve("expected.safetensors"));
            model = new T5(context, arena, directory, expected.get("free").get("shallow").intValue());
            sources = rows(expected.get("source"));
            targets = rows(expected.get("target"));
            memory = model.encode(sources);
            encoder = new int[sources.length];
            decoder = new int[sources.length];
            int at = 0;
            for (int i = 0; i < sources.length; at += sources[i++].length) encoder[i] = at;
            model.remember(memory, at, 0);
            for (int i = 0; i < sources.length; i++, at += roomForTarget) decoder[i] = at;
            entries = model.floats(at);
            for (int i = 0; i < at; i++) entries.setInt(i, i);
        }

        /** Row i of a call is token t of a pair. */
        void row(Rows rows, Rows cross, int i, int pair, int t) {
            rows.set(i, decoder[pair], t + 1, t, 0, decoder[pair] + t);
            cross.set(i, encoder[pair], sources[pair].length, 0, 0, -1);
        }

        int input(int pair, int t) {
            return t == 0 ? model.integer("decoder_start_token_id") : targets[pair][t - 1];
        }

        /** Runs tokens {@code from[pair] .. to[pair])} of all pairs in one call; states [pair][t * width + ..]. */
        void advance(T5.Stage stage, int[] from, int[] to, float[][] states) {
            int count = 0;
            for (int pair = 0; pair < from.length; pair++) count += to[pair] - from[pair];
            Rows rows = model.rows(count), cross = model.rows(count);
            Buffer hidden = model.floats(count * model.width);
            int i = 0;
            for (int pair = 0; pair < from.length; pair++) {
                for (int t = from[pair]; t < to[pair]; t++, i++) {
                    row(rows, cross, i, pair, t);
                    hidden.write(i * model.width * 4L, states[pair], t * model.width, model.width);
                }
            }
            model.run(stage, count, rows, cross, entries, hidden);
            i = 0;
            for (int pair = 0; pair < from.length; pair++) {
                for (int t = from[pair]; t < to[pair]; t++, i++) {
                    hidden.read(i * model.width * 4L, states[pair], t * model.width, model.width);
                }
            }
        }
    }

    /** Encoders in one call; the first layers token by token, the deep ones in ragged groups, as FREE runs them. */
    @ParameterizedTest
    @MethodSource("models")
    void statesAndLikelihoodsAreThoseOfTheReference(Path directory) throws IOException {
        for (Isa isa : Isa.values()) {
            try (Context context = Context.cpu(2, isa); Arena arena = Arena.ofConfined()) {
                Scene scene = new Scene(context, arena, directory, 16);
                int pairs = scene.sources.length, width = scene.model.width;
                float[][] states = new float[pairs][];
                int[] done = new int[pairs], length = new int[pairs];
                for (int i = 0, at = 0; i < pairs; at += scene.sources[i++].length) {
                    near(scene.tensors.get(i + ".encoder"), 0, scene.memory, at * width,
                            scene.sources[i].length * width);
                    length[i] = scene.targets[i].length;
                    states[i] = new float[length[i] * width];
                    for (int t = 0; t < length[i]; t++) {
                        scene.model.embed(scene.input(i, t)).read(0, states[i], t * width, width);
                    }
                }
                int[] next = new int[pairs];
                for (int t = 0; t < 16; t++) {
                    for (int i = 0; i < pairs; i++) next[i] = Math.min(length[i], t + 1);
                    scene.advance(scene.model.shallow, done, next, states);
                    done = next.clone();
                }
                int shallow = scene.model.shallow.shape().layers();
                compare(scene, states, shallow - 1);
                for (int i = 0; i < pairs; i++) next[i] = length[i] / 2 + 1;
                scene.advance(scene.model.deep, new int[pairs], next, states);
                scene.advance(scene.model.deep, next, length, states);
                compare(scene, states, scene.model.integer("num_decoder_layers") - 1);
            }
        }
    }

    private static void compare(Scene scene, float[][] states, int layer) {
        int width = scene.model.width;
        for (int pair = 0; pair < states.length; pair++) {
            int count = scene.targets[pair].length;
            Buffer hidden = scene.model.floats(count * width).write(states[pair]), logit = scene.model.floats(count);
            near(scene.tensors.get(pair + ".states"), layer * count * width, hidden, 0, count * width);
            Buffer ids = scene.model.floats(count).write(scene.targets[pair]);
            HeadStats stats = scene.model.head(hidden, count, ids, logit);
            boolean last = layer + 1 == scene.model.integer("num_decoder_layers");
            for (int t = 0; t < count; t++) {
                assertEquals(scene.expected.get("argmax").get(pair).get(layer).get(t).intValue(), stats.argmax(t));
                double nll = scene.expected.get("nll").get(pair).get(t).doubleValue();
                if (last) assertEquals(nll, stats.lse(t) - logit.getFloat(t), 1e-3);
            }
        }
    }

    /** FREE: tokens that leave early wait on a stack, and go deep with the first that does not, in one call. */
    @ParameterizedTest
    @MethodSource("models")
    void earlyExitsAreThoseOfTheReference(Path directory) throws IOException {
        for (Isa isa : Isa.values()) {
            try (Context context = Context.cpu(1, isa); Arena arena = Arena.ofConfined()) {
                Scene scene = new Scene(context, arena, directory, 16);
                JsonNode free = scene.expected.get("free");
                for (int pair = 0; pair < scene.sources.length; pair++) {
                    List<Integer> ids = new ArrayList<>(), early = new ArrayList<>();
                    decode(scene, pair, free.get("threshold").doubleValue(), free.get("ids").get(pair).size(), ids,
                            early);
                    assertEquals(integers(free.get("ids").get(pair)), ids);
                    assertEquals(integers(free.get("early").get(pair)), early);
                    boolean ended = ids.getLast() == scene.model.integer("eos_token_id");
                    assertTrue(ended || ids.size() == 14, "ends without an end: " + ids);
                }
            }
        }
    }

    private static void decode(Scene scene, int pair, double threshold, int tokens, List<Integer> ids,
                               List<Integer> early) {
        T5 model = scene.model;
        int width = model.width;
        Rows rows = model.rows(tokens), cross = model.rows(tokens);
        Buffer stack = model.floats(tokens * width), chosen = model.floats(1), logit = model.floats(1);
        int waiting = 0;
        for (int t = 0; t < tokens; t++) {
            scene.row(rows, cross, waiting, pair, t);
            Buffer state = stack.slice(waiting * width * 4L, width * 4L);
            int id = t == 0 ? scene.input(pair, 0) : ids.getLast();
            state.segment().copyFrom(model.embed(id).segment());
            model.run(model.shallow, 1, rows.slice(waiting, 1), cross.slice(waiting, 1), scene.entries, state);
            waiting++;
            HeadStats stats = model.head(state, 1, chosen, logit);
            boolean leaves = stats.margin(0) > threshold;
            if (!leaves) {
                model.run(model.deep, waiting, rows, cross, scene.entries, stack);
                stats = model.head(state, 1, chosen, logit);
                waiting = 0;
            }
            ids.add(stats.argmax(0));
            early.add(leaves ? 1 : 0);
        }
    }

    private static void near(Tensor want, int wantAt, Buffer got, int gotAt, int count) {
        for (int i = 0; i < count; i++) {
            double exact = want.get(wantAt + i);
            Case.near("state", wantAt + i, exact, got.getFloat(gotAt + i), TOLERANCE * (1 + Math.abs(exact)));
        }
    }

    private static int[][] rows(JsonNode node) {
        int[][] rows = new int[node.size()][];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = integers(node.get(i)).stream().mapToInt(Integer::intValue).toArray();
        }
        return rows;
    }

    private static List<Integer> integers(JsonNode node) {
        List<Integer> integers = new ArrayList<>();
        node.forEach(number -> integers.add(number.intValue()));
        return integers;
    }
}
