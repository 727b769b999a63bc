package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.List;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where a page is written: over a file, or through links to one, and over nothing else. */
class DepthPageTest {
    @TempDir
    Path directory;

    private static void write(Path file) {
        DepthPage.check(file);
        DepthPage.write(file, List.of(List.of(new DepthPage.Piece("a<b", 2, false))), 3, "facts");
    }

    private static void assertWritten(Path file) throws IOException {
        assertTrue(Files.isRegularFile(file, LinkOption.NOFOLLOW_LINKS), file.toString());
        assertTrue(Files.readString(file).contains("<span class=\"d2\">a&lt;b</span>"));
    }

    private void assertRefused(Path file, String reason) throws IOException {
        List<Path> before = list();
        String message = assertThrows(UserException.class, () -> DepthPage.check(file)).getMessage();
        assertTrue(message.startsWith(file + " ") && message.contains(reason), message);
        assertThrows(UserException.class, () -> DepthPage.write(file, List.of(), 1, ""));
        assertEquals(before, list());
    }

    private List<Path> list() throws IOException {
        try (var files = Files.list(directory)) {
            return files.sorted().toList();
        }
    }

    @Test
    void newFilesAreAsTheUserMakesThem() throws IOException {
        Path file = directory.resolve("map.html");
        write(file);
        assertWritten(file);
        Path usual = Files.writeString(directory.resolve("usual"), "");
        assertEquals(Files.getPosixFilePermissions(usual), Files.getPosixFilePermissions(file));
        assertEquals(List.of(file, usual), list());
    }

    @Test
    void replacedFilesKeepTheirPermissions() throws IOException {
        Path file = Files.writeString(directory.resolve("map.html"), "old");
        Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-rw----"));
        write(file);
        assertWritten(file);
        assertEquals("rw-rw----", PosixFilePermissions.toString(Files.getPosixFilePermissions(file)));
    }

    @Test
    void linksAreFollowed() throws IOException {
        Path folder = Files.createDirectory(directory.resolve("folder"));
        Path target = Files.writeString(folder.resolve("page"), "old");
        Path inner = Files.createSymbolicLink(folder.resolve("inner"), Path.of("page"));
        Path link = Files.createSymbolicLink(directory.resolve("link"), Path.of("folder/inner"));
        write(link);
        assertWritten(target);
        assertTrue(Files.isSymbolicLink(link) && Files.isSymbolicLink(inner));

        Path nowhere = Files.createSymbolicLink(directory.resolve("nowhere"), Path.of("folder/fresh"));
        write(nowhere);
        assertTrue(Files.isSymbolicLink(nowhere));
        assertWritten(folder.resolve("fresh"));
    }

    @Test
    void whatIsNotAFileStays() throws IOException, InterruptedException {
        Path folder = Files.createDirectory(directory.resolve("folder"));
        assertRefused(folder, "is there and not a regular file");
        assertRefused(Path.of("/"), "cannot be written");
        Path device = Path.of("/dev/null");
        assertRefused(device, "is there and not a regular file");
        assertFalse(Files.isRegularFile(device));
        Path link = Files.createSymbolicLink(directory.resolve("to-device"), device);
        assertRefused(link, "is there and not a regular file");
        Files.delete(link);
        Path fifo = directory.resolve("fifo");
        assertEquals(0, new ProcessBuilder("mkfifo", fifo.toString()).inheritIO().start().waitFor());
        assertRefused(fifo, "is there and not a regular file");
        assertFalse(Files.isRegularFile(fifo));
    }

    @Test
    void pathsThatLeadNowhereAreRefused() throws IOException {
        assertRefused(directory.resolve("no/such/folder.html"), "cannot be written");
        Path loop = Files.createSymbolicLink(directory.resolve("loop"), Path.of("loop"));
        assertRefused(loop, "cannot be written");
        assertRefused(Files.createSymbolicLink(directory.resolve("lost"), Path.of("none/page")), "cannot be written");
    }

    @Test
    void longNamesAreFineUpToTheLongest() throws IOException {
        Path longest = directory.resolve("x".repeat(255));
        write(longest);
        assertWritten(longest);
        Path longer = directory.resolve("x".repeat(256));
        assertTrue(assertThrows(UserException.class, () -> write(longer)).getMessage().contains("cannot be written: "));
        assertEquals(List.of(longest), list());
    }
}
