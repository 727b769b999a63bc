package dev.fathom.examples;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;

import dev.fathom.depth.BatchPolicy;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Generation;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Request;
import dev.fathom.depth.Sampling;
import dev.fathom.depth.Scheduler;
import dev.fathom.depth.Verification;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParentCommand;

@Command(name = "seq2seq", description = "Turns texts into others with an encoder-decoder (T5, mT5, LongT5 local).")
final class Seq2SeqCommand implements Runnable {
    /** Prints nothing: the texts are shown when all are there, in the order in which they were given. */
    private static final Generation.Receiver SILENT = new Generation.Receiver() {
        @Override
        public void token(Generation generation, int i) {}

        @Override
        public void ended(Generation generation) {}
    };

    @ParentCommand
    private Main main;

    @Mixin
    private ModelOptions model;

    @Mixin
    private ExitOptions exits;

    @Option(names = "--source", paramLabel = "TEXT", required = true,
            description = "What the encoder reads; several are turned together. Without tokenizer.json: token ids.")
    private List<String> sources;

    @Option(names = "--tokens", paramLabel = "N", defaultValue = "64",
            description = "At most so many tokens each (default: ${DEFAULT-VALUE}).")
    private int tokens;

    @Option(names = "--verify",
            description = "Check the answers of exits at full depth: the text is that of the full model.")
    private boolean verify;

    @Override
    public void run() {
        if (tokens < 1 || tokens > 1 << 20) {
            throw new UserException("--tokens must be in 1.." + (1 << 20) + ", got " + tokens + ".");
        }
        try (EncoderDecoder opened = model.openEncoderDecoder(exits)) {
            ExitPolicy policy = exits.policy(opened.weights(), opened.exits());
            if (verify) policy = policy.withVerification(new Verification.Exact());
            transform(opened, policy);
        } catch (IllegalArgumentException e) { // a policy that cannot be verified
            throw new UserException("--verify: " + e.getMessage() + ".");
        }
    }

    private void transform(EncoderDecoder opened, ExitPolicy policy) {
        List<int[]> ids = new ArrayList<>();
        for (String source : sources) ids.add(encode(opened, source));
        int longest = ids.stream().mapToInt(source -> source.length).max().orElseThrow();
        Limits limits = new Limits(ids.size(), tokens + 1, Math.max(longest, ids.size()),
                (long) ids.size() * (tokens + 1)).withSource(longest);
        try (Scheduler scheduler = new Scheduler(opened.context(), opened.weights(), policy, BatchPolicy.PER_DEPTH,
                limits)) {
            Request start = new Request(new int[] {opened.config().startToken()}, tokens)
                    .withStop(opened.config().endToken()).withSampling(Sampling.greedy());
            long begin = System.nanoTime();
            List<Generation> texts = ids.stream()
                    .map(source -> scheduler.submit(start.withSource(source), SILENT)).toList();
            scheduler.run();
            double seconds = (System.nanoTime() - begin) * 1e-9;
            for (Generation text : texts) main.out().line(decode(opened, text.tokens()));
            main.out().format("\n%d tokens, %.0f tokens/s, %s", scheduler.report().generated(),
                    scheduler.report().generated() / seconds, opened.context());
        }
    }

    private static int[] encode(EncoderDecoder opened, String source) {
        int[] ids = opened.codec() != null ? opened.codec().encode(source.getBytes(StandardCharsets.UTF_8))
                : TokenIds.parse(source.getBytes(StandardCharsets.UTF_8), opened.config().vocabSize());
        if (ids.length == 0) throw new UserException("--source must not be empty.");
        return ids;
    }

    private static String decode(EncoderDecoder opened, int[] ids) {
        if (opened.codec() == null) {
            return Arrays.stream(ids).mapToObj(Integer::toString).collect(Collectors.joining(" "));
        }
        TextCodec.Decoder decoder = opened.codec().decoder();
        StringBuilder text = new StringBuilder();
        for (int id : ids) {
            if (id != opened.config().endToken()) text.append(decoder.accept(id));
        }
        text.append(decoder.end());
        return Terminal.printable(text.toString());
    }
}
