package dev.fathom.depth;

/** H <- f(H), at every depth. */
final class PlainPass extends Pass {
    PlainPass(Workspace space, Flight flight, int depths) {
        super(space, flight, depths);
    }

    @Override
    void leave(int[] slot, int[] depth, int count) {
        space.scatter(slot, count, space.x, space.hidden);
        for (int i = 0; i < count; i++) depth[i] = mayGoOn(slot[i], depth[i]) ? depth[i] + 1 : depths;
    }
}
