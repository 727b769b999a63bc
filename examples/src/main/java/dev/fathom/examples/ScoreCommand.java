package dev.fathom.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;

import dev.fathom.depth.ExitPolicy;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParentCommand;

@Command(name = "score", description = "Negative log-likelihood and depth of every token of a text.")
final class ScoreCommand implements Runnable {
    @ParentCommand
    private Main main;

    @Mixin
    private ModelOptions model;

    @Mixin
    private ExitOptions exits;

    @ArgGroup(multiplicity = "1")
    private Input input;

    @Option(names = "--json", description = "Write one JSON object.")
    private boolean json;

    @Option(names = "--context", paramLabel = "N",
            description = "Tokens of a window (default: the model's longest context).")
    private Integer context;

    @Option(names = "--stride", paramLabel = "N",
            description = "Tokens between the beginnings of windows (default: half the context).")
    private Integer stride;

    static final class Input {
        @Option(names = "--text", required = true, paramLabel = "FILE",
                description = "Text to score; - is standard input.")
        private String text;

        @Option(names = "--ids", required = true, paramLabel = "FILE",
                description = "Token ids to score, with white space between them; - is standard input.")
        private String ids;
    }

    @Override
    public void run() {
        byte[] contents = read(input.text != null ? input.text : input.ids);
        try (LanguageModel opened = model.open(exits)) {
            ExitPolicy policy = exits.policy(opened.weights(), opened.exits());
            int[] ids = input.text != null ? opened.codec().encode(contents)
                    : TokenIds.parse(contents, opened.config().vocabSize());
            if (ids.length == 0) throw new UserException("There is nothing to score: the input has no tokens.");
            int longest = opened.config().contextLength();
            int window = context == null ? longest : within("--context", context, longest);
            int step = stride == null ? Math.max(1, window / 2) : within("--stride", stride, window);
            long start = System.nanoTime();
            Scorer.Result result;
            try (Progress progress = Progress.of("scoring", ids.length)) {
                result = new Scorer(opened, policy, window, step).score(List.of(ids), progress).getFirst();
            }
            double rate = ids.length / ((System.nanoTime() - start) * 1e-9);
            if (json) writeJson(main.out(), result, rate);
            else writeText(main.out(), opened, result, rate);
        }
    }

    private static int within(String name, int value, int most) {
        if (value < 1 || value > most) {
            throw new UserException(name + " must be in 1.." + most + ", got " + value + ".");
        }
        return value;
    }

    private static byte[] read(String name) {
        try {
            return name.equals("-") ? System.in.readAllBytes() : Files.readAllBytes(Path.of(name));
        } catch (IOException | InvalidPathException e) {
            throw new UserException(name + " cannot be read: " + Main.reason(e) + ".");
        }
    }

    private static void writeJson(Output out, Scorer.Result result, double rate) {
        StringBuilder text = new StringBuilder(16 * result.depths().length);
        text.append("{\"tokens\":").append(result.depths().length);
        text.append(",\"nll\":").append(Arrays.toString(result.nll()).replace(" ", ""));
        text.append(",\"depths\":").append(Arrays.toString(result.depths()).replace(" ", ""));
        text.append(",\"tokens_per_second\":").append(rate);
        text.append(",\"mean_depth\":").append(result.meanDepth()).append('}');
        out.line(text.toString());
    }

    private static void writeText(Output out, LanguageModel opened, Scorer.Result result, double rate) {
        int predicted = result.nll().length;
        double nats = Arrays.stream(result.nll()).average().orElse(Double.NaN);
        out.format("tokens      %,d", result.depths().length);
        if (predicted > 0) {
            out.format("nats/token  %.4f", nats);
            out.format("perplexity  %.3f", Math.exp(nats));
            if (opened.hasByteTokens()) out.format("bits/byte   %.4f", nats / Math.log(2));
        }
        out.format("mean depth  %.3f of %d", result.meanDepth(), result.most());
        for (int depth = 1; depth <= result.most(); depth++) {
            int wanted = depth;
            long count = Arrays.stream(result.depths()).filter(d -> d == wanted).count();
            out.format("  depth %-3d %5.1f %%  %,d", depth, 100.0 * count / result.depths().length, count);
        }
        out.format("speed       %,.0f tokens/s, %s", rate, opened.context());
    }
}
