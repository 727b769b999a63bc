package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

import org.junit.jupiter.api.Test;

/** The format: what it holds is read, and whatever is wrong with a file is a sentence. */
class GgufTest {
    private static Gguf read(byte[] file) {
        return Gguf.read("file", Contents.of(file));
    }

    private static void assertRefused(String reason, byte[] file) {
        String message = assertThrows(UserException.class, () -> read(file)).getMessage();
        assertTrue(message.contains(reason), message);
        assertTrue(message.startsWith("file"), message);
        assertTrue(message.endsWith("."), message);
    }

    private static GgufWriter sample() {
        return new GgufWriter().put("general.architecture", GgufWriter.STRING, "llama")
                .put("llama.block_count", GgufWriter.U32, 3_000_000_000L)
                .put("a.number", GgufWriter.F64, 1.5).put("a.flag", GgufWriter.BOOL, true)
                .put("a.long", GgufWriter.U64, -1)
                .putAll("tokenizer.ggml.tokens", GgufWriter.STRING, List.of("a", "\u00e9", ""))
                .putAll("other", GgufWriter.F32, List.of(1, 2, 3))
                .tensor("w", 0, new byte[40], 5, 2).tensor("q", 8, new byte[68], 64);
    }

    @Test
    void whatAFileHolds() {
        for (int version : new int[] {2, 3}) {
            GgufWriter writer = sample();
            writer.version = version;
            Gguf gguf = read(writer.bytes());
            assertEquals("llama", gguf.metadata().get("general.architecture").textValue());
            assertEquals(3_000_000_000L, gguf.metadata().get("llama.block_count").longValue());
            assertEquals(1.5, gguf.metadata().get("a.number").doubleValue());
            assertTrue(gguf.metadata().get("a.flag").booleanValue());
            assertEquals("18446744073709551615", gguf.metadata().get("a.long").asText());
            assertEquals("\u00e9", gguf.metadata().get("tokenizer.ggml.tokens").get(1).textValue());
            assertEquals(3, gguf.metadata().get("tokenizer.ggml.tokens").size());
            assertEquals(0, gguf.metadata().get("other").size());
            assertEquals(List.of("w", "q"), gguf.tensors().stream().map(Gguf.Info::name).toList());
            assertArrayEquals(new long[] {2, 5}, gguf.tensors().getFirst().shape());
            assertEquals(68, gguf.tensors().getLast().bytes());
            assertEquals(0, gguf.tensors().getFirst().offset() % 32);
        }
    }

    @Test
    void alignmentIsTheFilesOwn() {
        GgufWriter writer = sample().put("general.alignment", GgufWriter.U32, 256);
        writer.alignment = 256;
        for (Gguf.Info info : read(writer.bytes()).tensors()) assertEquals(0, info.offset() % 256);
        assertRefused("general.alignment must be a power of two",
                sample().put("general.alignment", GgufWriter.U32, 24).bytes());
        assertRefused("general.alignment must be a whole number in 1..65536, got 0",
                sample().put("general.alignment", GgufWriter.U32, 0).bytes());
    }

    @Test
    void whatIsNoGgufIsSaid() {
        assertRefused("file is not a GGUF file.", new byte[0]);
        assertRefused("file is not a GGUF file.", "a text of some length".getBytes(StandardCharsets.US_ASCII));
        for (int version : new int[] {0, 1, 4, 3 << 24}) {
            GgufWriter writer = sample();
            writer.version = version;
            assertRefused("version " + version + " cannot be read, 2 and 3 can", writer.bytes());
        }
    }

    @Test
    void keysAndTensorsAreThereOnce() {
        byte[] keys = sample().put("b.number", GgufWriter.F64, 2).bytes();
        keys[indexOf(keys, "b.number")] = 'a';
        assertRefused("key a.number is there twice", keys);
        assertRefused("tensor w is there twice", sample().tensor("w", 0, new byte[4], 1).bytes());
        byte[] text = sample().bytes();
        text[indexOf(text, "a.number")] = (byte) 0xff;
        assertRefused("a key is not UTF-8", text);
    }

