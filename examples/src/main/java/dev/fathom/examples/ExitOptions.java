package dev.fathom.examples;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;

import dev.fathom.depth.DepthModel;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Signal;
import dev.fathom.depth.SkippedKv;
import dev.fathom.depth.Threshold;
import dev.fathom.depth.Verification;
import picocli.CommandLine.Option;

/** Options of commands whose tokens may exit early. */
final class ExitOptions {
    private static final int MOST_WAITING = 16;

    @Option(names = "--exit-signal", paramLabel = "NAME", description = "What tells that a token is done: margin,"
            + " max-probability, entropy, cosine, step, or a head of the model: linear, mlp. Without it nothing exits.")
    private String signal;

    @Option(names = "--exit-threshold", paramLabel = "X", split = ",",
            description = "Exit above this, or below for entropy and step; one for all exits, or one for each.")
    private List<Float> thresholds;

    @Option(names = "--exit-layers", paramLabel = "N", split = ",",
            description = "Exit behind so many layers (default: as config.json says).")
    private List<Integer> layers;

    @Option(names = "--exit-kv", paramLabel = "NAME", defaultValue = "defer", description = "K and V of skipped layers:"
            + " holes, alias, copy, propagate, or defer (the default: made exact later).")
    private String skipped;

    /** Null: as config.json says. */
    List<Integer> layers() {
        return layers;
    }

    boolean propagates() {
        return signal != null && skipped() == SkippedKv.PROPAGATE;
    }

    private SkippedKv skipped() {
        return Arrays.stream(SkippedKv.values())
                .filter(s -> s.name().toLowerCase(Locale.ROOT).equals(skipped)).findFirst()
                .orElseThrow(() -> new UserException("--exit-kv must be holes, alias, copy, propagate or defer, got "
                        + skipped + "."));
    }

    ExitPolicy policy(DepthModel model, ExitHeads exits) {
        if (signal == null) {
            if (thresholds != null) throw new UserException("--exit-threshold needs --exit-signal.");
            return ExitPolicy.never();
        }
        if (exits.points().isEmpty()) {
            throw new UserException("The model has no exits: say with --exit-layers where they are.");
        }
        if (thresholds == null) throw new UserException("--exit-signal needs --exit-threshold.");
        List<Threshold> values = thresholds.stream().<Threshold>map(Threshold.Fixed::new).toList();
        try {
            ExitPolicy policy = new ExitPolicy(exits.points(), signal(exits), values, skipped(), MOST_WAITING, true, 0,
                    new Verification.None());
            policy.check(model);
            return policy;
        } catch (IllegalArgumentException e) {
            throw new UserException("These exits do not fit the model: " + e.getMessage() + ".");
        }
    }

    private Signal signal(ExitHeads exits) {
        return switch (signal) {
            case "margin" -> new Signal.Margin();
            case "max-probability" -> new Signal.MaxProbability();
            case "entropy" -> new Signal.Entropy();
            case "cosine" -> new Signal.Saturation();
            case "step" -> new Signal.RelativeStep();
            default -> {
                Signal head = exits.classifiers().get(signal);
                if (head != null) yield head;
                throw new UserException("--exit-signal must be margin, max-probability, entropy, cosine, step"
                        + (exits.classifiers().isEmpty() ? "" : " or a head that the model has: "
                        + String.join(", ", exits.classifiers().keySet().stream().sorted().toList()))
                        + "; got " + signal + ".");
            }
        };
    }
}
