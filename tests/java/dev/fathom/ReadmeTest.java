package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the README shows is Java that compiles against the API as it is. */
class ReadmeTest {
    private static final Pattern BLOCK = Pattern.compile("(?ms)^```java$(.*?)^```$");

    /** Names that the examples use and a program around them would have. */
    private static final String PROGRAM =
            """
            import dev.fathom.*;
            import dev.fathom.depth.*;
            import java.lang.foreign.MemorySegment;

            class Readme {
                Context ctx;
                DepthModel model;
                Limits limits;
                Generation.Receiver receiver;
                MemorySegment weights;
                float[] activations;
                int[] prompt, promptOfA, promptOfB;
                int endOfText;

                void example() throws Exception {
            %s
                }
            }
            """;

    @Test
    void everyExampleCompiles(@TempDir Path classes) throws IOException {
        String readme = Files.readString(Path.of(System.getProperty("fathom.root"), "README.md"));
        List<String> examples = BLOCK.matcher(readme).results().map((MatchResult r) -> r.group(1)).toList();
        assertTrue(examples.size() >= 3, "examples found: " + examples.size());
        for (String example : examples) {
            var problems = new DiagnosticCollector<JavaFileObject>();
            ToolProvider.getSystemJavaCompiler()
                    .getTask(null, null, problems, List.of("-d", classes.toString()), null, List.of(source(example)))
                    .call();
            assertEquals(List.of(), problems.getDiagnostics(), example);
        }
    }

    private static JavaFileObject source(String example) {
        return new SimpleJavaFileObject(URI.create("string:///Readme.java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return PROGRAM.formatted(example);
            }
        };
    }
}
