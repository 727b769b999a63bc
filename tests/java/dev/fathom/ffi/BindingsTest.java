package dev.fathom.ffi;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import dev.fathom.Activation;
import dev.fathom.BiasKind;
import dev.fathom.DType;
import dev.fathom.GateFunction;
import dev.fathom.GatePart;
import dev.fathom.Isa;
import dev.fathom.Kind;
import dev.fathom.NormKind;
import dev.fathom.NormPlacement;
import dev.fathom.Part;
import dev.fathom.Residual;
import dev.fathom.RopeStyle;
import dev.fathom.RouterKind;
import java.io.IOException;
import java.lang.foreign.GroupLayout;
import java.lang.foreign.MemoryLayout.PathElement;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** The committed bindings say what the header says. If a test fails here, run bindings/generate.sh. */
class BindingsTest {
    private static final Path ROOT = Path.of(System.getProperty("fathom.root"));
    private static final Path BINDINGS = ROOT.resolve("bindings/src/main/java/dev/fathom/ffi");

    private static final Pattern FUNCTION = Pattern.compile("(?m)^[a-z][\\w ]*[ *]+(fth_\\w+)\\([^;{}]*\\)");
    private static final Pattern STRUCT = Pattern.compile("struct (fth_\\w+) \\{(.*?)\\}", Pattern.DOTALL);
    private static final Pattern CONSTANT = Pattern.compile("(FTH_\\w+) = (-?\\d+)");

    /** The header without comments. */
    private static String header() throws IOException {
        String text = Files.readString(ROOT.resolve("native/include/fathom/fathom.h"));
        return Pattern.compile("/\\*.*?\\*/", Pattern.DOTALL).matcher(text).replaceAll("").replace("FTH_API ", "");
    }

    /** The C declarations that jextract keeps in the documentation of a class, without the comment's asterisks. */
    private static String snippets(String type) throws IOException {
        return Files.readString(BINDINGS.resolve(type + ".java")).replaceAll("(?m)^ +\\* ", "");
    }

    private static Map<String, String> find(Pattern pattern, String text) {
        Map<String, String> found = new TreeMap<>();
        for (MatchResult match : (Iterable<MatchResult>) pattern.matcher(text).results()::iterator) {
            String declaration = match.group().replaceAll("\\s+", " ").replaceAll(" ?\\* ?", "*").trim();
            found.put(match.group(1), declaration);
        }
        assertFalse(found.isEmpty());
        return found;
    }

    @Test
    void functionsAreThoseOfTheHeader() throws IOException {
        assertEquals(find(FUNCTION, header()), find(FUNCTION, snippets("Fathom")));
    }

    @Test
    void structsAreThoseOfTheHeader() throws IOException {
        for (Map.Entry<String, String> struct : find(STRUCT, header()).entrySet()) {
            assertEquals(struct.getValue(), find(STRUCT, snippets(struct.getKey())).get(struct.getKey()));
        }
    }

    @Test
    void constantsAreThoseOfTheHeader() throws Exception {
        Map<String, String> constants = find(CONSTANT, header());
        assertEquals(constants.keySet(), find(CONSTANT, snippets("Fathom")).keySet());
        for (Map.Entry<String, String> constant : constants.entrySet()) {
            assertEquals(constant.getValue(), constant.getKey() + " = " + constant(constant.getKey()));
        }
    }

    @Test
    void everyFunctionIsInTheLibrary() throws Exception {
        for (String name : find(FUNCTION, header()).keySet()) {
            MemorySegment address = (MemorySegment) Fathom.class.getMethod(name + "$address").invoke(null);
            assertFalse(address.equals(MemorySegment.NULL), name);
        }
    }

    /** layout.inc is asserted by the C compiler in abi_test.c. */
    @Test
    void layoutsAreThoseOfTheCompiler() throws Exception {
        TreeSet<String> structs = new TreeSet<>();
        for (String line : Files.readAllLines(ROOT.resolve("tests/native/layout.inc"))) {
            String[] words = line.split("[(), ]+");
            if (words[0].equals("STRUCT")) {
                structs.add(words[1]);
                assertEquals(Long.parseLong(words[2]), layout(words[1]).byteSize(), line);
            } else if (words[0].equals("FIELD")) {
                long offset = layout(words[1]).byteOffset(PathElement.groupElement(words[2]));
                assertEquals(Long.parseLong(words[3]), offset, line);
            }
        }
        assertEquals(find(STRUCT, header()).keySet(), structs);
    }

    @Test
    void enumsHaveTheCodesOfTheHeader() throws Exception {
        same(DType.values(), "");
        same(Activation.values(), "");
        same(Residual.values(), "RESIDUAL_");
        same(RopeStyle.values(), "ROPE_");
        same(Isa.values(), "ISA_");
        same(BiasKind.values(), "BIAS_");
        same(RouterKind.values(), "ROUTER_");
        same(GateFunction.values(), "GATE_");
        same(GatePart.values(), "GATE_");
        same(Part.values(), "");
        same(Kind.values(), "");
        for (NormKind kind : NormKind.values()) assertEquals(constant("FTH_" + kind + "_NORM"), kind.ordinal());
        for (NormPlacement place : NormPlacement.values()) {
            assertEquals(constant("FTH_NORM_" + place), 1 << place.ordinal());
        }
    }

    private static void same(Enum<?>[] values, String prefix) throws Exception {
        for (Enum<?> value : values) {
            assertEquals(constant("FTH_" + prefix + value.name()), value.ordinal(), value.getClass() + " " + value);
        }
    }

    private static int constant(String name) throws Exception {
        return (int) Fathom.class.getMethod(name).invoke(null);
    }

    private static GroupLayout layout(String struct) throws Exception {
        return (GroupLayout) Class.forName("dev.fathom.ffi." + struct).getMethod("layout").invoke(null);
    }
}
