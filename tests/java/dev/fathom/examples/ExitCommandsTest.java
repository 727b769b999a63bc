package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.Collectors;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Early exits and encoder-decoders from the command line. */
class ExitCommandsTest {
    private static final String PLAIN = TestModel.GOLDEN.resolveSibling("exits").resolve("models/plain").toString();
    private static final Path T5 = TestModel.GOLDEN.resolve("t5_1_1");

    @ParameterizedTest
    @ValueSource(strings = {"defer", "propagate", "copy", "holes"})
    void scoreCountsWhereTokensWereAnswered(String kv) throws IOException {
        CommandsTest.Ran ran = CommandsTest.run("10 20 30 40 50 60 70 80", "score", "--json", "--model", PLAIN, "--ids",
                "-", "--exit-signal", "margin", "--exit-threshold", "0.05,0.1,0.2", "--exit-kv", kv);
        assertEquals(0, ran.code(), ran.err());
        JsonNode json = TestModel.json(ran.out());
        assertEquals(8, json.get("depths").size());
        assertTrue(json.get("mean_depth").asDouble() < 4, "nothing exited: " + ran.out());
        CommandsTest.Ran full = CommandsTest.run("10 20 30", "score", "--model", PLAIN, "--ids", "-");
        assertTrue(full.out().contains("mean depth  1.000 of 1"), full.out());
    }

    @Test
    void generateExits() {
        CommandsTest.Ran ran = CommandsTest.run("", "generate", "--model", PLAIN, "--prompt", "abc", "--tokens", "9",
                "--exit-signal", "mlp", "--exit-threshold", "0.5", "--exit-layers", "2,3,4", "--color", "never");
        assertEquals(0, ran.code(), ran.err());
        assertTrue(ran.out().contains("of 4"), ran.out());
    }

    @Test
    void exitsThatMakeNoSenseAreSentences() {
        String[] score = {"score", "--model", PLAIN, "--ids", "-"};
        fails("--exit-threshold needs --exit-signal", score, "--exit-threshold", "1");
        fails("--exit-signal needs --exit-threshold", score, "--exit-signal", "margin");
        fails("or a head that the model has: linear, mlp; got best", score, "--exit-signal", "best",
                "--exit-threshold", "1");
        fails("--exit-kv must be holes, alias, copy, propagate or defer, got none", score, "--exit-signal", "margin",
                "--exit-threshold", "1", "--exit-kv", "none");
        fails("thresholds must be 1, or one per exit point (3), got 2", score, "--exit-signal", "margin",
                "--exit-threshold", "1,2");
        fails("ALIAS needs all skipped passes in the stage of the exit", score, "--exit-signal", "margin",
                "--exit-threshold", "1", "--exit-kv", "alias");
        fails("An exit behind layer 5 of 5 skips nothing", score, "--exit-signal", "margin", "--exit-threshold", "1",
                "--exit-layers", "3,5");
        String[] mor = {"score", "--model", TestModel.GOLDEN.resolve("mor_expert").toString(), "--ids", "-"};
        fails("The model has no exits: say with --exit-layers where they are", mor, "--exit-signal", "margin",
                "--exit-threshold", "1");
    }

    private static void fails(String reason, String[] command, String... more) {
        String[] all = Arrays.copyOf(command, command.length + more.length);
        System.arraycopy(more, 0, all, command.length, more.length);
        CommandsTest.assertFails(reason, all);
    }

    @Test
    void seq2seqTurnsSourcesTogether() throws IOException {
        JsonNode expected = TestModel.json(T5.resolve("expected.json"));
        String first = ids(expected.get("source").get(0));
        String second = ids(expected.get("source").get(1));
        String[] options = {"seq2seq", "--model", T5.toString(), "--tokens", "14", "--source", first, "--source",
            second};
        CommandsTest.Ran full = CommandsTest.run("", options);
        assertEquals(0, full.code(), full.err());
        String greedy = ids(expected.get("greedy").get(0)) + "\n" + ids(expected.get("greedy").get(1));
        assertTrue(full.out().startsWith(greedy), full.out());
        String[] eightBits = Arrays.copyOf(options, options.length + 2);
        System.arraycopy(new String[] {"--kv", "i8"}, 0, eightBits, options.length, 2);
        assertEquals(0, CommandsTest.run("", eightBits).code());
        String[] verified = Arrays.copyOf(options, options.length + 7);
        System.arraycopy(new String[] {"--exit-layers", "2", "--exit-signal", "margin", "--exit-threshold", "0.03",
            "--verify"}, 0, verified, options.length, 7);
        assertEquals(full.out().lines().limit(2).toList(),
                CommandsTest.run("", verified).out().lines().limit(2).toList());
        CommandsTest.assertFails("no encoder-decoder is bundled", "seq2seq", "--source", "1");
        CommandsTest.assertFails("Token id 2 must be in 0..95, got x", "seq2seq", "--model", T5.toString(), "--source",
                "1 x");
    }

    private static String ids(JsonNode node) {
        return Arrays.stream(TestModel.ints(node)).mapToObj(Integer::toString).collect(Collectors.joining(" "));
    }
}
