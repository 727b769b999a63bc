package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;

/** What a pass through a stage's block does to a token's state, and whether the token takes another one. */
abstract class Pass {
    final Workspace space;
    final Flight flight;
    /** Of the stage. */
    final int depths;

    Pass(Workspace space, Flight flight, int depths) {
        this.space = space;
        this.flight = flight;
        this.depths = depths;
    }

    static Pass of(Stage stage, Context context, Arena arena, Workspace space, Flight flight, int sequences,
            Meter done) {
        int depths = stage.shape().depths();
        return switch (stage.router()) {
            case Router.Always always -> new PlainPass(space, flight, depths);
            case Router.ExpertChoice choice -> new ExpertPass(choice, context, arena, space, flight, sequences,
                    depths, done);
            case Router.TokenChoice choice -> new TokenPass(choice, context, arena, space, flight, depths, done);
        };
    }

    /** Where the block's input of a token is. */
    Buffer state() {
        return space.hidden;
    }

    /** Tokens that are about to take depth 0. */
    void enter(int[] slot, int count) {}

    /**
     * Takes the block's outputs, {@link Workspace#x} in the order of the slots, into the states of their tokens, and
     * tells each token the depth that it takes next.
     *
     * @param depth what each token has just passed; becomes what it passes next, at least {@link #depths} if nothing
     */
    abstract void leave(int[] slot, int[] depth, int count);

    /** Whether the token may go on behind this depth. */
    final boolean mayGoOn(int slot, int depth) {
        return depth + 1 < Math.min(depths, flight.cap[slot]);
    }
}
