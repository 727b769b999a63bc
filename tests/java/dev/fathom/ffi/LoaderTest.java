package dev.fathom.ffi;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where the library comes from, and what is said when it does not. Each load is by a class loader of its own. */
class LoaderTest {
    private static final Path NATIVE = Path.of(System.getProperty("fathom.root"), "build/native");

    @TempDir
    Path folder;

    @AfterEach
    void forget() {
        System.clearProperty(FathomLibrary.PROPERTY);
    }

    /** The origin that freshly loaded bindings report. */
    private static String load(boolean bundled) throws Exception {
        URL[] bindings = {FathomLibrary.class.getProtectionDomain().getCodeSource().getLocation()};
        try (URLClassLoader loader = new URLClassLoader(bindings, ClassLoader.getPlatformClassLoader()) {
            @Override
            public InputStream getResourceAsStream(String name) {
                return bundled ? super.getResourceAsStream(name) : null;
            }
        }) {
            return (String) loader.loadClass(FathomLibrary.class.getName()).getMethod("origin").invoke(null);
        } catch (InvocationTargetException e) {
            throw assertInstanceOf(UnsatisfiedLinkError.class, e.getCause());
        }
    }

    private static void refused(boolean bundled, String... words) {
        String message = assertThrows(UnsatisfiedLinkError.class, () -> load(bundled)).getMessage();
        for (String word : words) assertTrue(message.contains(word), () -> word + " in: " + message);
        assertTrue(message.contains(System.getProperty("os.arch")), message);
    }

    @Test
    void bundledLibraryLeavesNoFile() throws Exception {
        List<Path> before = copies();
        assertEquals("resource native/linux-x86_64/libfathom.so", load(true));
        assertEquals(before, copies());
    }

    private static List<Path> copies() {
        try (Stream<Path> files = Files.list(Path.of(System.getProperty("java.io.tmpdir")))) {
            return files.filter(file -> file.getFileName().toString().startsWith("libfathom")).sorted().toList();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Test
    void propertyNamesAnotherLibrary() throws Exception {
        Path library = NATIVE.resolve("libfathom.so");
        System.setProperty(FathomLibrary.PROPERTY, library.toString());
        assertEquals(library.toAbsolutePath().toString(), load(false));
    }

    @Test
    void noLibraryOnTheClassPath() {
        refused(false, "native/linux-x86_64/libfathom.so", "not on the class path", "-Dfathom.library");
    }

    @Test
    void noSuchFile() {
        Path missing = folder.resolve("missing.so");
        System.setProperty(FathomLibrary.PROPERTY, missing.toString());
        refused(true, missing.toString(), "no such file", "fathom.library");
    }

    @Test
    void fileIsNotALibrary() throws Exception {
        Path text = Files.writeString(folder.resolve("text.so"), "not an object file");
        System.setProperty(FathomLibrary.PROPERTY, text.toString());
        refused(true, text.toString(), "file too short");
    }

    @Test
    void libraryIsAnother() {
        Path other = Path.of(System.getProperty("java.home"), "lib/libjava.so");
        System.setProperty(FathomLibrary.PROPERTY, other.toString());
        refused(true, "libjava.so", "it has no function fth_abi");
    }

    @Test
    void libraryIsOfAnotherVersion() {
        System.setProperty(FathomLibrary.PROPERTY, NATIVE.resolve("tests/native/libwrong_abi.so").toString());
        refused(true, "libwrong_abi.so", "it has ABI -1", "these classes have ABI " + Fathom.FTH_ABI());
    }
}
