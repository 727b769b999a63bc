package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/** A directory in the making, under another name beside its own: it appears complete or not at all. */
final class DraftDirectory implements AutoCloseable {
    private final Path target;
    private final Path draft;
    /** An interrupted program leaves nothing behind either. */
    private final Thread cleaner = new Thread(this::delete);

    /** Refuses a target that exists, and a place where nothing can be made. */
    DraftDirectory(Path target) throws IOException {
        this.target = target.toAbsolutePath().normalize();
        if (Files.exists(this.target, LinkOption.NOFOLLOW_LINKS)) {
            throw new UserException(target + " exists already: name a directory that does not.");
        }
        Path parent = this.target.getParent();
        if (!Files.isDirectory(parent)) throw new UserException(parent + " is not a directory.");
        draft = parent.resolve("." + this.target.getFileName() + "." + Long.toHexString(System.nanoTime()) + ".tmp");
        Files.createDirectory(draft);
        Runtime.getRuntime().addShutdownHook(cleaner);
    }

    Path path() {
        return draft;
    }

    /** Gives the directory its own name. */
    void publish() throws IOException {
        Files.move(draft, target, StandardCopyOption.ATOMIC_MOVE);
    }

    @Override
    public void close() {
        try {
            Runtime.getRuntime().removeShutdownHook(cleaner);
        } catch (IllegalStateException e) {
            return; // the program is ending and the cleaner at work
        }
        delete();
    }

    private void delete() {
        if (!Files.exists(draft)) return;
        try (Stream<Path> files = Files.walk(draft)) {
            List<Path> deepestFirst = files.sorted(Comparator.reverseOrder()).toList();
            for (Path file : deepestFirst) Files.deleteIfExists(file);
        } catch (IOException e) {
            Main.say("warning: " + draft + " cannot be removed: " + Main.reason(e) + ".");
        }
    }
}
