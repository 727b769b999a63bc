package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.Arrays;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.HeadStats;

/**
 * Tokens to take in, and after {@link DepthSession#run} what came of them: any mix of prompts, single tokens and texts
 * to score. Tokens are numbered in the order in which they were added, outputs in the order of their tokens. Made by
 * {@link DepthSession#step} and used again and again: {@link #clear}, add, run, read.
 */
public final class Step {
    final DepthSession session;

    private final Context context;
    private final int hiddenSize;
    private final int vocabSize;

    int requests;
    int[] requestSequence = new int[8];
    int[] requestTokens = new int[8];
    boolean[] requestScored = new boolean[8];

    int tokens;
    int[] id = new int[64];
    int[] sequence = new int[64];
    int[] position = new int[64];
    int[] passes = new int[64];
    int[] legs = new int[64];
    boolean[] exits = new boolean[64];
    /** The output of each token, or NONE. */
    int[] outputOf = new int[64];

    int outputs;
    int[] outputToken = new int[8];
    int[] target = new int[8];
    boolean hasRun;

    /** Memory of the outputs: room for {@link #room} of them, and for the logits of {@link #logitsRoom}. */
    private int room;
    private int logitsRoom;
    private boolean logitsWanted;
    private Buffer hidden;
    private Buffer logits;
    private HeadStats stats;
    private float[] targetLogit = new float[0];

    Step(DepthSession session, Context context) {
        this.session = session;
        this.context = context;
        hiddenSize = session.model().hiddenSize();
        vocabSize = session.model().vocabSize();
    }

    // ---- what to run ---------------------------------------------------------------------------------------------

    /** Empties the step. {@link #withLogits} stays as it is. */
    public Step clear() {
        requests = tokens = outputs = 0;
        hasRun = false;
        return this;
    }

    /** Whether the outputs keep their logits, for sampling; otherwise only their statistics are there. */
    public Step withLogits(boolean wanted) {
        checkOpen();
        logitsWanted = wanted;
        return this;
    }

    /**
     * Continues a sequence by these tokens, with an output for the last of them: what comes next. Several tokens, or
     * the first of a sequence, are a prompt, which takes every pass; a single one that continues a sequence may exit.
     */
    public Step add(int sequence, int... ids) {
        request(sequence, ids, false);
        output(tokens - 1, Flight.NONE);
        return this;
    }

    /**
     * Continues a sequence by these tokens, with an output for each of them and the likelihood of its target. Each may
     * exit, as if the text had been generated.
     *
     * @param targets per token the one that should come next
     */
    public Step score(int sequence, int[] ids, int[] targets) {
        Require.notNull("targets", targets);
        Require.equal("number of targets", targets.length, "number of tokens", Require.notNull("ids", ids).length);
        for (int target : targets) Require.range("target", target, 0, vocabSize - 1);
        int first = tokens;
        request(sequence, ids, true);
        for (int i = 0; i < ids.length; i++) output(first + i, targets[i]);
        return this;
    }

    private void request(int sequence, int[] ids, boolean scored) {
        checkOpen();
        Require.notNull("ids", ids);
        Require.atLeast("number of tokens", ids.length, 1);
        for (int id : ids) Require.range("token", id, 0, vocabSize - 1);
        for (int i = 0; i < requests; i++) {
            if (requestSequence[i] == sequence) {
                throw new IllegalArgumentException("sequence " + sequence + " is in this step already");
            }
        }
        requestSequence = grown(requestSequence, requests + 1);
        requestTokens = grown(requestTokens, requests + 1);
        requestSequence[requests] = sequence;
        requestScored = grown(requestScored, requests + 1);
        requestScored[requests] = scored;
        requestTokens[requests++] = ids.length;
        int end = Math.addExact(tokens, ids.length);
        id = grown(id, end);
        this.sequence = grown(this.sequence, end);
        position = grown(position, end);
        passes = grown(passes, end);
        legs = grown(legs, end);
        exits = grown(exits, end);
        outputOf = grown(outputOf, end);
        System.arraycopy(ids, 0, id, tokens, ids.length);
        Arrays.fill(this.sequence, tokens, end, sequence);
        Arrays.fill(outputOf, tokens, end, Flight.NONE);
        tokens = end;
    }

