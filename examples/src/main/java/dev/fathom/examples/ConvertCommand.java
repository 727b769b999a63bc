package dev.fathom.examples;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import dev.fathom.DType;
import dev.fathom.Part;
import dev.fathom.examples.ModelConfig.Sharing;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParentCommand;

@Command(name = "convert", description = "Makes a recursive model of a vanilla one, whose"
        + " layers share their weights; or quantises a model; or both.")
final class ConvertCommand implements Runnable {
    private static final List<Part> LINEARS = Arrays.stream(Part.values()).filter(Part::isLinear).toList();

    @ParentCommand
    private Main main;

    @Option(names = "--model", required = true, paramLabel = "PATH", description = "A directory with config.json and"
            + " safetensors, or a GGUF file; with --recursions a vanilla model.")
    private Path model;

    @Option(names = "--to", required = true, paramLabel = "DIR", description = "Directory to make; it must not exist.")
    private Path to;

    @Option(names = "--recursions", paramLabel = "N",
            description = "Passes through the shared block (default: layers stay as they are).")
    private Integer recursions;

    @Option(names = "--quantise", paramLabel = "f8|q8_0|q4_0",
            description = "Store linears, embeddings and head in FP8 (e4m3) with a scale per row, or in blocks of 8-bit"
            + " or 4-bit integers.")
    private String quantise;

    @Option(names = "--sharing", paramLabel = "cycle|sequence|middle_cycle|middle_sequence", defaultValue = "cycle",
            description = "Which layers are tied; with middle the first and last are not (default: ${DEFAULT-VALUE}).")
    private Sharing sharing;

    @Option(names = "--init", paramLabel = "stepwise|average|lower|upper",
            description = "Where shared weights come from (default: stepwise; with LoRA average).")
    private LayerInit init;

    @Option(names = "--norms", paramLabel = "tied|per-depth", defaultValue = "tied",
            description = "Norm gains shared like the weights, or each layer's own (default: ${DEFAULT-VALUE}).")
    private String norms;

    @Option(names = "--lora-rank", paramLabel = "R|q=R,v=R...",
            description = "Give each layer LoRA pairs of that rank for what it loses; full: all of it (default: 0).")
    private String loraRank;

    @Option(names = "--lora-targets", paramLabel = "q,k,v,o,gate,up,down",
            description = "Linears with LoRA pairs (default: all).")
    private String loraTargets;

    @Option(names = "--layers", paramLabel = "L",
            description = "Unrolled layers (default: as many of the model's as divide into the recursions).")
    private Integer layers;

    @Option(names = "--dtype", paramLabel = "f32|bf16|f16", description = "Type of the weights that are not"
            + " quantised (default: as they are).")
    private String dtype;

    @Option(names = "--compact", description = "Store tied weights once, and LoRA pairs without the PEFT adapter.")
    private boolean compact;

    @Option(names = "--threads", paramLabel = "N", defaultValue = "0", description = "Threads (default: one per core).")
    private int threads;

    @Override
    public void run() {
        if (threads < 0) throw new UserException("--threads must be at least 0, got " + threads + ".");
        if (layers != null && layers < 1) throw new UserException("--layers must be at least 1, got " + layers + ".");
        if (recursions == null) recode();
        else convert();
    }

    private void recode() {
        if (layers != null || init != null || loraRank != null || loraTargets != null || compact) {
            throw new UserException("--layers, --init, --lora-rank, --lora-targets and --compact need --recursions"
                    + " beside them.");
        }
        if (quantise == null && dtype == null) {
            throw new UserException("convert needs --recursions, --quantise or --dtype.");
        }
        try (Recoding recoding = new Recoding(model, types())) {
            warnOfUnquantised(recoding.unquantised());
            try (Progress progress = Progress.of("converting", recoding.steps())) {
                recoding.write(to, progress);
            }
            Output out = main.out();
            out.format("parameters  %,d, %,d of them quantised", recoding.parameters(), recoding.quantisedParameters());
            out.format("stored      %,d bytes in %s", recoding.bytes(), Terminal.printable(to.toString()));
        }
    }

    private void convert() {
        Conversion.Options options = new Conversion.Options(recursions, layers == null ? 0 : layers, sharing, init,
                tiedNorms(), ranks(), types(), compact);
        int workers = threads > 0 ? threads : Runtime.getRuntime().availableProcessors();
        try (Conversion conversion = new Conversion(model, options)) {
            warn(conversion);
            warnOfUnquantised(conversion.unquantised());
            double kept;
            try (Progress progress = Progress.of("converting", conversion.steps())) {
                kept = conversion.write(to, workers, progress);
            }
            tell(conversion, kept);
        }
    }

