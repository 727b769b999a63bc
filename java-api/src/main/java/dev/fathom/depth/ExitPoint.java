package dev.fathom.depth;

/** A place where a token may leave the model: behind the pass {@code depth} through a stage, both counted from 0. */
public record ExitPoint(int stage, int depth) {
    public ExitPoint {
        Require.atLeast("stage", stage, 0);
        Require.atLeast("depth", depth, 0);
    }
}