    private void output(int token, int next) {
        outputToken = grown(outputToken, outputs + 1);
        target = grown(target, outputs + 1);
        outputToken[outputs] = token;
        outputOf[token] = outputs;
        target[outputs++] = next;
    }

    /** Tokens of the sequence in this step. */
    int tokensOf(int sequence) {
        for (int i = 0; i < requests; i++) {
            if (requestSequence[i] == sequence) return requestTokens[i];
        }
        return 0;
    }

    private void checkOpen() {
        if (hasRun) throw new IllegalStateException("The step has run; clear it first.");
    }

    private static int[] grown(int[] array, int needed) {
        return needed <= array.length ? array : Arrays.copyOf(array, Math.max(needed, array.length * 2));
    }

    private static boolean[] grown(boolean[] array, int needed) {
        return needed <= array.length ? array : Arrays.copyOf(array, Math.max(needed, array.length * 2));
    }

    // ---- what came of it -----------------------------------------------------------------------------------------

    public int tokens() {
        return tokens;
    }

    public int sequence(int token) {
        Require.index("token", token, tokens);
        return sequence[token];
    }

    /** Position of a token in its sequence. */
    public int position(int token) {
        ran();
        Require.index("token", token, tokens);
        return position[token];
    }

    /** Passes that a token took for its answer: the most of any stage, at least 1. */
    public int depth(int token) {
        ran();
        Require.index("token", token, tokens);
        return passes[token];
    }

    /** Legs behind which a token was answered: the passes of all stages, counted in order whether skipped or not. */
    public int legs(int token) {
        ran();
        Require.index("token", token, tokens);
        return legs[token];
    }

    public int outputs() {
        return outputs;
    }

    /** The token that an output belongs to. */
    public int token(int output) {
        Require.index("output", output, outputs);
        return outputToken[output];
    }

    /** Statistics of the logits of all outputs. */
    public HeadStats stats() {
        ran();
        return stats;
    }

    /** The most likely next token. */
    public int argmax(int output) {
        return stats().argmax(ranOutput(output));
    }

    /** Negative log-likelihood of an output's target, in nats; NaN without target. */
    public double nll(int output) {
        ranOutput(output);
        return target[output] == Flight.NONE ? Double.NaN : (double) stats.lse(output) - targetLogit[output];
    }

    /** Reads the logits of an output, [vocabSize]. */
    public void logits(int output, float[] to) {
        ranOutput(output);
        if (!logitsWanted) throw new IllegalStateException("The step ran without logits; withLogits asks for them.");
        Require.equal("length of the array", to.length, "vocabSize", vocabSize);
        logits.read(4L * output * vocabSize, to, 0, vocabSize);
    }

    /** Reads the hidden row of an output, [hiddenSize], before the head's norm. */
    public void hidden(int output, float[] to) {
        ranOutput(output);
        Require.equal("length of the array", to.length, "hiddenSize", hiddenSize);
        hidden.read(4L * output * hiddenSize, to, 0, hiddenSize);
    }

    private int ranOutput(int output) {
        ran();
        Require.index("output", output, outputs);
        return output;
    }

    private void ran() {
        if (!hasRun) throw new IllegalStateException("The step has not run.");
    }

    // ---- the session's side --------------------------------------------------------------------------------------

    boolean wantsLogits() {
        return logitsWanted;
    }

    /** Makes room for the outputs. */
    void reserve() {
        if (room < outputs) {
            int wanted = Math.max(outputs, 2 * room);
            Arena arena = Arena.ofAuto();
            hidden = context.allocate(arena, 4L * wanted * hiddenSize);
            stats = HeadStats.allocate(context, arena, wanted);
            targetLogit = new float[wanted];
            room = wanted;
        }
        if (logitsWanted && logitsRoom < outputs) {
            logits = context.allocate(Arena.ofAuto(), 4L * outputs * vocabSize);
            logitsRoom = outputs;
        }
    }

    /** Row {@code row} of the answers is that of an output. */
    void take(int output, Answers answers, int row) {
        answers.stats().copy(row, stats, output);
        targetLogit[output] = answers.targetLogit(row);
        answers.hidden().copy(4L * hiddenSize * row, hidden, 4L * hiddenSize * output, 4L * hiddenSize);
        if (logitsWanted) {
            answers.logits().copy(4L * vocabSize * row, logits, 4L * vocabSize * output, 4L * vocabSize);
        }
    }
}
