package dev.fathom.depth;

import java.util.List;

/**
 * What was done since a session or scheduler was made or its report was reset.
 *
 * @param steps     runs
 * @param tokens    tokens taken in
 * @param depths    how many of them took 1, 2, ... passes for their answer (the most they took in any stage)
 * @param answers   how many were answered behind leg 0, 1, ...: the passes of all stages in order. The last leg stands
 *                  for the end of the model, whatever was skipped on the way
 * @param stages    calls and K,V of each stage
 * @param done      work done
 * @param fullDepth work of the same steps, had every token taken every depth
 */
public record DepthReport(long steps, long tokens, List<Long> depths, List<Long> answers, List<StageReport> stages,
                          Work done, Work fullDepth) {
    public DepthReport {
        depths = List.copyOf(depths);
        answers = List.copyOf(answers);
        stages = List.copyOf(stages);
    }

    /** Passes of a token that has been answered, on average; 0 without any. */
    public double meanDepth() {
        long passes = 0;
        long answered = 0;
        for (int i = 0; i < depths.size(); i++) {
            passes += (i + 1) * depths.get(i);
            answered += depths.get(i);
        }
        return answered == 0 ? 0 : (double) passes / answered;
    }

    /** Block calls. */
    public long calls() {
        return stages.stream().mapToLong(StageReport::calls).sum();
    }

    /** Rows of those calls. */
    public long rows() {
        return stages.stream().mapToLong(StageReport::rows).sum();
    }

    /** Rows of a block call, on average; 0 without calls. */
    public double rowsPerCall() {
        return calls() == 0 ? 0 : (double) rows() / calls();
    }

    /** K and V that the sequences hold now. */
    public long kvLiveBytes() {
        return stages.stream().mapToLong(StageReport::kvLiveBytes).sum();
    }

    /** Pages that they occupy now. */
    public long kvHeldBytes() {
        return stages.stream().mapToLong(StageReport::kvHeldBytes).sum();
    }

    /** Size of all pools. */
    public long kvPoolBytes() {
        return stages.stream().mapToLong(StageReport::kvPoolBytes).sum();
    }
}
