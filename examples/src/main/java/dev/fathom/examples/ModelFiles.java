package dev.fathom.examples;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** The files of a model: a directory, resources on the class path, or what a GGUF file says in their place. */
sealed interface ModelFiles permits ModelFiles.Directory, ModelFiles.Resources, GgufModel {
    /** Contents of a file, to be closed; null if there is none of that name. */
    Contents open(String name);

    /** How messages call a file. */
    String describe(String name);

    /** All of a file of at most {@code most} bytes; null if there is none of that name. */
    default byte[] read(String name, int most) {
        try (Contents contents = open(name)) {
            return contents == null ? null : contents.all(describe(name), most);
        }
    }

    /** Why {@code tokenizer.json} is not there, if it is not. */
    default String withoutTokenizer() {
        return "The model has no tokenizer.json";
    }

    /** A directory, or a GGUF file. */
    static ModelFiles of(Path path) {
        return Files.isRegularFile(path) ? GgufModel.read(path) : directory(path);
    }

    static ModelFiles directory(Path directory) {
        if (!Files.isDirectory(directory)) {
            throw new UserException(directory + " is not a directory with a model, nor a GGUF file.");
        }
        return new Directory(directory);
    }

    /** The model that comes with the program. */
    static ModelFiles bundled() {
        return new Resources("/models/shakespeare-mor");
    }

    record Directory(Path directory) implements ModelFiles {
        @Override
        public Contents open(String name) {
            Path file = directory.resolve(name);
            if (!Files.isRegularFile(file)) return null;
            try {
                return Contents.of(file);
            } catch (IOException e) {
                throw new UserException(file + " cannot be read: " + Main.reason(e) + ".");
            }
        }

        @Override
        public String describe(String name) {
            return directory.resolve(name).toString();
        }
    }

    record Resources(String folder) implements ModelFiles {
        @Override
        public Contents open(String name) {
            try (InputStream resource = ModelFiles.class.getResourceAsStream(folder + "/" + name)) {
                return resource == null ? null : Contents.of(resource.readAllBytes());
            } catch (IOException e) {
                throw new UserException(describe(name) + " cannot be read: " + Main.reason(e) + ".");
            }
        }

        @Override
        public String describe(String name) {
            return "The bundled " + name;
        }
    }
}
