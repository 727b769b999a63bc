package dev.fathom.bench;

import java.util.Map;

import dev.fathom.DType;

/**
 * What one call must do, however it does it: nothing is counted twice that a cache could keep.
 *
 * @param flops   multiplications and additions by the type of their operands; sums are fp32
 * @param read    bytes
 * @param written bytes
 */
record Work(Map<DType, Double> flops, double read, double written) {
    Work(DType type, double flops, double read, double written) {
        this(Map.of(type, flops), read, written);
    }

    double bytes() {
        return read + written;
    }

    double allFlops() {
        return flops.values().stream().mapToDouble(Double::doubleValue).sum();
    }

    /** Of weights [out][in]. */
    static double weightBytes(DType type, double in, double out) {
        boolean scaled = type == DType.I8 || type == DType.F8_E4M3; // features
        return in * out / type.blockSize() * type.bytes() + (scaled ? out * 4 : 0);
    }

    /** Of one token's K, or V, in all heads. */
    static double kvBytes(DType type, Model model) {
        return model.kvWidth() * type.bytes() + (type == DType.I8 ? model.kvHeads * 4 : 0);
    }
}
