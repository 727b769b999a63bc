package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.GateShape;

/** H <- H + g f(H) for the tokens that a depth's router lets pass: {@link Router.ExpertChoice}. */
final class ExpertPass extends Pass {
    private final Router.ExpertChoice router;
    private final Context context;
    private final Meter done;
    private final boolean weighted;
    /** Per token asked, of the routers and of the selectors. */
    private final long flops;
    private final long selectorFlops;
    private final int[] asked;
    private final int[] place;
    /** Null: token by token. */
    private final WholeSequenceChoice choosing;

    ExpertPass(Router.ExpertChoice router, Context context, Arena arena, Workspace space, Flight flight, int sequences,
            int depths, Meter done) {
        super(space, flight, depths);
        this.router = router;
        this.context = context;
        this.done = done;
        weighted = router.gating() == Router.Gating.WEIGHTED;
        flops = Cost.routerFlops(router.shape());
        selectorFlops = router.auxiliary() == null ? 0 : Cost.routerFlops(router.auxiliary().shape());
        asked = new int[space.capacity];
        place = new int[space.capacity];
        choosing = router.capacity() == null ? null
                : new WholeSequenceChoice(router.capacity(), context, arena, space, flight, sequences);
    }

    @Override
    void enter(int[] slot, int count) {
        for (int i = 0; i < count; i++) space.others.depth(i, 0);
        space.gather(slot, count, space.hidden, space.y);
        route(router.shape(), router.weights(), count, flops);
        space.gate.read(0, space.floats, 0, count);
        for (int i = 0; i < count; i++) flight.gate[slot[i]] = space.floats[i];
        if (choosing != null) choosing.enter(slot, count);
    }

    @Override
    void leave(int[] slot, int[] depth, int count) {
        for (int i = 0; i < count; i++) space.floats[i] = flight.gate[slot[i]];
        space.scatterAdd(slot, count, weighted, space.x);
        int candidates = 0;
        for (int i = 0; i < count; i++) {
            if (mayGoOn(slot[i], depth[i])) {
                space.others.depth(candidates, ++depth[i]);
                asked[candidates] = slot[i];
                place[candidates++] = i;
            } else {
                depth[i] = depths;
            }
        }
        if (candidates == 0) return;
        space.gather(asked, candidates, space.hidden, space.y);
        route(router.shape(), router.weights(), candidates, flops);
        space.gate.read(0, space.floats, 0, candidates);
        for (int i = 0; i < candidates; i++) flight.gate[asked[i]] = space.floats[i];
        if (choosing != null) {
            choosing.choose(asked, candidates, depth[place[0]]);
        } else {
            Router.Selector selector = router.auxiliary();
            if (selector != null) route(selector.shape(), selector.weights(), candidates, selectorFlops);
            space.choice.read(0, space.ints, 0, candidates);
        }
        for (int i = 0; i < candidates; i++) {
            if (space.ints[i] == 0) depth[place[i]] = depths;
        }
    }

    /** Asks the routers about the rows of y, whose depths stand in {@link Workspace#others}. */
    private void route(GateShape shape, Buffer weights, int count, long flopsEach) {
        context.gate(shape, count, space.others, space.y, weights, null, null, null, space.gate, space.choice);
        done.compute(count * flopsEach);
    }
}
