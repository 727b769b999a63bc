package dev.fathom.bench.depth;

import java.util.Map;

/**
 * What was measured of a {@link Subject}.
 *
 * @param nats        negative log-likelihood per byte of held-out text, every byte free to exit; 0: not measured
 * @param agreement   share of bytes whose most likely successor is that of the same model at full depth
 * @param depth       passes per byte: the most of any stage
 * @param layers      layers executed for a byte's answer, on average
 * @param fullLayers  the same at full depth
 * @param flops       arithmetic done over that of full depth, waiting and drafted tokens included
 * @param kvBytes     K and V held per byte of text
 * @param speed       tokens per second by batch size: median, least, most of the rounds
 */
record Point(String system, String model, String setting, double nats, double agreement, double depth, double layers,
             int fullLayers, double flops, double kvBytes, Map<Integer, Speed> speed) {
    record Speed(double median, double least, double most, double rowsPerCall) {}
}
