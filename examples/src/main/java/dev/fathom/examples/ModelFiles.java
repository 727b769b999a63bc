package dev.fathom.examples;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;

/** The files of a model: a directory, or resources on the class path. */
sealed interface ModelFiles {
    /** Contents of a file that lives as long as {@code arena}; null if there is none of that name. */
    MemorySegment open(String name, Arena arena);

    /** How messages call a file. */
    String describe(String name);

    static ModelFiles directory(Path directory) {
        if (!Files.isDirectory(directory)) throw new UserException(directory + " is not a directory with a model.");
        return new Directory(directory);
    }

    /** The model that comes with the program. */
    static ModelFiles bundled() {
        return new Resources("/models/shakespeare-mor");
    }

    record Directory(Path directory) implements ModelFiles {
        @Override
        public MemorySegment open(String name, Arena arena) {
            Path file = directory.resolve(name);
            if (!Files.isRegularFile(file)) return null;
            try (FileChannel channel = FileChannel.open(file)) {
                return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
            } catch (IOException e) {
                throw new UserException(file + " cannot be read: " + e.getMessage() + ".");
            }
        }

        @Override
        public String describe(String name) {
            return directory.resolve(name).toString();
        }
    }

    record Resources(String folder) implements ModelFiles {
        @Override
        public MemorySegment open(String name, Arena arena) {
            try (InputStream resource = ModelFiles.class.getResourceAsStream(folder + "/" + name)) {
                if (resource == null) return null;
                byte[] bytes = resource.readAllBytes();
                return arena.allocate(bytes.length, 64).copyFrom(MemorySegment.ofArray(bytes));
            } catch (IOException e) {
                throw new UserException("The bundled " + name + " cannot be read: " + e.getMessage() + ".");
            }
        }

        @Override
        public String describe(String name) {
            return "The bundled " + name;
        }
    }
}
