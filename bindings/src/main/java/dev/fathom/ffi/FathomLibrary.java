package dev.fathom.ffi;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Consumer;

/**
 * The native library of this process, and the restricted operations on native memory that the API above needs.
 *
 * <p>The file that the system property {@code fathom.library} names is used if the property is set. Otherwise the
 * library bundled with these classes is. It stays open until the process ends: it owns threads.
 */
public final class FathomLibrary {
    /** Names a library file to use instead of the bundled one. */
    public static final String PROPERTY = "fathom.library";

    private static final String RESOURCE = "native/linux-x86_64/libfathom.so";

    private static String origin;

    private FathomLibrary() {}

    /** Where the library came from: the file of the property, or the bundled resource. */
    public static String origin() {
        Fathom.fth_abi(); // loads it
        return origin;
    }

    /**
     * The memory at {@code pointer} as a segment of {@code bytes} bytes that lives as long as {@code arena}.
     *
     * @param cleanup runs when the arena closes, or null
     */
    public static MemorySegment attach(MemorySegment pointer, long bytes, Arena arena,
                                       Consumer<MemorySegment> cleanup) {
        return pointer.reinterpret(bytes, arena, cleanup);
    }

    /** Opens the library; called once, when {@link Fathom} is initialised. */
    static SymbolLookup lookup() {
        String file = System.getProperty(PROPERTY);
        origin = file == null ? "resource " + RESOURCE : Path.of(file).toAbsolutePath().toString();
        SymbolLookup library = file == null ? openBundled() : open(Path.of(file));
        checkAbi(library);
        return library;
    }

    private static SymbolLookup openBundled() {
        try (InputStream resource = FathomLibrary.class.getClassLoader().getResourceAsStream(RESOURCE)) {
            if (resource == null) throw failure("it is not on the class path");
            Path copy = Files.createTempFile("libfathom", ".so"); // for this user only
            try {
                try (OutputStream out = Files.newOutputStream(copy)) {
                    resource.transferTo(out);
                }
                return open(copy);
            } finally {
                Files.delete(copy); // what is mapped stays
            }
        } catch (IOException e) {
            throw failure("it could not be copied to the folder for temporary files: " + e);
        }
    }

    private static SymbolLookup open(Path file) {
        if (!Files.isRegularFile(file)) throw failure("there is no such file");
        try {
            return SymbolLookup.libraryLookup(file, Arena.global());
        } catch (IllegalArgumentException e) {
            throw failure(linkError(file));
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
            MemorySegment name = arena.allocateFrom(file.toString());
            MemorySegment ignored = (MemorySegment) dlopen.invokeExact(name, 1 /* RTLD_LAZY */);
            MemorySegment message = (MemorySegment) dlerror.invokeExact();
            return message.address() == 0 ? "could not be opened" : message.reinterpret(Long.MAX_VALUE).getString(0);
        } catch (Throwable e) {
            return "could not be opened";
        }
    }

    private static void checkAbi(SymbolLookup library) {
        MemorySegment symbol = library.find("fth_abi").orElseThrow(() -> failure("it has no function fth_abi"));
        FunctionDescriptor noArguments = FunctionDescriptor.of(ValueLayout.JAVA_INT);
        int abi;
        try {
            abi = (int) Linker.nativeLinker().downcallHandle(symbol, noArguments).invokeExact();
        } catch (Throwable e) {
            throw new AssertionError(e); // a plain downcall throws nothing
        }
        if (abi != Fathom.FTH_ABI()) {
            throw failure("it has ABI " + abi + ", these classes have ABI " + Fathom.FTH_ABI());
        }
    }

    private static UnsatisfiedLinkError failure(String reason) {
        String advice = System.getProperty(PROPERTY) != null
                ? "The property " + PROPERTY + " names this file; without it the bundled library is used."
                : "Fathom runs on Linux x86-64 with glibc. If files in the temporary folder may not be executed, set"
                        + " -Djava.io.tmpdir to another one, or -D" + PROPERTY + " to the path of libfathom.so.";
        return new UnsatisfiedLinkError("The Fathom library could not be loaded on " + System.getProperty("os.name") + " "
                + System.getProperty("os.arch") + " from " + origin + ": " + reason + ". " + advice);
    }
}
