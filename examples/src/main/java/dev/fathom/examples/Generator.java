package dev.fathom.examples;

import java.util.Arrays;
import java.util.List;

import dev.fathom.depth.DepthReport;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Sampler;
import dev.fathom.depth.Step;

/** Continues several texts at once, a token of each per step. */
final class Generator implements AutoCloseable {
    /** Told of every token that has been taken in, with the passes it took. The tokens of a text come in order. */
    interface Listener {
        void token(int text, int id, int depth);
    }

    private final LanguageModel model;
    private final ExitPolicy policy;
    private final DepthSession session;
    private final int context;
    /** Null: always the most likely token. */
    private final Sampler[] samplers;
    private final float[] logits;
    /** Prompts and what follows them; text i is sequence i of the session. */
    private final int[][] texts;
    private final int[] known;
    private final int[] taken;

    /**
     * {@code samplers} one per prompt, or null for the most likely token always. {@code tokens}: at most so many each.
     */
    Generator(LanguageModel model, ExitPolicy policy, List<int[]> prompts, int tokens, Sampler[] samplers) {
        this.model = model;
        this.policy = policy;
        this.samplers = samplers;
        logits = new float[model.config().vocabSize()];
        known = prompts.stream().mapToInt(ids -> ids.length).toArray();
        taken = new int[known.length];
        texts = prompts.stream().map(ids -> Arrays.copyOf(ids, ids.length + tokens)).toArray(int[][]::new);
        int longest = Arrays.stream(known).max().orElseThrow() + tokens;
        context = Math.min(model.config().contextLength(), longest);
        session = model.session(policy, new Limits(known.length, context));
        for (int ignored : known) session.open();
    }

    /** Takes in the prompts. */
    Step begin(Listener listener) {
        return takeIn(session.step().withLogits(samplers != null), listener);
    }

    /** Draws a token for every text from what the last step told, and takes those in: that tells their depth. */
    Step next(Step step, Listener listener) {
        for (int text = 0; text < texts.length; text++) texts[text][known[text]++] = draw(step, text);
        for (int text = 0; text < texts.length; text++) makeRoom(text);
        return takeIn(step.clear(), listener);
    }

    private Step takeIn(Step step, Listener listener) {
        for (int text = 0; text < texts.length; text++) {
            step.add(text, Arrays.copyOfRange(texts[text], taken[text], known[text]));
        }
        session.run(step);
        for (int token = 0; token < step.tokens(); token++) {
            int text = step.sequence(token);
            listener.token(text, texts[text][taken[text]++], model.depth(policy, step, token));
        }
        return step;
    }

    private int draw(Step step, int text) {
        if (samplers == null) return step.argmax(text);
        step.logits(text, logits);
        return samplers[text].draw(logits);
    }

    /** A full context forgets its first half: the second half is read again, as a text of its own. */
    private void makeRoom(int text) {
        if (session.length(text) < context) return;
        session.truncate(text, 0);
        int kept = context / 2;
        if (kept > 0) {
            session.run(session.step().add(text, Arrays.copyOfRange(texts[text], taken[text] - kept, taken[text])));
        }
    }

    DepthReport report() {
        return session.report();
    }

    @Override
    public void close() {
        session.close();
    }
}
