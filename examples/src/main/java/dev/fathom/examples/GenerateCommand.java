package dev.fathom.examples;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

import dev.fathom.Context;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Sampler;
import dev.fathom.depth.Sampling;
import dev.fathom.depth.Step;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParentCommand;

@Command(name = "generate", description = "Continues a text; every token is coloured by the passes it took.")
final class GenerateCommand implements Runnable {
    /** Of one text, all of which is kept. */
    private static final int MOST_TOKENS = 1_000_000;

    enum Colour { AUTO, ALWAYS, NEVER }

    @ParentCommand
    private Main main;

    @Mixin
    private ModelOptions model;

    @Mixin
    private ExitOptions exits;

    @Option(names = "--prompt", paramLabel = "TEXT",
            description = "Text to continue; several are continued together (default: a newline).")
    private List<String> prompts = List.of("\n");

    @Option(names = "--tokens", paramLabel = "N", defaultValue = "200",
            description = "Tokens to add (default: ${DEFAULT-VALUE}).")
    private int tokens;

    @Option(names = "--temperature", paramLabel = "T", defaultValue = "0.8",
            description = "0 takes the likeliest token always (default: ${DEFAULT-VALUE}).")
    private float temperature;

    @Option(names = "--top-k", paramLabel = "K", defaultValue = "0",
            description = "Draw from the K likeliest tokens only; 0: from all (default).")
    private int topK;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed of the draws (default: ${DEFAULT-VALUE}).")
    private long seed;

    @Option(names = "--html", paramLabel = "FILE", description = "Also write the depth map as a page.")
    private Path html;

    @Option(names = "--color", paramLabel = "WHEN", defaultValue = "auto",
            description = "auto, always or never (default: ${DEFAULT-VALUE}).")
    private Colour colour;

    @Override
    public void run() {
        if (tokens < 1 || tokens > MOST_TOKENS) {
            throw new UserException("--tokens must be in 1.." + MOST_TOKENS + ", got " + tokens + ".");
        }
        if (!(temperature >= 0 && temperature <= 1000)) {
            throw new UserException("--temperature must be in 0..1000, got " + temperature + ".");
        }
        if (topK < 0) throw new UserException("--top-k must be at least 0, got " + topK + ".");
        if (html != null) DepthPage.check(html);
        try (LanguageModel opened = model.open(exits)) {
            generate(opened);
        }
    }

    private void generate(LanguageModel opened) {
        TextCodec codec = opened.codec();
        List<int[]> ids = new ArrayList<>();
        for (String prompt : prompts) {
            int[] encoded = codec.encode(prompt.getBytes(StandardCharsets.UTF_8));
            int most = opened.config().contextLength();
            if (prompt.isEmpty()) throw new UserException("--prompt must not be empty.");
            if (encoded.length == 0) {
                throw new UserException("The tokenizer makes no tokens of --prompt \"" + prompt + "\".");
            }
            if (encoded.length > most) {
                throw new UserException("--prompt has " + encoded.length + " tokens, the model's context holds " + most
                        + ".");
            }
            ids.add(encoded);
        }
        Sampler[] samplers = temperature == 0 ? null : new Sampler[ids.size()];
        for (int i = 0; samplers != null && i < samplers.length; i++) {
            samplers[i] = new Sampler(new Sampling(temperature, topK, seed + i));
        }

        Output out = main.out();
        boolean coloured = colour == Colour.ALWAYS || colour == Colour.AUTO && Terminal.isTerminal(Terminal.OUT);
        ExitPolicy policy = exits.policy(opened.weights(), opened.exits());
        int depths = opened.depths(policy);
        List<Transcript> transcripts = new ArrayList<>();
        for (int[] prompt : ids) transcripts.add(new Transcript(codec.decoder(), prompt.length, depths, coloured));
        // One text is shown as it grows, several one after the other.
        transcripts.getFirst().writeTo(out);

        try (Generator generator = new Generator(opened, policy, ids, tokens, samplers)) {
            Generator.Listener listener = (text, id, depth) -> transcripts.get(text).token(id, depth);
            Step step = generator.begin(listener);
            long start = System.nanoTime();
            for (int i = 0; i < tokens; i++) step = generator.next(step, listener);
            double seconds = (System.nanoTime() - start) * 1e-9;
            for (Transcript transcript : transcripts) {
                transcript.end();
                transcript.writeTo(out);
                out.line("");
            }
            String facts = facts(opened, depths, transcripts, tokens * (long) ids.size() / seconds,
                    generator.report().kvLiveBytes());
            out.line(coloured ? "\n\u001b[2m" + facts + DepthPalette.RESET : "\n" + facts);
            out.flush();
            if (html != null) {
                DepthPage.write(html, transcripts.stream().map(Transcript::pieces).toList(), depths, facts);
            }
        }
    }

    private String facts(LanguageModel opened, int depths, List<Transcript> transcripts, double rate, long kvBytes) {
        long taken = transcripts.stream().mapToLong(Transcript::tokens).sum();
        long passes = transcripts.stream().mapToLong(Transcript::passes).sum();
        Context.Info info = opened.context().info();
        return String.format(Locale.ROOT,
                "%d tokens, %.0f tokens/s, mean depth %.2f of %d, K,V %,d bytes, %s %s",
                (long) tokens * transcripts.size(), rate, (double) passes / taken, depths, kvBytes,
                opened.type().name().toLowerCase(Locale.ROOT),
                info.cuda() ? "cuda:" + info.device().ordinal() : info.isa() + ", " + info.workers() + " threads");
    }
}
