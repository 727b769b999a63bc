package dev.fathom;

/** A kernel could not run for a reason other than its arguments. */
public final class KernelException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** Why. */
    public enum Status {
        /** Legal, but this build or machine cannot do it. */
        UNSUPPORTED,
        OUT_OF_MEMORY,
        /** A device failed. */
        DEVICE_ERROR
    }

    private final Status status;

    KernelException(Status status, String message) {
        super(message);
        this.status = status;
    }

    public Status status() {
        return status;
    }
}
