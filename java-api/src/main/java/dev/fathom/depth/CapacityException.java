package dev.fathom.depth;

/**
 * A request does not fit now: no sequence, no room in a sequence or no room for K and V is left. Nothing has changed.
 */
public final class CapacityException extends RuntimeException {
    private static final long serialVersionUID = 1;

    CapacityException(String message) {
        super(message);
    }
}
