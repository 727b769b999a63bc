package dev.fathom.depth;

import java.util.List;

/** The passes of a model in the order in which a token takes them: a leg is one pass through one stage. */
final class Legs {
    /** How many there are; also the number of the leg behind the last one. */
    final int count;
    private final int[] first;
    private final int[] stage;

    Legs(List<Stage> stages) {
        first = new int[stages.size() + 1];
        for (int s = 0; s < stages.size(); s++) first[s + 1] = first[s] + stages.get(s).shape().depths();
        count = first[stages.size()];
        stage = new int[count];
        for (int s = 0; s < stages.size(); s++) {
            for (int leg = first[s]; leg < first[s + 1]; leg++) stage[leg] = s;
        }
    }

    int stage(int leg) {
        return stage[leg];
    }

    int depth(int leg) {
        return leg - first[stage[leg]];
    }

    /** The first leg of a stage; of the number of stages: {@link #count}. */
    int first(int stage) {
        return first[stage];
    }
}
