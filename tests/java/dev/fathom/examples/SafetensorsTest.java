package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SafetensorsTest {
    private static final byte[] EIGHT = {1, 2, 3, 4, 5, 6, 7, 8};

    private static Map<String, Tensor> read(byte[] file) {
        return Safetensors.read("file", Contents.of(file));
    }

    private static Map<String, Tensor> read(String header, byte[] data) {
        return read(TestModel.safetensors(header.replace('\'', '"'), data));
    }

    @Test
    void tensorsAreSlicesOfTheData() {
        Map<String, Tensor> tensors = read("""
                {'__metadata__': {'format': 'pt'},
                 'b': {'dtype': 'BF16', 'shape': [1, 2], 'data_offsets': [4, 8]},
                 'none': {'dtype': 'F32', 'shape': [3, 0], 'data_offsets': [4, 4]},
                 'a': {'dtype': 'F32', 'shape': [], 'data_offsets': [0, 4]}}   """, EIGHT);
        assertEquals(3, tensors.size());
        assertTrue(tensors.get("b").hasShape(1, 2));
        assertArrayEquals(new byte[] {5, 6, 7, 8}, TestModel.bytes(tensors.get("b")));
        assertEquals(0, tensors.get("none").bytes());
        assertTrue(tensors.get("a").hasShape());
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '~', textBlock = """
            {'a': {t='F32', s=[1], o=[0, 4]}}                      | end at byte 4
            {'a': {t='F32', s=[3], o=[0, 8]}}                      | needs 12 bytes
            {'a': {t='F32', s=[3], o=[0, 12]}}                     | data_offsets must be
            {'a': {t='F32', s=[2], o=[8, 0]}}                      | data_offsets must be
            {'a': {t='F32', s=[2], o=[0]}}                         | data_offsets must be
            {'a': {t='F32', s=[2], o=[-8, 0]}}                     | at least 0
            {'a': {t='F32', s=[2], o=[0, 1e1]}}                    | at least 0
            {'a': {t='F32', s=[2], o=[0, 99999999999999999999]}}   | at least 0
            {'a': {t='F32', s=[2.0], o=[0, 8]}}                    | at least 0
            {'a': {t='F32', s=[-2], o=[0, 8]}}                     | at least 0
            {'a': {t='F32', s=2, o=[0, 8]}}                        | must be an array
            {'a': {t='F32', s=[1,1,1,1,1,1,1,1,2], o=[0, 8]}}      | at most 8
            {'a': {t='F32', s=[4611686018427387905, 4], o=[0, 8]}} | larger than any file
            {'a': {t='F32', s=[2305843009213693954], o=[0, 8]}}    | larger than any file
            {'a': {t='Q4', s=[2], o=[0, 8]}}                       | unknown type
            {'a': {t=1, s=[2], o=[0, 8]}}                          | unknown type
            {'a': {s=[2], o=[0, 8]}}                               | unknown type
            {'a': []}                                              | must be an array
            {'a': null}                                            | must be an array
            {'a': {t='U8', s=[5], o=[0, 5]}, 'b': {t='U8', s=[4], o=[4, 8]}} | overlap
            {'a': {t='U8', s=[3], o=[0, 3]}, 'b': {t='U8', s=[4], o=[4, 8]}} | gaps
            {'a': {t='U8', s=[8], o=[0, 8]}, 'a': {t='U8', s=[8], o=[0, 8]}} | Duplicate
            {'a': {t='U8', t='F32', s=[8], o=[0, 8]}}              | Duplicate
            {} {}                                                  | not valid JSON
            {'a'                                                   | not valid JSON
            []                                                     | must be a JSON object
            """)
    void whatDoesNotAgreeIsRefused(String header, String reason) {
        String full = header.replace("t=", "'dtype': ").replace("s=", "'shape': ").replace("o=", "'data_offsets': ");
        String message = assertThrows(UserException.class, () -> read(full, EIGHT)).getMessage();
        assertTrue(message.contains(reason), message);
        assertTrue(message.contains("file"), message);
    }

    @ParameterizedTest
    @CsvSource({"0", "1", "19", "-1", "9223372036854775807", "-9223372036854775808", "16777217"})
    void headerLengthsAreBounded(long length) {
        byte[] file = ByteBuffer.allocate(26).order(ByteOrder.LITTLE_ENDIAN).putLong(length).put("{}".getBytes())
                .array();
        String message = assertThrows(UserException.class, () -> read(file)).getMessage();
        assertTrue(message.contains("claims a header"), message);
        assertThrows(UserException.class, () -> read(Arrays.copyOf(file, 7)));
    }

    @Test
    void deepAndLongJsonIsRefused() {
        assertThrows(UserException.class, () -> read("{'a':".repeat(100_000), EIGHT));
        assertThrows(UserException.class, () -> read("{'a':" + "[".repeat(100_000), EIGHT));
        assertThrows(UserException.class, () -> read("{'" + "x".repeat(100_000) + "': 1}", EIGHT));
        assertThrows(UserException.class, () -> read("{'a': " + "1".repeat(100_000) + "}", EIGHT));
    }

    /** Whatever the bytes: tensors within the file that agree with their type and shape, or a sentence. */
    @Test
    void damagedFilesGiveASentenceOrSoundTensors() throws IOException {
        byte[] sound = TestModel.read("mor_expert").file();
        int header = 8 + (int) ByteBuffer.wrap(sound).order(ByteOrder.LITTLE_ENDIAN).getLong();
        byte[] file = Arrays.copyOf(sound, header + 4096);
        Random random = new Random(1);
        String interesting = "{}[]\",:0123456789-eE.ntf\\ \u0000";
        int refused = 0;
        for (int round = 0; round < 5000; round++) {
            byte[] damaged = round % 2 == 0 ? sound.clone() : file.clone();
            for (int change = random.nextInt(4); change >= 0; change--) {
                int at = random.nextInt(20) == 0 ? random.nextInt(8) : 8 + random.nextInt(header - 8);
                damaged[at] = random.nextBoolean() ? (byte) random.nextInt(256)
                        : (byte) interesting.charAt(random.nextInt(interesting.length()));
            }
            try {
                for (Tensor tensor : read(damaged).values()) TestModel.bytes(tensor);
            } catch (UserException e) {
                assertTrue(e.getMessage().length() < 1000, e.getMessage());
                refused++;
            }
        }
        assertTrue(refused > 2500, "refused " + refused);
    }

    @Test
    void randomJsonGivesASentenceOrSoundTensors() {
        Random random = new Random(2);
        String[] words = {"{", "}", "[", "]", ",", ":", "'a'", "'dtype'", "'shape'", "'data_offsets'", "'F32'", "'I64'",
                "0", "8",
            "-1", "1e99", "null", "true", "'__metadata__'"};
        for (int round = 0; round < 20_000; round++) {
            StringBuilder header = new StringBuilder("{'a':{'dtype':");
            for (int i = random.nextInt(20); i >= 0; i--) header.append(words[random.nextInt(words.length)]);
            try {
                read(header.toString(), EIGHT);
            } catch (UserException e) {
                assertTrue(e.getMessage().endsWith("."), e.getMessage());
            }
        }
    }

    @Test
    void halfPrecisionVectorsBecomeFloats() {
        Map<String, Tensor> tensors = read("{'f': {'dtype': 'F16', 'shape': [1], 'data_offsets': [0, 2]},"
                + "'b': {'dtype': 'BF16', 'shape': [1], 'data_offsets': [2, 4]},"
                + "'w': {'dtype': 'F32', 'shape': [1], 'data_offsets': [4, 8]}}",
                ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putShort((short) 0xbc00).putShort((short) 0x4049)
                        .putFloat(0.5f).array());
        assertEquals(-1, tensors.get("f").toFloats()[0]);
        assertEquals(3.140625f, tensors.get("b").toFloats()[0]);
        assertEquals(0.5f, tensors.get("w").toFloats()[0]);
    }

    @Test
    void rowsOfBlocksAreRowsOfBytes() {
        String header = "{'__metadata__': {'blocks.w': '%s'}, 'w': {'dtype': '%s', 'shape': [2, %d],"
                + " 'data_offsets': [0, %d]}}";
        Tensor eight = read(header.formatted("Q8_0", "U8", 68, 136), new byte[136]).get("w");
        assertTrue(eight.hasShape(2, 64));
        assertEquals("Q8_0", eight.dtype());
        assertEquals(128, eight.elements());
        assertTrue(read(header.formatted("Q4_0", "U8", 18, 36), new byte[36]).get("w").hasShape(2, 32));
        for (String wrong : new String[] {header.formatted("Q8_0", "U8", 35, 70),
            header.formatted("Q8_0", "I8", 34, 68), header.formatted("Q4_1", "U8", 20, 40), header.formatted("", "U8", 34, 68),
            header.formatted("Q8_0", "U8", 34, 68).replace("[2, 34]", "[]").replace("68", "1")}) {
            int bytes = Integer.parseInt(wrong.replaceAll(".*\\[0, ([0-9]+)].*", "$1"));
            String message = assertThrows(UserException.class, () -> read(wrong, new byte[bytes])).getMessage();
            assertTrue(message.contains("cannot hold blocks of type"), message);
        }
    }

    @Test
    void headersAreUtf8() {
        byte[] file = TestModel.safetensors("{\"é\": {\"dtype\": \"U8\", \"shape\": [8], \"data_offsets\": [0, 8]}}",
                EIGHT);
        assertTrue(read(file).containsKey("é"));
        file[new String(file, StandardCharsets.ISO_8859_1).indexOf('\u00c3')] = (byte) 0xff;
        assertThrows(UserException.class, () -> read(file));
    }
}
