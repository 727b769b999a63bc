package dev.fathom.golden;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Stream;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.fathom.Context;
import dev.fathom.Isa;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;

/** The golden vectors of one operation, as tests/golden/README.md describes them. */
public final class Golden {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Golden() {}

    /** One test for each case on each instruction set; on a machine without it the test is reported as skipped. */
    static Stream<DynamicTest> tests(String operation, Consumer<Case> body) throws IOException {
        Path folder = Path.of(System.getProperty("fathom.root"), "tests", "golden", "ops");
        Map<String, Tensor> tensors = tensors(folder.resolve(operation + ".safetensors"));
        JsonNode cases = JSON.readTree(folder.resolve(operation + ".json").toFile()).get("cases");
        List<DynamicTest> tests = new ArrayList<>();
        List<Context> contexts = new ArrayList<>();
        for (Isa isa : Isa.values()) {
            Context context = Context.cpu(2, isa);
            contexts.add(context);
            for (JsonNode numbers : cases) {
                tests.add(DynamicTest.dynamicTest(numbers.get("name").asText() + " " + isa, () -> {
                    Assumptions.assumeTrue(context.info().isa() == isa, () -> "this machine has no " + isa);
                    try (Arena arena = Arena.ofConfined()) {
                        body.accept(new Case(context, arena, numbers, tensors));
                    }
                }));
            }
        }
        return tests.stream().onClose(() -> contexts.forEach(Context::close));
    }

    /** A safetensors file: the length of a JSON header, the header, the data that its offsets count from. */
    public static Map<String, Tensor> tensors(Path file) throws IOException {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        int header = Math.toIntExact(bytes.getLong(0)), data = 8 + header;
        JsonNode described = JSON.readTree(new String(bytes.array(), 8, header, StandardCharsets.UTF_8));
        Map<String, Tensor> tensors = new HashMap<>();
        described.properties().forEach(entry -> {
            if (entry.getKey().equals("__metadata__")) return;
            int elements = 1;
            for (JsonNode size : entry.getValue().get("shape")) elements *= size.asInt();
            JsonNode range = entry.getValue().get("data_offsets");
            ByteBuffer part = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN);
            part.position(data + range.get(0).asInt()).limit(data + range.get(1).asInt());
            tensors.put(entry.getKey(), new Tensor(entry.getValue().get("dtype").asText(), elements, part));
        });
        return tensors;
    }
}
