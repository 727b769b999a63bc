package dev.fathom.examples;

import dev.fathom.examples.ModelConfig.Sharing;

/**
 * Which unrolled layers have the same weights: a shared block of {@code slots} layers goes through {@code recursions}
 * passes (depths), between the first and the last layer if those are not shared.
 *
 * @param layers all unrolled layers, ends included; less the ends a multiple of {@code recursions}
 */
record LayerTying(Sharing sharing, int layers, int recursions) {

    /** Distinct layers of the block. */
    int slots() {
        return (layers - sharing.ends()) / recursions;
    }

    /** The first unrolled layer of the block. */
    int first() {
        return sharing.ends() / 2;
    }

    /** The unrolled layer that has the weights of the slot in the pass. */
    int layer(int slot, int depth) {
        return first() + (sharing.isCycle() ? depth * slots() + slot : slot * recursions + depth);
    }
}
