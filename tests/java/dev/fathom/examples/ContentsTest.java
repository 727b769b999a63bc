package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Map;
import java.util.Random;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.LinearShape;
import dev.fathom.Part;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Limits;

/** Files are copied piece by piece, and one that shrinks while a model is read is a sentence. */
class ContentsTest {
    @TempDir
    Path directory;

    private static void truncate(Path file, long bytes) throws IOException {
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
            channel.truncate(bytes);
        }
    }

    private static void assertEndedEarly(Executable reading) {
        String message = assertThrows(UserException.class, reading).getMessage();
        assertTrue(message.contains("became shorter while it was read"), message);
    }

    @Test
    void piecesAreThoseOfTheFile() throws IOException {
        byte[] bytes = new byte[(5 << 19) + 3]; // more than two pieces
        new Random(1).nextBytes(bytes);
        Path file = Files.write(directory.resolve("file"), bytes);
        try (Contents contents = Contents.of(file); Arena arena = Arena.ofConfined()) {
            assertArrayEquals(bytes, contents.all("file", bytes.length));
            MemorySegment part = arena.allocate(1 << 21);
            contents.read(12345, part);
            MemorySegment expected = MemorySegment.ofArray(bytes).asSlice(12345, 1 << 21);
            assertEquals(-1, expected.mismatch(part));
            String message = assertThrows(UserException.class, () -> contents.all("The file", 9)).getMessage();
            assertEquals("The file has " + bytes.length + " bytes, the limit is 9.", message);
        }
    }

    @Test
    void aFileThatShrinksEndsEarly() throws IOException {
        Path file = Files.write(directory.resolve("file"), new byte[100_000]);
        try (Contents contents = Contents.of(file)) {
            truncate(file, 50_000);
            contents.read(0, MemorySegment.ofArray(new byte[50_000]));
            assertEndedEarly(() -> contents.read(0, MemorySegment.ofArray(new byte[50_001])));
            truncate(file, 0);
            assertEndedEarly(() -> contents.read(0, MemorySegment.ofArray(new byte[1])));
        }
    }

    @Test
    void aClosedFileCannotBeRead() throws IOException {
        Contents contents = Contents.of(Files.write(directory.resolve("file"), new byte[10]));
        contents.close();
        contents.close();
        String message = assertThrows(UserException.class, () -> contents.read(0, MemorySegment.ofArray(new byte[1])))
                .getMessage();
        assertTrue(message.contains("cannot be read"), message);
    }

    /** At every size: what is gone may be a table, a block's weight, a router, a norm. */
    @ParameterizedTest
    @ValueSource(strings = {"mor_expert", "mor_token_sigmoid", "relaxed_cycle", "vanilla_mha_untied"})
    void aModelThatShrinksWhileItIsLoadedIsRefused(String kind) throws IOException {
        TestModel model = TestModel.read(kind);
        int size = model.file().length;
        for (int eighths = 0; eighths < 8; eighths++) {
            Path written = model.write(directory);
            ModelFiles files = ModelFiles.directory(written);
            ModelConfig config = ModelConfig.read(files);
            try (Context context = Context.cpu(1); Checkpoint checkpoint = new Checkpoint(files)) {
                truncate(written.resolve("model.safetensors"), (long) size * eighths / 8);
                assertEndedEarly(() -> ModelLoader.load(context, config, checkpoint, WeightTypes.all(DType.F32), false,
                        w -> { }));
            }
        }
    }

    @Test
    void aModelThatShrinksWhileItIsConvertedLeavesNothing() throws IOException {
        Path source = Files.createDirectory(directory.resolve("source"));
        TestModel model = TestModel.read("vanilla_deep");
        for (Map<Part, Integer> ranks : List.of(Map.<Part, Integer>of(), Map.of(Part.DOWN, 4))) {
            model.write(source);
            Path to = directory.resolve("to");
            try (Conversion conversion = new Conversion(source, new Conversion.Options(2, 0,
                    ModelConfig.Sharing.CYCLE, null, true, ranks, new StoredTypes(null, null), false))) {
                truncate(source.resolve("model.safetensors"), 100_000);
                assertEndedEarly(() -> conversion.write(to, 2, done -> { }));
            }
            assertFalse(Files.exists(to));
            try (var left = Files.list(directory)) {
                assertEquals(1, left.count());
            }
        }
    }

    /** A linear of more bytes than are copied at once is packed as it is in one piece. */
    @Test
    void largeLinearsArePackedInSlices() throws IOException {
        int in = 2048;
        int out = 2500; // of f32: 20 MB
        float[] values = new float[in * out];
        Random random = new Random(2);
        for (int i = 0; i < values.length; i++) values[i] = random.nextFloat() - 0.5f;
        byte[] bytes = new byte[4 * values.length];
        MemorySegment.copy(values, 0, MemorySegment.ofArray(bytes), ValueLayout.JAVA_FLOAT_UNALIGNED, 0, values.length);
        LinearShape shape = new LinearShape(in, out, DType.BF16);
        try (Context context = Context.cpu(2)) {
            var packed = new Packing(context).linear(shape,
                    new Tensor("w", "F32", new long[] {out, in}, Contents.of(bytes), 0, bytes.length));
            var whole = context.allocate(context.linearBytes(shape));
            context.linearPack(shape, 0, out, DType.F32, context.allocate(bytes.length).write(bytes), whole);
            assertEquals(-1, whole.segment().mismatch(packed.segment()));
        }
    }

    @Test
    void memoryThatIsNotThereIsNamed() {
        try (Context context = Context.cpu(1)) {
            String message = assertThrows(UserException.class,
                    () -> new Packing(context).allocate("the weights of model.layers.0.*", 1L << 45)).getMessage();
            assertEquals("There is not enough memory for the weights of model.layers.0.*, which takes " + (1L << 45)
                    + " bytes.", message);
        }
    }

    @Test
    void roomForTextsThatIsNotThereIsNamed() {
        try (LanguageModel model = TestModel.open("vanilla")) {
            String message = assertThrows(UserException.class,
                    () -> model.session(ExitPolicy.never(), new Limits(1, 1 << 30))).getMessage();
            assertTrue(message.startsWith("There is not enough memory for K and V of 1 x 1073741824 tokens: "),
                    message);
        }
    }
}
