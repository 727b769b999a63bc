package dev.fathom.bench;

import dev.fathom.DType;

/**
 * What one call must do, however it does it: nothing is counted twice that a cache could keep.
 *
 * @param type    of the operands of the arithmetic; sums are fp32
 * @param flops   multiplications and additions
 * @param read    bytes
 * @param written bytes
 */
record Work(DType type, double flops, double read, double written) {
    double bytes() {
        return read + written;
    }
}
