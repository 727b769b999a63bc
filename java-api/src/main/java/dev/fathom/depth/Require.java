package dev.fathom.depth;

/** Checks of arguments. Each failure is one sentence: the argument, what was expected, what came. */
final class Require {
    private Require() {}

    static void that(boolean holds, String sentence) {
        if (!holds) throw new IllegalArgumentException(sentence);
    }

    static int atLeast(String name, int value, int least) {
        if (value < least) throw new IllegalArgumentException(name + " must be at least " + least + ", got " + value);
        return value;
    }

    static void index(String name, int value, int end) {
        range(name, value, 0, end - 1);
    }

    static void range(String name, int value, int least, int most) {
        if (value < least || value > most) {
            throw new IllegalArgumentException(name + " must be in " + least + ".." + most + ", got " + value);
        }
    }

    static void equal(String name, long value, String otherName, long other) {
        if (value != other) {
            throw new IllegalArgumentException(name + " must equal " + otherName + " " + other + ", got " + value);
        }
    }

    static <T> T notNull(String name, T value) {
        if (value == null) throw new IllegalArgumentException(name + " must not be null");
        return value;
    }
}
