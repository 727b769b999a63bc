package dev.fathom.bench.depth;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import dev.fathom.depth.DepthModel;
import dev.fathom.depth.ExitPoint;
import dev.fathom.depth.ExitPolicy;
import dev.fathom.depth.Router;
import dev.fathom.depth.Signal;
import dev.fathom.depth.SkippedKv;
import dev.fathom.depth.Threshold;
import dev.fathom.depth.Verification;
import dev.fathom.examples.LanguageModel;

/** The models of the study, from a folder of exported ones, and the policies that each is measured under. */
final class Catalogue implements AutoCloseable {
    /** Logits from which a token goes on, in place of 0, with which the bundled model was trained. */
    private static final int[] MOVED = {4, 8, 12, 16, 20, 24};

    private final Path folder;
    private final Map<String, LanguageModel> models = new HashMap<>();
    final List<Subject> subjects = new ArrayList<>();

    /** Models that are not there are left out. */
    Catalogue(Path folder) {
        this.folder = folder;
        full("vanilla", "vanilla");
        free();
        for (String name : List.of("recursive", "rrt_start", "rrt_ce_1", "rrt_kd_1", "rrt_r8_start", "rrt_r8_ce",
                "rrt_r8_kd", "rrt_r32_start", "rrt_r32_ce", "rrt_r32_kd")) {
            full("recursive", name);
        }
        loopExits();
        routed();
    }

    private LanguageModel open(String name) {
        if (name.equals("mor")) return models.computeIfAbsent(name, n -> LanguageModel.bundled(0));
        if (!Files.exists(folder.resolve(name).resolve("config.json"))) return null;
        return models.computeIfAbsent(name, n -> LanguageModel.open(folder.resolve(n), null, 0, null, true));
    }

    private void add(String system, String model, String setting, ExitPolicy policy) {
        add(system, model, setting, policy, Integer.MAX_VALUE, false);
    }

    private void add(String system, String model, String setting, ExitPolicy policy, int cap, boolean lossless) {
        LanguageModel opened = open(model);
        subjects.add(new Subject(system, model, setting, opened.context(), opened.weights(), policy, cap, lossless));
    }

    private void add(String system, String model, String setting, DepthModel weights) {
        subjects.add(new Subject(system, model, setting, open(model).context(), weights, ExitPolicy.never()));
    }

    private void full(String system, String model) {
        if (open(model) != null) add(system, model, "full depth", ExitPolicy.never());
    }

    private void free() {
        LanguageModel model = open("free_meta") != null ? open("free_meta") : open("free");
        if (model == null) return;
        String name = open("free_meta") != null ? "free_meta" : "free";
        ExitPoint point = model.exits().points().getFirst();
        full("FREE", name);
        for (float threshold : new float[] {0.3f, 0.5f, 0.7f, 0.9f}) {
            Threshold fixed = new Threshold.Fixed(threshold);
            ExitPolicy margin = ExitPolicy.deferring(new Signal.Margin(), fixed, point);
            add("FREE", name, "margin > " + threshold + ", deferred", margin);
            add("FREE", name, "margin > " + threshold + ", propagated", margin.withSkipped(SkippedKv.PROPAGATE));
            add("FREE", name, "margin > " + threshold + ", verified", margin.withVerification(new Verification.Exact()),
                    Integer.MAX_VALUE, true);
            Signal.Classifier mlp = model.exits().classifiers().get("mlp");
            if (mlp != null) {
                add("FREE", name, "MLP head > " + threshold + ", deferred", ExitPolicy.deferring(mlp, fixed, point));
            }
        }
        add("FREE", name, "margin, adaptive",
                ExitPolicy.deferring(new Signal.Margin(), new Threshold.Adaptive(0.9f, 0.4f), point));
    }

    private void loopExits() {
        if (open("rrt_exits") == null) return;
        ExitPoint point = new ExitPoint(0, 0);
        full("recursive with exits", "rrt_exits");
        for (float threshold : new float[] {0.3f, 0.5f, 0.7f, 0.9f}) {
            for (SkippedKv skipped : SkippedKv.values()) {
                if (skipped == SkippedKv.COPY) continue; // for layers that do not loop
                add("recursive with exits", "rrt_exits", "margin > " + threshold + ", " + skipped,
                        ExitPolicy.of(skipped, new Signal.Margin(), new Threshold.Fixed(threshold), point));
            }
        }
        add("recursive with exits", "rrt_exits", "draft 4, verified", ExitPolicy.drafting(point, 4, 0),
                Integer.MAX_VALUE, true);
    }

    private void routed() {
        for (String name : List.of("mor", "mor_expert", "mor_shared", "mor_token", "mor_token_shared")) {
            if (open(name) == null) continue;
            for (int cap = 1; cap <= 3; cap++) {
                add("Mixture-of-Recursions", name, cap == 3 ? "causal rule" : "at most " + cap, ExitPolicy.never(), cap,
                        false);
            }
            DepthModel weights = open(name).weights();
            boolean expert = weights.stages().stream().anyMatch(s -> s.router() instanceof Router.ExpertChoice);
            if (!expert) continue;
            for (int threshold : name.equals("mor") ? MOVED : new int[0]) {
                add("Mixture-of-Recursions", name, "router > " + threshold, weights.withRouterThreshold(threshold));
            }
            DepthModel whole = weights.withStages(weights.stages().stream().map(s ->
                    s.router() instanceof Router.ExpertChoice c ? s.withRouter(c.wholeSequence()) : s).toList());
            add("Mixture-of-Recursions", name, "whole-sequence top-k (looks ahead)", whole);
            for (int depth = 1; depth <= 2; depth++) {
                add("Mixture-of-Recursions", name, "draft 4 at depth " + depth + ", verified",
                        ExitPolicy.drafting(new ExitPoint(1, depth - 1), 4, 1), Integer.MAX_VALUE, true);
            }
        }
    }

    /** The subject of that model without exits and caps, under its own routers; null if there is no such model. */
    Subject plain(String model) {
        return subjects.stream().filter(s -> s.model().equals(model) && s.policy().equals(ExitPolicy.never())
                && s.depthCap() >= 3 && s.weights().equals(open(model).weights())).findFirst().orElse(null);
    }

    /** The bundled model with that threshold of {@link #MOVED}. */
    Subject moved(int threshold) {
        return subjects.stream().filter(s -> s.model().equals("mor") && s.setting().equals("router > " + threshold))
                .findFirst().orElseThrow();
    }

    /** Whether a router sees later tokens, so that the subject cannot generate. */
    static boolean looksAhead(Subject subject) {
        return subject.weights().stages().stream()
                .anyMatch(s -> s.router() instanceof Router.ExpertChoice c && c.capacity() != null);
    }

    @Override
    public void close() {
        models.values().forEach(LanguageModel::close);
    }
}
