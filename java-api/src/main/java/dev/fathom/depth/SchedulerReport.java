package dev.fathom.depth;

/**
 * What a scheduler has done since it was made or its report was reset.
 *
 * @param work          tokens, depths, calls, work
 * @param generated     final tokens handed out
 * @param drafted       answers of exits that were to be verified
 * @param rejected      those that did not hold, each of which took back what followed it
 * @param steps         steps that did something
 * @param occupancy     places in use, on average over the steps
 * @param rowsPerStep   tokens taken in per step, on average
 * @param waiting       requests that wait for a place now
 * @param admitted      requests that got one
 * @param meanWaitNanos how long those waited, on average
 * @param mostWaitNanos and at most
 * @param meanStepNanos time of a step
 * @param mostStepNanos and at most
 */
public record SchedulerReport(DepthReport work, long generated, long drafted, long rejected, long steps,
                              double occupancy, double rowsPerStep, int waiting, long admitted, long meanWaitNanos,
                              long mostWaitNanos, long meanStepNanos, long mostStepNanos) {}
