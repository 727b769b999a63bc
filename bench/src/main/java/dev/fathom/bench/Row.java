package dev.fathom.bench;

import java.util.Map;
import java.util.stream.Collectors;

import com.fasterxml.jackson.annotation.JsonInclude;

/**
 * One kernel in one case. Times are medians over the iterations.
 *
 * @param shape          the parameters but the number of workers
 * @param limit          what bounds this case on this machine: "memory", "f32", "bf16" or "i8"
 * @param ofLimit        the least time that the limits allow over the time taken
 * @param heapBytes      allocated on the Java heap by a call; it and what follows are null where they were not measured
 * @param plainJavaNs    the plain loop on one thread
 * @param timesPlainJava how many times as fast as the plain loop
 * @param emptyCallNs    what any call costs
 */
@JsonInclude(JsonInclude.Include.NON_NULL)
record Row(String kernel, Map<String, String> shape, int workers, double ns, double leastNs, double mostNs,
           double gbPerSecond, double gflopPerSecond, String limit, double ofLimit, Double heapBytes,
           Double plainJavaNs, Double timesPlainJava, Double emptyCallNs) {
    /** The shape as one phrase. */
    String phrase() {
        return shape.entrySet().stream().map(e -> e.getKey() + " " + e.getValue()).collect(Collectors.joining(", "));
    }
}
