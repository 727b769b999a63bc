package dev.fathom.depth;

import java.util.List;

/**
 * What a session has done since it was made or its report was reset.
 *
 * @param steps         runs
 * @param tokens        tokens taken in
 * @param depths        how many of them took 1, 2, ... passes (the most they took in any stage)
 * @param calls         block calls
 * @param rows          rows of those calls
 * @param done          work done
 * @param fullDepth     work of the same steps, had every token taken every depth
 * @param kvLiveBytes   K and V that the sequences hold now
 * @param kvHeldBytes   pages that they occupy now
 * @param kvPoolBytes   size of all pools
 */
public record DepthReport(long steps, long tokens, List<Long> depths, long calls, long rows, Work done, Work fullDepth,
                          long kvLiveBytes, long kvHeldBytes, long kvPoolBytes) {
    public DepthReport {
        depths = List.copyOf(depths);
    }

    /** Passes of a token, on average; 0 without tokens. */
    public double meanDepth() {
        long passes = 0;
        for (int i = 0; i < depths.size(); i++) passes += (i + 1) * depths.get(i);
        return tokens == 0 ? 0 : (double) passes / tokens;
    }

    /** Rows of a block call, on average; 0 without calls. */
    public double rowsPerCall() {
        return calls == 0 ? 0 : (double) rows / calls;
    }
}
