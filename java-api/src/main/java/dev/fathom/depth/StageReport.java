package dev.fathom.depth;

/**
 * What one stage has done.
 *
 * @param calls       block calls
 * @param rows        rows of those calls
 * @param kvLiveBytes K and V that the sequences hold now
 * @param kvHeldBytes pages that they occupy now
 * @param kvPoolBytes size of the pool
 */
public record StageReport(long calls, long rows, long kvLiveBytes, long kvHeldBytes, long kvPoolBytes) {
    /** Rows of a block call, on average; 0 without calls. */
    public double rowsPerCall() {
        return calls == 0 ? 0 : (double) rows / calls;
    }
}
