package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import com.fasterxml.jackson.databind.JsonNode;

/** The command line from its arguments to its streams and exit code. */
class CommandsTest {
    private static final String MODEL = TestModel.GOLDEN.resolve("mor_expert").toString();

    @TempDir
    Path directory;

    record Ran(int code, String out, String err) {}

    static Ran run(String input, String... args) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        InputStream oldIn = System.in;
        PrintStream oldOut = System.out;
        PrintStream oldErr = System.err;
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
        try {
            return new Ran(Main.run(args), out.toString(StandardCharsets.UTF_8), err.toString(StandardCharsets.UTF_8));
        } finally {
            System.setIn(oldIn);
            System.setOut(oldOut);
            System.setErr(oldErr);
        }
    }

    static void assertFails(String reason, String... args) {
        Ran ran = run("", args);
        assertEquals(2, ran.code, ran.err);
        assertEquals("", ran.out);
        assertEquals(1, ran.err.lines().count(), ran.err);
        assertTrue(ran.err.startsWith("error: "), ran.err);
        assertTrue(ran.err.contains(reason), ran.err);
    }

    @Test
    void scoreWritesOneObject() throws IOException {
        JsonNode expected = TestModel.json(TestModel.GOLDEN.resolve("mor_expert/expected.json"));
        String ids = IntStream.of(TestModel.ints(expected.get("ids").get(2))).mapToObj(Integer::toString)
                .collect(Collectors.joining("\n", " ", "\t"));
        Ran ran = run(ids, "score", "--json", "--dtype", "f32", "--threads", "1", "--model", MODEL, "--ids", "-");
        assertEquals(0, ran.code, ran.err);
        assertEquals("", ran.err);
        JsonNode json = TestModel.json(ran.out);
        int tokens = expected.get("ids").get(2).size();
        assertEquals(tokens, json.get("tokens").intValue());
        assertEquals(tokens - 1, json.get("nll").size());
        assertEquals(expected.get("depths").get(2), json.get("depths"));
        for (int i = 0; i < tokens - 1; i++) {
            assertEquals(expected.get("nll").get(2).get(i).doubleValue(), json.get("nll").get(i).doubleValue(), 1e-3);
        }
        assertTrue(json.get("tokens_per_second").doubleValue() > 0);
        double mean = IntStream.of(TestModel.ints(json.get("depths"))).average().orElseThrow();
        assertEquals(mean, json.get("mean_depth").doubleValue(), 1e-12);
    }

    @Test
    void oneTokenPredictsNothing() throws IOException {
        JsonNode json = TestModel.json(run("65", "score", "--json", "--model", MODEL, "--ids", "-").out);
        assertEquals(0, json.get("nll").size());
        assertEquals(1, json.get("depths").size());
    }

    @Test
    void scoreDescribesATextLongerThanTheContext() throws IOException {
        Path text = Files.writeString(directory.resolve("text"), "To be, or not to be. ".repeat(60));
        Ran ran = run("", "score", "--model", MODEL, "--text", text.toString(), "--context", "100", "--stride", "60");
        assertEquals(0, ran.code, ran.err);
        for (String word : List.of("tokens      1,260", "nats/token", "perplexity", "bits/byte", "mean depth", "of 3",
                "tokens/s")) {
            assertTrue(ran.out.contains(word), ran.out);
        }
    }

    @Test
    void generateIsTheSameAloneAndInCompany() {
        String[] options = {"generate", "--model", MODEL, "--tokens", "12", "--temperature", "0", "--color", "never"};
        List<String> alone = run("", concat(options, "--prompt", "abc")).out.lines().toList();
        Ran both = run("", concat(options, "--prompt", "abc", "--prompt", "a longer one"));
        assertEquals(0, both.code, both.err);
        assertTrue(both.out.contains(alone.getFirst()), both.out);
        assertTrue(alone.getLast().startsWith("12 tokens, "), alone.getLast());
        assertTrue(both.out.lines().toList().getLast().startsWith("24 tokens, "), both.out);
    }

    @Test
    void generateDrawsTheSameFromOneSeed() {
        String[] options = {"generate", "--model", MODEL, "--tokens", "30", "--color", "never", "--top-k", "50",
                "--seed"};
        String one = run("", concat(options, "1")).out.replaceAll("\n\n30 tokens.*", "");
        assertEquals(one, run("", concat(options, "1")).out.replaceAll("\n\n30 tokens.*", ""));
        assertFalse(one.equals(run("", concat(options, "2")).out.replaceAll("\n\n30 tokens.*", "")));
    }

    @Test
    void generateGoesOnBeyondTheContext() throws IOException {
        TestModel model = TestModel.read("mor_expert");
        model.config.put("max_position_embeddings", 16);
        Ran ran = run("", "generate", "--model", model.write(directory).toString(), "--tokens", "50", "--prompt",
                "abcdefgh",
                "--prompt", "xyz");
        assertEquals(0, ran.code, ran.err);
    }

    @Test
    void coloursAndThePageShowDepths() throws IOException {
        Path page = directory.resolve("map.html");
        Ran ran = run("", "generate", "--model", MODEL, "--tokens", "20", "--prompt", "<b>&", "--color", "always",
                "--html",
                page.toString());
        assertEquals(0, ran.code, ran.err);
        assertTrue(ran.out.contains("\u001b[38;5;"), ran.out);
        String html = Files.readString(page);
        assertTrue(html.startsWith("<!doctype html>"), html);
        assertTrue(html.contains("&lt;"), html);
        assertFalse(html.contains("<b>&"), html);
        assertFalse(html.contains("http"), html);
        try (var files = Files.list(directory)) {
            assertEquals(List.of(page), files.toList());
        }
    }

    @Test
    void theBundledModelKnowsItsText() throws IOException {
        byte[] text = Files.readAllBytes(TestModel.GOLDEN.resolve("../../data/tinyshakespeare.txt"));
        Path part = Files.write(directory.resolve("part"), Arrays.copyOfRange(text, text.length - 3000, text.length));
        JsonNode json = TestModel.json(run("", "score", "--json", "--text", part.toString()).out);
        double sum = 0;
        for (JsonNode nll : json.get("nll")) sum += nll.doubleValue();
        assertTrue(sum / 2999 < 1.8, "nats per byte " + sum / 2999);
        assertTrue(json.get("mean_depth").doubleValue() < 2.5, json.get("mean_depth").toString());
    }

    @Test
    void infoTellsOfTheMachine() {
        Ran ran = run("", "info");
        assertEquals(0, ran.code, ran.err);
        for (String word : List.of("instructions", "workers", "caches", "gpu", "library", "ABI", "java")) {
            assertTrue(ran.out.contains(word), ran.out);
        }
    }

    @Test
    void helpIsAnAnswer() {
        assertTrue(run("", "--help").out.contains("generate"));
        assertTrue(run("", "score", "--help").out.contains("--stride"));
        assertEquals(0, run("").code);
    }

    @Test
    void mistakesAreOneSentence() throws IOException {
        assertFails("Unknown option", "generate", "--model", MODEL, "--nonsense");
        assertFails("frobnicate", "frobnicate");
        assertFails("--text", "score", "--model", MODEL);
        assertFails("mutually exclusive", "score", "--model", MODEL, "--text", "a", "--ids", "b");
        assertFails("--tokens must be at least 1", "generate", "--model", MODEL, "--tokens", "0");
        assertFails("--tokens", "generate", "--model", MODEL, "--tokens", "many");
        assertFails("--temperature", "generate", "--model", MODEL, "--temperature", "-1");
        assertFails("--top-k", "generate", "--model", MODEL, "--top-k", "-1");
        assertFails("--prompt must not be empty", "generate", "--model", MODEL, "--prompt", "");
        assertFails("the model's context holds 512", "generate", "--model", MODEL, "--prompt", "x".repeat(600));
        assertFails("--dtype must be f32 or bf16", "generate", "--model", MODEL, "--dtype", "f64");
        assertFails("--threads", "generate", "--model", MODEL, "--threads", "-1");
        assertFails("is not a directory", "generate", "--model", directory.resolve("none").toString());
        assertFails("config.json does not exist", "generate", "--model", directory.toString());
        assertFails("there is no such file", "score", "--model", MODEL, "--text", directory.resolve("none").toString());
        assertFails("has no tokens", "score", "--model", MODEL, "--ids", "-");
        assertFails("cannot be written", "generate", "--model", MODEL, "--tokens", "1", "--html",
                directory.resolve("no/such/folder.html").toString());
        Path ids = Files.writeString(directory.resolve("ids"), "1 2 256");
        assertFails("Token id 3 must be in 0..255, got 256", "score", "--model", MODEL, "--ids", ids.toString());
        Files.writeString(ids, "1 2 3");
        assertFails("--context must be in 1..512", "score", "--model", MODEL, "--ids", ids.toString(), "--context",
                "600");
        assertFails("--context must be", "score", "--model", MODEL, "--ids", ids.toString(), "--context", "0");
        assertFails("--stride must be in 1..8", "score", "--model", MODEL, "--ids", ids.toString(), "--context", "8",
                "--stride", "9");
    }

    @Test
    void hostileNamesDoNotReachTheTerminal() throws IOException {
        TestModel model = TestModel.read("vanilla");
        model.putChangedCopy("model.norm.weight", "model.\u001b[2J\nevil");
        Ran ran = run("1 2 3", "score", "--model", model.write(directory).toString(), "--ids", "-");
        assertEquals(2, ran.code);
        assertEquals(1, ran.err.lines().count());
        assertFalse(ran.err.contains("\u001b"));
    }

    @Test
    void textNeedsBytesOrATokenizer() throws IOException {
        TestModel model = TestModel.read("vanilla");
        model.config.put("vocab_size", 200);
        TestModel.Weight table = model.weights.get("model.embed_tokens.weight");
        model.weights.put("model.embed_tokens.weight",
                new TestModel.Weight("F32", new long[] {200, 48}, Arrays.copyOf(table.data(), 4 * 200 * 48)));
        String path = model.write(directory).toString();
        assertFails("no tokenizer.json", "generate", "--model", path);
        assertEquals(0, run("1 2 3", "score", "--json", "--model", path, "--ids", "-").code);
    }

    private static String[] concat(String[] first, String... more) {
        return Stream.concat(Arrays.stream(first), Arrays.stream(more)).toArray(String[]::new);
    }
}
