package dev.fathom.ffi;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/**
 * The native library of this process, and the restricted operations on native memory that the API above needs.
 *
 * <p>The file that the system property {@code fathom.library} names is used if the property is set. Otherwise the library
 * bundled with these classes is. It stays open until the process ends: it owns threads.
 */
public final class FathomLibrary {
    /** Names a library file to use instead of the bundled one. */
    public static final String PROPERTY = "fathom.library";

    private static final String RESOURCE = "native/linux-x86_64/libfathom.so";

    private static Path origin;

    private FathomLibrary() {}

    /** What the library was loaded from: the file of the property, or the bundled resource. */
    public static String origin() {
        Fathom.fth_abi(); // loads it
        return origin == null ? "bundled " + RESOURCE : origin.toString();
    }

    /**
     * The memory at {@code pointer} as a segment of {@code bytes} bytes that lives as long as {@code arena}.
     *
     * @param cleanup runs when the arena closes, or null
     */
    public static MemorySegment attach(MemorySegment pointer, long bytes, Arena arena, Consumer<MemorySegment> cleanup) {
        return pointer.reinterpret(bytes, arena, cleanup);
    }

    /** Opens the library; called once, when {@link Fathom} is initialised. */
    static SymbolLookup lookup() {
        List<String> attempts = new ArrayList<>();
        SymbolLookup library = null;
        String file = System.getProperty(PROPERTY);
        if (file != null) {
            origin = Path.of(file).toAbsolutePath();
            library = open(origin, "-D" + PROPERTY + "=" + file, attempts);
        } else {
            library = openBundled(attempts);
        }
        if (library == null) throw new UnsatisfiedLinkError(explain(attempts));
        checkAbi(library);
        return library;
    }

    private static SymbolLookup openBundled(List<String> attempts) {
        try (InputStream resource = FathomLibrary.class.getClassLoader().getResourceAsStream(RESOURCE)) {
            if (resource == null) {
                attempts.add("resource " + RESOURCE + ": not on the class path");
                return null;
            }
            // Readable by this user only; gone as soon as it is mapped.
            Path copy = Files.createTempFile("libfathom", ".so");
            try {
                Files.copy(resource, copy, StandardCopyOption.REPLACE_EXISTING);
                return open(copy, "resource " + RESOURCE + " copied to " + copy, attempts);
            } finally {
                Files.deleteIfExists(copy);
            }
        } catch (IOException e) {
            attempts.add("resource " + RESOURCE + ": could not be copied to " + System.getProperty("java.io.tmpdir") + ": " + e);
            return null;
        }
    }

    private static SymbolLookup open(Path file, String description, List<String> attempts) {
        if (!Files.isRegularFile(file)) {
            attempts.add(description + ": no such file");
            return null;
        }
        try {
            return SymbolLookup.libraryLookup(file, Arena.global());
        } catch (IllegalArgumentException e) {
            attempts.add(description + ": " + linkError(file));
            return null;
        }
    }

    /** What the dynamic linker says about a file that would not open; Java keeps it to itself. */
    private static String linkError(Path file) {
        Linker linker = Linker.nativeLinker();
        SymbolLookup libc = linker.defaultLookup();
        try (Arena arena = Arena.ofConfined()) {
            MethodHandle dlopen = linker.downcallHandle(libc.findOrThrow("dlopen"),
                    FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.JAVA_INT));
            MethodHandle dlerror = linker.downcallHandle(libc.findOrThrow("dlerror"),
                    FunctionDescriptor.of(ValueLayout.ADDRESS));
            MemorySegment ignored = (MemorySegment) dlopen.invokeExact(arena.allocateFrom(file.toString()), 1 /* RTLD_LAZY */);
            MemorySegment message = (MemorySegment) dlerror.invokeExact();
            return message.address() == 0 ? "could not be opened" : message.reinterpret(Long.MAX_VALUE).getString(0);
        } catch (Throwable e) {
            return "could not be opened";
        }
    }

    private static String explain(List<String> attempts) {
        String advice = System.getProperty(PROPERTY) != null
                ? "Correct or remove the property " + PROPERTY + "."
                : "Fathom runs on Linux x86-64 with glibc. If the folder for temporary files forbids execution, set"
                        + " -Djava.io.tmpdir to another one, or -D" + PROPERTY + " to the path of libfathom.so.";
        return "The Fathom library could not be loaded on " + System.getProperty("os.name") + " "
                + System.getProperty("os.arch") + ". Tried: " + String.join("; ", attempts) + ". " + advice;
    }

    private static void checkAbi(SymbolLookup library) {
        MemorySegment symbol = library.find("fth_abi").orElseThrow(
                () -> new UnsatisfiedLinkError(name() + " is not a Fathom library: it has no function fth_abi."));
        int abi;
        try {
            abi = (int) Linker.nativeLinker().downcallHandle(symbol, FunctionDescriptor.of(ValueLayout.JAVA_INT)).invokeExact();
        } catch (Throwable e) {
            throw new AssertionError(e); // a plain downcall throws nothing
        }
        if (abi != Fathom.FTH_ABI()) {
            throw new UnsatisfiedLinkError(name() + " has ABI " + abi + ", these classes need ABI " + Fathom.FTH_ABI()
                    + ": use library and classes of one version.");
        }
    }

    private static String name() {
        return origin == null ? "The bundled " + RESOURCE : origin.toString();
    }
}
