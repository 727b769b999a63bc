package dev.fathom.depth;

/** The tokens of one call of a stage, those of a depth together, those of a sequence in order of their positions. */
final class Batch {
    final int[] slot;
    /** The leg that each takes. */
    final int[] leg;
    int count;

    private final int[] unsortedSlot;
    private final int[] unsortedLeg;

    Batch(int capacity) {
        slot = new int[capacity];
        leg = new int[capacity];
        unsortedSlot = new int[capacity];
        unsortedLeg = new int[capacity];
    }

    void clear() {
        count = 0;
    }

    void add(int slot, int leg) {
        this.slot[count] = slot;
        this.leg[count++] = leg;
    }

    /** Brings the tokens of a leg together, in order of the legs, and keeps the order of those. */
    void sortByLeg(int first, int end) {
        if (end - first == 1) return;
        System.arraycopy(slot, 0, unsortedSlot, 0, count);
        System.arraycopy(leg, 0, unsortedLeg, 0, count);
        int at = 0;
        for (int l = first; l < end; l++) {
            for (int i = 0; i < count; i++) {
                if (unsortedLeg[i] != l) continue;
                slot[at] = unsortedSlot[i];
                leg[at++] = l;
            }
        }
    }
}
