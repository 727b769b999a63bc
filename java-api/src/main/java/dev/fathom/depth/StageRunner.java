package dev.fathom.depth;

import java.lang.foreign.Arena;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.GateShape;
import dev.fathom.KvShape;

/**
 * Takes the tokens of a workspace through a stage, all tokens through one depth before any goes deeper. Only rows that
 * take a pass are in its call.
 */
final class StageRunner {
    final KvCache cache;

    private final Context context;
    private final Stage stage;
    private final BlockShape shape;
    private final Cost cost;
    private final Workspace space;
    private final Meter done;
    private final Meter full;
    private long calls;
    private long rows;

    StageRunner(Context context, Arena arena, Stage stage, Limits limits, Workspace space, Meter done, Meter full) {
        this.context = context;
        this.stage = stage;
        this.space = space;
        this.done = done;
        this.full = full;
        shape = stage.shape();
        cost = new Cost(shape);
        int lists = stage.kv().lists(shape.depths());
        KvShape pool = shape.kv(limits.entries(lists));
        cache = new KvCache(context, arena, pool, limits.sequences(), lists, limits.tokens());
    }

    long calls() {
        return calls;
    }

    long rows() {
        return rows;
    }

    void resetCounts() {
        calls = rows = 0;
    }

    /** Pages that {@code count} further tokens of the sequence take if all of them go to full depth. */
    long pagesFor(int sequence, int count) {
        long pages = 0;
        for (int list = 0; list < cache.lists(); list++) pages += cache.pagesFor(sequence, list, count);
        return pages;
    }

    /** The workspace's hidden rows, in place. */
    void run() {
        space.activateAll();
        switch (stage.router()) {
            case Router.Always always -> loop();
            case Router.ExpertChoice choice -> chooseTokens(choice);
            case Router.TokenChoice choice -> chooseDepths(choice);
        }
        countFullDepth();
    }

    private void loop() {
        for (int depth = 0; depth < shape.depths(); depth++) pass(depth, space.hidden);
    }

    private void chooseTokens(Router.ExpertChoice router) {
        boolean weighted = router.gating() == Router.Gating.WEIGHTED;
        for (int depth = 0; depth < shape.depths(); depth++) {
            for (int i = 0; i < space.active; i++) space.rows.depth(i, depth);
            space.gatherActive();
            route(router.shape(), router.weights(), null, space.x);
            if (depth > 0 && dropUnchosen()) {
                if (space.active == 0) return;
                space.gatherActive();
            }
            pass(depth, space.x);
            space.scatterAdd(space.token, space.active, weighted, space.x);
        }
    }

    /** Keeps the active tokens that the router lets pass, and their gates. Whether any was dropped. */
    private boolean dropUnchosen() {
        int candidates = space.active;
        space.readRouting(candidates);
        int kept = 0;
        for (int i = 0; i < candidates; i++) {
            if (space.choices[i] == 0) continue;
            space.token[kept] = space.token[i];
            space.gates[kept++] = space.gates[i];
        }
        space.active = kept;
        space.gate.write(0, space.gates, 0, kept);
        return kept < candidates;
    }

    private void chooseDepths(Router.TokenChoice router) {
        boolean weighted = router.gating() == Router.Gating.WEIGHTED;
        for (int i = 0; i < space.active; i++) space.rows.depth(i, 0);
        route(router.shape(), router.weights(), router.bias(), space.hidden);
        space.readRouting(space.active);
        space.gatherActive();
        for (int depth = 0; space.active > 0; depth++) {
            pass(depth, space.x);
            addFinished(depth, weighted);
            dropFinished(depth);
        }
    }

    /** Adds the rows of x whose tokens go no deeper to their hidden rows. */
    private void addFinished(int depth, boolean weighted) {
        int finished = 0;
        for (int i = 0; i < space.active; i++) {
            if (space.choices[space.token[i]] == depth) space.picked[finished++] = i;
        }
        if (finished == 0) return;
        space.gather(space.picked, finished, space.active, space.x, space.y);
        for (int i = 0; i < finished; i++) {
            space.picked[i] = space.token[space.picked[i]];
            space.gate.setFloat(i, space.gates[space.picked[i]]);
        }
        space.scatterAdd(space.picked, finished, weighted, space.y);
    }

    /** Compacts x to the tokens that go deeper. */
    private void dropFinished(int depth) {
        int candidates = space.active;
        int kept = 0;
        for (int i = 0; i < candidates; i++) {
            if (space.choices[space.token[i]] == depth) continue;
            space.picked[kept] = i;
            space.token[kept++] = space.token[i];
        }
        space.active = kept;
        if (kept == candidates || kept == 0) return;
        space.gather(space.picked, kept, candidates, space.x, space.y);
        space.swap();
    }

    private void route(GateShape router, Buffer weights, Buffer bias, Buffer x) {
        context.gate(router, space.active, space.rows, x, weights, bias, null, null, space.gate, space.choice);
        done.compute(space.active * Cost.routerFlops(router));
    }

    /** One block call on the active tokens, whose rows are in {@code hidden}. */
    private void pass(int depth, Buffer hidden) {
        boolean stores = stage.kv().stores(depth);
        for (int i = 0; i < space.active; i++) {
            int token = space.token[i];
            stage.kv().place(cache, space.rows, i, space.sequence[token], space.position[token], depth);
            space.passes[token] = Math.max(space.passes[token], depth + 1);
            cost.row(done, space.rows.visible(i), stores);
        }
        context.block(shape, space.active, space.rows, stage.weights(), cache.entries(), cache.shape().entries(),
                cache.pool(), hidden);
        done.readWeights(cost.weightBytes);
        calls++;
        rows += space.active;
    }

    private void countFullDepth() {
        for (int depth = 0; depth < shape.depths(); depth++) {
            boolean stores = stage.kv().stores(depth);
            for (int token = 0; token < space.count; token++) cost.row(full, space.position[token] + 1, stores);
            full.readWeights(cost.weightBytes);
        }
        switch (stage.router()) {
            case Router.Always always -> { }
            case Router.ExpertChoice choice ->
                full.compute((long) space.count * shape.depths() * Cost.routerFlops(choice.shape()));
            case Router.TokenChoice choice -> full.compute(space.count * Cost.routerFlops(choice.shape()));
        }
    }
}