    @Test
    void tensorsFitTheirDataAndTheFile() {
        assertRefused("tensor q has rows of 48 elements, expected a multiple of 32 for Q8_0",
                new GgufWriter().tensor("q", 8, new byte[68], 48).bytes());
        assertRefused("tensor q is of type Q4_K, which is not supported; F32, F16, BF16, Q8_0,",
                new GgufWriter().tensor("q", 12, new byte[144], 256).bytes());
        assertRefused("is of type ggml's number 4,", new GgufWriter().tensor("q", 4, new byte[144], 256).bytes());
        assertRefused("is of type ggml's number 4294967295,",
                new GgufWriter().tensor("q", -1, new byte[144], 256).bytes());
        assertRefused("has 5 dimensions, expected 1..4", new GgufWriter().tensor("q", 0, new byte[4], 1, 1, 1, 1, 1)
                .bytes());
        assertRefused("has 0 dimensions", new GgufWriter().tensor("q", 0, new byte[4]).bytes());
        assertRefused("has a size of 0", new GgufWriter().tensor("q", 0, new byte[4], 4, 0).bytes());
        assertRefused("has a size of 18446744073709551615", new GgufWriter().tensor("q", 0, new byte[4], -1).bytes());
        assertRefused("is larger than any file", new GgufWriter().tensor("q", 0, new byte[4], 1L << 62, 4).bytes());
        assertRefused("is larger than any file", new GgufWriter().tensor("q", 0, new byte[4], 1L << 61, 1).bytes());
        assertRefused("takes 400 bytes from byte 0 of the data on, which has 40",
                new GgufWriter().tensor("w", 0, new byte[40], 100).bytes());
        byte[] overlap = new GgufWriter().tensor("v", 0, new byte[32], 8).tensor("w", 0, new byte[32], 8).bytes();
        overlap[indexOf(overlap, "w") + 17] = 28; // its offset
        assertRefused("tensors v and w overlap", overlap);
        overlap[indexOf(overlap, "w") + 17 + 7] = (byte) 0x80;
        assertRefused("of the data on, which has 64", overlap);
    }

    private static int indexOf(byte[] file, String text) {
        return new String(file, StandardCharsets.ISO_8859_1).lastIndexOf(text);
    }

    @Test
    void countsAreSuchAsTheFileCanHold() {
        for (int at : new int[] {8, 16}) {
            for (long count : new long[] {-1, Long.MAX_VALUE, Long.MIN_VALUE, 1L << 40, 1000}) {
                byte[] file = sample().bytes();
                ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN).putLong(at, count);
                assertRefused("more than its bytes can hold", file);
            }
        }
        for (long count : new long[] {-1, Long.MAX_VALUE, 1 << 30}) {
            byte[] array = ByteBuffer.allocate(16).order(ByteOrder.LITTLE_ENDIAN).putInt(9).putInt(0).putLong(count)
                    .array();
            assertRefused("elements of a, more than its bytes", new GgufWriter().putRaw("a", array).bytes());
            byte[] text = ByteBuffer.allocate(12).order(ByteOrder.LITTLE_ENDIAN).putInt(8).putLong(count).array();
            assertRefused("bytes of text, more than its bytes", new GgufWriter().putRaw("a", text).bytes());
        }
        byte[] name = new GgufWriter().put("a", GgufWriter.U32, 1).bytes();
        ByteBuffer.wrap(name).order(ByteOrder.LITTLE_ENDIAN).putLong(24, 1 << 20);
        assertRefused("a key has 1048576 bytes, the limit is 65535", name);
    }

    @Test
    void typesAreKnownAndNestingIsShallow() {
        assertRefused("key a is of the unknown type 13",
                new GgufWriter().putRaw("a", new byte[] {13, 0, 0, 0}).bytes());
        ByteBuffer nested = ByteBuffer.allocate(4 + 100 * 12).order(ByteOrder.LITTLE_ENDIAN).putInt(9);
        while (nested.hasRemaining()) nested.putInt(9).putLong(1);
        assertRefused("key a nests arrays too deeply", new GgufWriter().putRaw("a", nested.array()).bytes());
    }

    /** Of the header every byte counts; of the data the last one too. */
    @Test
    void aFileThatEndsEarlyIsRefusedWhereverItEnds() {
        byte[] whole = sample().bytes();
        for (int length = 0; length < whole.length; length++) {
            byte[] part = Arrays.copyOf(whole, length);
            String message = assertThrows(UserException.class, () -> read(part)).getMessage();
            assertTrue(message.endsWith("."), message);
        }
    }

    @Test
    void damageGivesASentenceOrSoundTensors() {
        byte[] sound = sample().bytes();
        Random random = new Random(1);
        int refused = 0;
        for (int round = 0; round < 20_000; round++) {
            byte[] damaged = sound.clone();
            for (int i = random.nextInt(3); i >= 0; i--) {
                int at = random.nextInt(damaged.length);
                damaged[at] = (byte) (random.nextBoolean() ? damaged[at] ^ 1 << random.nextInt(8)
                        : random.nextInt(256));
            }
            try {
                for (Gguf.Info info : read(damaged).tensors()) {
                    TestModel.bytes(info.in(Contents.of(damaged)));
                }
            } catch (UserException e) {
                assertTrue(e.getMessage().endsWith("."), e.getMessage());
                refused++;
            }
        }
        assertTrue(refused > 5000, "refused " + refused);
    }
}
