package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;

/** H <- H + p f(f(..f(H))), as many times as the router says at the start: {@link Router.TokenChoice}. */
final class TokenPass extends Pass {
    private final Router.TokenChoice router;
    private final Context context;
    private final Meter done;
    private final boolean weighted;
    private final long flops;
    /** [tokens, depths]. */
    private final Buffer p;
    private final int[] which;
    private final int[] row;

    TokenPass(Router.TokenChoice router, Context context, Arena arena, Workspace space, Flight flight, int depths,
            Meter done) {
        super(space, flight, depths);
        p = context.allocateShared(arena, 4L * space.capacity * depths);
        this.router = router;
        this.context = context;
        this.done = done;
        flops = Cost.routerFlops(router.shape());
        weighted = router.gating() == Router.Gating.WEIGHTED;
        which = new int[space.capacity];
        row = new int[space.capacity];
    }

    @Override
    Buffer state() {
        return space.looped;
    }

    @Override
    void enter(int[] slot, int count) {
        for (int i = 0; i < count; i++) space.others.depth(i, 0);
        space.gather(slot, count, space.hidden, space.y);
        context.gate(router.shape(), count, space.others, space.y, router.weights(), router.bias(), null, p, space.gate,
                space.choice);
        done.compute(count * flops);
        space.choice.read(0, space.ints, 0, count);
        for (int i = 0; i < count; i++) {
            int choice = Math.min(space.ints[i], flight.cap[slot[i]] - 1); // as if the token had chosen its cap
            flight.choice[slot[i]] = choice;
            flight.gate[slot[i]] = p.getFloat((long) i * depths + choice);
        }
        space.scatter(slot, count, space.y, space.looped);
    }

    @Override
    void leave(int[] slot, int[] depth, int count) {
        int finished = select(slot, depth, count, false);
        if (finished > 0) {
            space.gather(row, finished, space.x, space.y);
            for (int i = 0; i < finished; i++) space.floats[i] = flight.gate[which[i]];
            space.scatterAdd(which, finished, weighted, space.y);
        }
        int going = select(slot, depth, count, true);
        if (going > 0) {
            space.gather(row, going, space.x, space.y);
            space.scatter(which, going, space.y, space.looped);
        }
        for (int i = 0; i < count; i++) depth[i] = goesOn(slot[i], depth[i]) ? depth[i] + 1 : depths;
    }

    private int select(int[] slot, int[] depth, int count, boolean going) {
        int n = 0;
        for (int i = 0; i < count; i++) {
            if (goesOn(slot[i], depth[i]) != going) continue;
            which[n] = slot[i];
            row[n++] = i;
        }
        return n;
    }

    private boolean goesOn(int slot, int depth) {
        return depth < flight.choice[slot];
    }
}