    // ---- options -------------------------------------------------------------------------------------------------

    private boolean tiedNorms() {
        return switch (norms.toLowerCase(Locale.ROOT)) {
            case "tied" -> true;
            case "per-depth" -> false;
            default -> throw new UserException("--norms must be tied or per-depth, got " + norms + ".");
        };
    }

    private StoredTypes types() {
        return new StoredTypes(plain(), blocks());
    }

    private DType blocks() {
        return TypeOption.of("--quantise", quantise, DType.F8_E4M3, DType.Q8_0, DType.Q4_0);
    }

    private DType plain() {
        return TypeOption.of("--dtype", dtype, DType.F32, DType.BF16, DType.F16);
    }

    private Map<Part, Integer> ranks() {
        Map<Part, Integer> ranks = new EnumMap<>(Part.class);
        if (loraRank == null) {
            if (loraTargets != null) throw new UserException("--lora-targets needs --lora-rank beside it.");
        } else if (loraRank.contains("=")) {
            if (loraTargets != null) throw new UserException("--lora-targets are in --lora-rank already.");
            for (String item : loraRank.split(",", -1)) {
                String[] pair = item.split("=", 2);
                if (ranks.put(part("--lora-rank", pair[0]), rank(pair.length == 2 ? pair[1] : "")) != null) {
                    throw new UserException("--lora-rank names " + pair[0] + " twice.");
                }
            }
        } else {
            int rank = rank(loraRank);
            String all = LINEARS.stream().map(Linear::shortName).collect(Collectors.joining(","));
            for (String name : (loraTargets == null ? all : loraTargets).split(",", -1)) {
                if (ranks.put(part("--lora-targets", name), rank) != null) {
                    throw new UserException("--lora-targets names " + name + " twice.");
                }
            }
        }
        return ranks;
    }

    private static Part part(String option, String name) {
        return LINEARS.stream().filter(part -> Linear.shortName(part).equals(name)).findFirst().orElseThrow(() ->
                new UserException(option + " must name some of q, k, v, o, gate, up and down, got " + name + "."));
    }

    private static int rank(String text) {
        if (text.equals("full")) return Integer.MAX_VALUE;
        if (text.matches("[0-9]{1,9}")) return Integer.parseInt(text);
        throw new UserException("--lora-rank must be a whole number of at least 0 or full, got " + text + ".");
    }

    // ---- messages ------------------------------------------------------------------------------------------------

    private static void warnOfUnquantised(List<String> names) {
        if (names.isEmpty()) return;
        Main.say("warning: " + names.size() + " weights are not quantised: their rows are no multiple of 32 long; the"
                + " first is " + names.getFirst() + ".");
    }

    private void warn(Conversion conversion) {
        int own = conversion.config().layers();
        int[] counts = new int[own];
        for (int layer : conversion.origins()) counts[layer]++;
        if (layers == null && conversion.tying().layers() < own) {
            Main.say("warning: " + own + " layers do not divide into " + recursions + " recursions and "
                    + sharing.ends() + " unshared ones; dropped: " + IntStream.range(0, own)
                    .filter(layer -> counts[layer] == 0).mapToObj(Integer::toString).collect(Collectors.joining(", "))
                    + "; --layers " + (conversion.tying().layers() + recursions) + " would repeat some instead.");
        }
    }

    private void tell(Conversion conversion, double kept) {
        LayerTying tying = conversion.tying();
        Output out = main.out();
        out.format("layers      %d as %d shared in %d passes%s, %s, %s", tying.layers(), tying.slots(),
                tying.recursions(), sharing.ownEnds ? " and 2 of their own" : "",
                sharing.name().toLowerCase(Locale.ROOT), conversion.init().name().toLowerCase(Locale.ROOT));
        out.format("parameters  %,d of %,d", conversion.sharedParameters(), conversion.originalParameters());
        if (conversion.loraParameters() > 0) {
            out.format("LoRA        %,d more, for %.1f %% of the squared differences", conversion.loraParameters(),
                    100 * kept);
        }
        out.format("stored      %,d bytes in %s", conversion.bytes(), Terminal.printable(to.toString()));
    }
}
