package dev.fathom.examples;

/** Something the user gave cannot be used. The message is one sentence that says what and why. */
final class UserException extends RuntimeException {
    private static final long serialVersionUID = 1;

    UserException(String sentence) {
        super(sentence, null, false, false);
    }
}
