package dev.fathom;

import dev.fathom.ffi.fth_recursion_shape;

/**
 * Passes through one block, as many for each row as its routers say. The first takes every row; before each later one
 * the row's router of that depth looks at its state, and the row goes on if the choice is {@code going}.
 */
public final class RecursionShape extends Shape {
    /**
     * @param depths passes at most
     * @param going  the choice with which a row takes another pass: 1 for a router with {@code z >= threshold}, 0 for a
     *               head that says whether to exit
     */
    public RecursionShape(int depths, StateUpdate update, int going) {
        Check.atLeast("depths", depths, 1);
        Check.notNull("update", update);
        Check.atLeast("going", going, 0);
        super(fth_recursion_shape.layout());
        fth_recursion_shape.depths(struct, depths);
        fth_recursion_shape.update(struct, update.ordinal());
        fth_recursion_shape.going(struct, going);
    }

    public int depths() {
        return fth_recursion_shape.depths(struct);
    }

    public StateUpdate update() {
        return StateUpdate.values()[fth_recursion_shape.update(struct)];
    }

    public int going() {
        return fth_recursion_shape.going(struct);
    }
}
