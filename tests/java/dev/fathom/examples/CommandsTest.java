package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.Context;
import dev.fathom.KernelException;

/** The command line from its arguments to its streams and exit code. */
class CommandsTest {
    private static final String MODEL = TestModel.GOLDEN.resolve("mor_expert").toString();

    @TempDir
    Path directory;

    record Ran(int code, String out, String err) {}

    static Ran run(String input, String... args) {
        return run(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)), args);
    }

    private static Ran run(InputStream input, String... args) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        InputStream oldIn = System.in;
        PrintStream oldErr = System.err;
        System.setIn(input);
        System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
        try {
            return new Ran(Main.run(out, args), out.toString(StandardCharsets.UTF_8),
                    err.toString(StandardCharsets.UTF_8));
        } finally {
            System.setIn(oldIn);
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
        assertTrue(ran.err.strip().matches("error: .*\\."), ran.err); // a sentence
        assertFalse(ran.err.contains("rror: Error"), ran.err);
        assertFalse(ran.err.contains("fth_"), ran.err);
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
        JsonNode stricter = TestModel.json(run("", "score", "--json", "--text", part.toString(), "--router-threshold",
                "0.5").out);
        assertTrue(stricter.get("mean_depth").doubleValue() < json.get("mean_depth").doubleValue());
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
        assertFails("--tokens must be in 1..1000000, got 0", "generate", "--model", MODEL, "--tokens", "0");
        assertFails("--tokens must be in 1..1000000, got 2147483647", "generate", "--model", MODEL, "--tokens",
                "2147483647");
        assertFails("--tokens", "generate", "--model", MODEL, "--tokens", "many");
        assertFails("--temperature", "generate", "--model", MODEL, "--temperature", "-1");
        assertFails("--top-k", "generate", "--model", MODEL, "--top-k", "-1");
        assertFails("--prompt must not be empty", "generate", "--model", MODEL, "--prompt", "");
        assertFails("the model's context holds 512", "generate", "--model", MODEL, "--prompt", "x".repeat(600));
        assertFails("--dtype must be f32, bf16, f8, i8, q8_0 or q4_0", "generate", "--model", MODEL, "--dtype", "f64");
        assertFails("--kv must be f32, bf16 or i8, got q8_0", "generate", "--model", MODEL, "--kv", "q8_0");
        assertFails("--router-threshold: threshold must be a finite number, got NaN", "generate",
                "--router-threshold", "NaN");
        assertFails("--router-threshold: the model has no router with expert choice", "score", "--router-threshold",
                "1", "--model", TestModel.GOLDEN.resolve("vanilla").toString(), "--ids", "-");
        assertFails("--threads must be at least 0, got -1", "generate", "--model", MODEL, "--threads", "-1");
        assertFails("--device must be cpu, cuda or cuda:N, got tpu", "generate", "--model", MODEL, "--device", "tpu");
        assertFails("--device cuda:99: ", "generate", "--model", MODEL, "--device", "cuda:99");
        assertFails("workers must be in 0..1024, got 2000", "generate", "--model", MODEL, "--threads", "2000");
        assertFails("is not a directory", "generate", "--model", directory.resolve("none").toString());
        assertFails("config.json does not exist", "generate", "--model", directory.toString());
        assertFails("there is no such file", "score", "--model", MODEL, "--text", directory.resolve("none").toString());
        assertFails("has no tokens", "score", "--model", MODEL, "--ids", "-");
        assertFails("cannot be written", "generate", "--model", MODEL, "--tokens", "1", "--html",
                directory.resolve("no/such/folder.html").toString());
        Path ids = Files.writeString(directory.resolve("ids"), "1 2 256");
        assertFails("Token id 3 must be in 0..255, got 256", "score", "--model", MODEL, "--ids", ids.toString());
        Files.writeString(ids, "1 two 3");
        assertFails("Token id 2 must be in 0..255, got two", "score", "--model", MODEL, "--ids", ids.toString());
        Files.writeString(ids, "1 " + "9".repeat(50));
        assertFails("got " + "9".repeat(40) + "...", "score", "--model", MODEL, "--ids", ids.toString());
        Files.writeString(ids, "1 2 3");
        assertFails("--context must be in 1..512", "score", "--model", MODEL, "--ids", ids.toString(), "--context",
                "600");
        assertFails("--context must be", "score", "--model", MODEL, "--ids", ids.toString(), "--context", "0");
        assertFails("--stride must be in 1..8", "score", "--model", MODEL, "--ids", ids.toString(), "--context", "8",
                "--stride", "9");
    }

    @Test
    void theTypeOfWeightsCanBeChosen() {
        for (String type : List.of("bf16", "BF16", "f32")) {
            Ran ran = run("", "generate", "--model", MODEL, "--tokens", "2", "--dtype", type);
            assertEquals(0, ran.code, ran.err);
            assertTrue(ran.out.contains(" bytes, " + type.toLowerCase(Locale.ROOT) + " "), ran.out);
        }
    }

    @Test
    void theTypeOfKeysAndValuesCanBeChosen() throws IOException {
        int headDim = TestModel.read("mor_expert").config.get("head_dim").intValue();
        long f32 = kvBytes("f32", "f32");
        assertEquals(f32, kvBytes("f32", null));
        assertEquals(f32 / 2, kvBytes("f32", "bf16"));
        assertEquals(f32 / 2, kvBytes("i8", null));
        assertEquals(f32, kvBytes("i8", "F32"));
        assertEquals(f32 / (4 * headDim) * (headDim + 4), kvBytes("bf16", "i8"));
    }

    /** Of two tokens and what they followed, with one pass each. */
    private static long kvBytes(String weights, String kv) {
        String[] options = {"generate", "--model", MODEL, "--tokens", "2", "--router-threshold", "1e30", "--dtype",
                weights};
        Ran ran = run("", kv == null ? options : concat(options, "--kv", kv));
        assertEquals(0, ran.code, ran.err);
        Matcher bytes = Pattern.compile("K,V ([0-9,]+) bytes").matcher(ran.out);
        assertTrue(bytes.find(), ran.out);
        return Long.parseLong(bytes.group(1).replace(",", ""));
    }

    @Test
    void eightBitsOfKeysAndValuesHardlyChangeLikelihoods() throws IOException {
        String ids = IntStream.range(0, 200).mapToObj(i -> Integer.toString(97 + i * i % 26))
                .collect(Collectors.joining(" "));
        double[] sums = new double[2];
        for (int i = 0; i < 2; i++) {
            Ran ran = run(ids, "score", "--json", "--dtype", "f32", "--kv", i == 0 ? "f32" : "i8", "--ids", "-");
            assertEquals(0, ran.code, ran.err);
            for (JsonNode nll : TestModel.json(ran.out).get("nll")) sums[i] += nll.doubleValue();
        }
        assertTrue(sums[0] != sums[1]);
        assertEquals(1, sums[1] / sums[0], 0.01);
    }

    @Test
    void likelihoodsThatAreNotFiniteAreRefused() throws IOException {
        TestModel model = TestModel.read("vanilla");
        ByteBuffer.wrap(model.weights.get("model.norm.weight").data()).order(ByteOrder.LITTLE_ENDIAN)
                .putFloat(0, Float.NaN);
        Path ids = Files.writeString(directory.resolve("ids"), "1 2 3");
        assertFails("The model gives no finite likelihood after token 0", "score", "--model",
                model.write(directory).toString(), "--ids", ids.toString());
    }

    @Test
    void filesThatCannotBeReadAreTold() throws IOException {
        assertFails(directory + " cannot be read: ", "score", "--model", MODEL, "--text", directory.toString());
        assertFails("it is no path", "score", "--model", MODEL, "--text", "a\0b");
        Files.createDirectory(directory.resolve("config.json"));
        assertFails("config.json does not exist", "generate", "--model", directory.toString());
        Files.delete(directory.resolve("config.json"));
        Files.write(directory.resolve("config.json"), new byte[(16 << 20) + 1]);
        assertFails("config.json has 16777217 bytes, the limit is 16777216", "generate", "--model",
                directory.toString());
    }

    /** Whatever is thrown, what is told is a sentence. */
    @Test
    void everyFailureIsASentence() {
        Throwable kernel = assertThrows(KernelException.class, () -> Context.cuda(99));
        Throwable argument = assertThrows(IllegalArgumentException.class, () -> Context.cpu(-1));
        Map<Throwable, String> told = new LinkedHashMap<>();
        told.put(new UserException("The text is too long."), "The text is too long.");
        told.put(kernel, kernel.getMessage() + ".");
        told.put(argument, "workers must be in 0..1024, got -1.");
        told.put(new OutOfMemoryError("Java heap space"), "There is not enough memory: Java heap space.");
        told.put(new UnsatisfiedLinkError("The library could not be loaded."), "The library could not be loaded.");
        told.put(new NoClassDefFoundError(), "Unexpected: java.lang.NoClassDefFoundError at ");
        told.put(new IllegalArgumentException(), "Unexpected: java.lang.IllegalArgumentException at ");
        told.put(new InternalError("a fault occurred"), "Unexpected: java.lang.InternalError: a fault occurred at ");
        told.put(new IllegalStateException("a\nb"), "Unexpected: java.lang.IllegalStateException: a b at ");
        told.forEach((thrown, sentence) -> {
            String err = failure(thrown);
            assertTrue(err.startsWith("error: " + sentence), err);
            assertTrue(err.endsWith(".\n") && err.lines().count() == 1, err);
        });
        String longest = failure(new UserException("x".repeat(5000)));
        assertEquals("error: " + "x".repeat(993) + "...\n", longest);
    }

    private static String failure(Throwable thrown) {
        ByteArrayOutputStream err = new ByteArrayOutputStream();
        PrintStream old = System.err;
        System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
        try {
            assertEquals(2, Main.failure(thrown));
        } finally {
            System.setErr(old);
        }
        return err.toString(StandardCharsets.UTF_8);
    }

    /** Errors that no command catches end the same way. */
    @Test
    void errorsOfACommandAreCaught() {
        Ran ran = run(new InputStream() {
            @Override
            public int read() {
                throw new InternalError("a fault occurred");
            }
        }, "score", "--model", MODEL, "--ids", "-");
        assertEquals(2, ran.code);
        assertTrue(ran.err.startsWith("error: Unexpected: java.lang.InternalError: a fault occurred at "), ran.err);
    }

    @Test
    void progressIsDrawnWhereItIsWatched() {
        ByteArrayOutputStream terminal = new ByteArrayOutputStream();
        try (Progress progress = Progress.on(new PrintStream(terminal, true), "scoring", 200)) {
            progress.accept(100);
        }
        String drawn = terminal.toString(StandardCharsets.UTF_8);
        assertTrue(drawn.contains("scoring") && drawn.contains("100/200"), drawn);
        try (Progress nobody = Progress.of("scoring", 1)) {
            nobody.accept(1);
        }
    }

    @Test
    void aTokenizerWorksFromEndToEnd() throws IOException {
        TestModel model = TestModel.read("vanilla");
        model.config.put("vocab_size", 7);
        TestModel.Weight table = model.weights.get("model.embed_tokens.weight");
        model.weights.put("model.embed_tokens.weight",
                new TestModel.Weight("F32", new long[] {7, 48}, Arrays.copyOf(table.data(), 4 * 7 * 48)));
        String path = model.write(directory).toString();
        Files.writeString(directory.resolve("tokenizer.json"), TextCodecTest.TOKENIZER);

        Ran ran = run("", "generate", "--model", path, "--prompt", "ab ab b", "--tokens", "30", "--seed", "5");
        assertEquals(0, ran.code, ran.err);
        assertTrue(ran.out.startsWith("ab ab b"), ran.out);
        assertTrue(ran.out.contains("\n30 tokens, "), ran.out);
        String text = ran.out.substring(0, ran.out.indexOf("\n\n30 tokens, "));
        assertTrue(text.matches("[ab \u00e9\uFFFD]+"), text);

        Path written = Files.writeString(directory.resolve("text"), "ab ab b");
        JsonNode json = TestModel.json(run("", "score", "--json", "--model", path, "--text", written.toString()).out);
        assertEquals(4, json.get("tokens").intValue());
        JsonNode same = TestModel.json(run("3 4 2 1", "score", "--json", "--model", path, "--ids", "-").out);
        assertEquals(same.get("nll"), json.get("nll"));
        assertFalse(run("", "score", "--model", path, "--text", written.toString()).out.contains("bits/byte"));

        assertFails("The tokenizer makes no tokens of --prompt \"xyz\"", "generate", "--model", path, "--prompt",
                "xyz");
        Files.writeString(directory.resolve("tokenizer.json"), "{}");
        assertFails("tokenizer.json cannot be used: ", "generate", "--model", path);
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
