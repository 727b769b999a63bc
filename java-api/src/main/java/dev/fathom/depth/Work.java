package dev.fathom.depth;

/**
 * Arithmetic and memory traffic, counted from shapes: what must be done and moved whatever the machine. Weights count
 * once per call that uses them, K and V once per row that sees them.
 *
 * @param flops          of linears, LoRA, attention, routers and head; a multiply-add is 2
 * @param weightBytes    weights read
 * @param kvReadBytes    K and V read by attention
 * @param kvWrittenBytes K and V stored, which is by how much the caches grew
 */
public record Work(long flops, long weightBytes, long kvReadBytes, long kvWrittenBytes) {}
