package dev.fathom.depth;

/** Adds up {@link Work}. */
final class Meter {
    private long flops;
    private long weightBytes;
    private long kvReadBytes;
    private long kvWrittenBytes;

    void compute(long flops) {
        this.flops += flops;
    }

    void readWeights(long bytes) {
        weightBytes += bytes;
    }

    void readKv(long bytes) {
        kvReadBytes += bytes;
    }

    void writeKv(long bytes) {
        kvWrittenBytes += bytes;
    }

    /** Counts as another one does. */
    void set(Meter other) {
        flops = other.flops;
        weightBytes = other.weightBytes;
        kvReadBytes = other.kvReadBytes;
        kvWrittenBytes = other.kvWrittenBytes;
    }

    void reset() {
        flops = weightBytes = kvReadBytes = kvWrittenBytes = 0;
    }

    Work work() {
        return new Work(flops, weightBytes, kvReadBytes, kvWrittenBytes);
    }
}
