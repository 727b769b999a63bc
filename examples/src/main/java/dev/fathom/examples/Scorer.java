package dev.fathom.examples;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.LongConsumer;

import dev.fathom.depth.DepthSession;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Step;

/**
 * Negative log-likelihoods of texts of any length. A text longer than the context is read in windows that begin
 * {@code stride} tokens apart. Every token is scored once, in the first window that reaches it: with at least
 * {@code context - stride} tokens before it, where the text has them.
 */
final class Scorer {
    /** Tokens of the windows that run together: enough rows for every weight to be used many times. */
    private static final int BATCH_TOKENS = 2048;

    private final LanguageModel model;
    private final ExitPolicy policy;
    private final int context;
    private final int stride;

    /** nll[i] is of token i + 1, in nats; depth[i] is the depth of token i, of at most {@code most}. */
    record Result(double[] nll, int[] depths, int most) {
        double meanDepth() {
            return Arrays.stream(depths).average().orElse(0);
        }
    }

    /** Tokens {@code start..end} of a text, of which those before {@code fresh} only give context. */
    private record Window(int text, int start, int fresh, int end) {}

    Scorer(LanguageModel model, int context, int stride) {
        this(model, ExitPolicy.never(), context, stride);
    }

    Scorer(LanguageModel model, ExitPolicy policy, int context, int stride) {
        this.model = model;
        this.policy = policy;
        this.context = context;
        this.stride = stride;
    }

    /** {@code progress} is told how many tokens have been scored. */
    List<Result> score(List<int[]> texts, LongConsumer progress) {
        List<Result> results = new ArrayList<>();
        List<Window> windows = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            int tokens = texts.get(i).length;
            results.add(new Result(new double[Math.max(0, tokens - 1)], new int[tokens], model.depths(policy)));
            for (int start = 0, fresh = 0; fresh < tokens; start += stride) {
                int end = Math.min(tokens, start + context);
                windows.add(new Window(i, start, fresh, end));
                fresh = end;
            }
        }
        int longest = windows.stream().mapToInt(window -> window.end - window.start).max().orElse(1);
        int batch = Math.clamp(BATCH_TOKENS / longest, 1, Math.max(1, windows.size()));
        long scored = 0;
        try (DepthSession session = model.session(policy, new Limits(batch, longest))) {
            Step step = session.step();
            for (int from = 0; from < windows.size(); from += batch) {
                List<Window> part = windows.subList(from, Math.min(from + batch, windows.size()));
                run(session, step, part, texts, results);
                for (Window window : part) scored += window.end - window.fresh;
                progress.accept(scored);
            }
        }
        return results;
    }

    private void run(DepthSession session, Step step, List<Window> windows, List<int[]> texts, List<Result> results) {
        int[] sequences = windows.stream().mapToInt(window -> session.open()).toArray();
        step.clear();
        for (int i = 0; i < sequences.length; i++) {
            Window window = windows.get(i);
            if (window.start < window.fresh) {
                step.add(sequences[i], Arrays.copyOfRange(texts.get(window.text), window.start, window.fresh));
            }
        }
        if (step.tokens() > 0) session.run(step);

        step.clear();
        for (int i = 0; i < sequences.length; i++) {
            Window window = windows.get(i);
            int[] ids = texts.get(window.text);
            int[] targets = new int[window.end - window.fresh]; // what follows the last token of a text is never read
            System.arraycopy(ids, window.fresh + 1, targets, 0,
                    Math.min(targets.length, ids.length - window.fresh - 1));
            step.score(sequences[i], Arrays.copyOfRange(ids, window.fresh, window.end), targets);
        }
        session.run(step);
        int row = 0;
        for (Window window : windows) {
            Result result = results.get(window.text);
            for (int token = window.fresh; token < window.end; token++, row++) {
                result.depths[token] = model.depth(policy, step, row);
                if (token < result.nll.length) result.nll[token] = finite(step.nll(row), token);
            }
        }
        for (int sequence : sequences) session.close(sequence);
    }

    private static double finite(double nll, int token) {
        if (Double.isFinite(nll)) return nll;
        throw new UserException("The model gives no finite likelihood after token " + token
                + ": its weights are not usable.");
    }
}
