package dev.fathom.bench.depth;

import java.util.Arrays;
import java.util.List;

import dev.fathom.depth.DepthReport;
import dev.fathom.depth.DepthSession;
import dev.fathom.depth.Limits;
import dev.fathom.depth.Stage;
import dev.fathom.depth.Step;

/** Scores held-out text as if it were generated: every byte may exit, and sees the K and V that exits left behind. */
final class Quality {
    private static final int WINDOW = 512;
    private static final int TOGETHER = 4;

    private final int[] text;

    /** The text is read in windows of 512 bytes, of which the second halves count. */
    Quality(int[] text) {
        this.text = text;
    }

    /** Per byte that counts. */
    record Scores(double[] nll, int[] best, double depth, double layers, double flops, double kvBytes) {
        double nats() {
            return Arrays.stream(nll).average().orElseThrow();
        }

        double agreement(Scores other) {
            int same = 0;
            for (int i = 0; i < best.length; i++) same += best[i] == other.best[i] ? 1 : 0;
            return (double) same / best.length;
        }
    }

    Scores score(Subject subject) {
        int windows = (text.length - 1 - WINDOW / 2) / (WINDOW / 2);
        double[] nll = new double[windows * (WINDOW / 2)];
        int[] best = new int[nll.length];
        long depth = 0;
        long layers = 0;
        double kvBytes = 0;
        int[] executed = executed(subject.weights().stages());
        Limits limits = new Limits(TOGETHER, WINDOW, TOGETHER * WINDOW, (long) TOGETHER * WINDOW);
        try (DepthSession session = new DepthSession(subject.context(), subject.weights(), subject.policy(), limits)) {
            Step step = session.step();
            for (int from = 0; from < windows; from += TOGETHER) {
                int count = Math.min(TOGETHER, windows - from);
                step.clear();
                for (int w = from; w < from + count; w++) {
                    int begin = w * (WINDOW / 2);
                    step.score(session.open(subject.depthCap()), Arrays.copyOfRange(text, begin, begin + WINDOW),
                            Arrays.copyOfRange(text, begin + 1, begin + 1 + WINDOW));
                }
                session.run(step);
                for (int o = 0; o < step.outputs(); o++) {
                    if (o % WINDOW < WINDOW / 2) continue;
                    int at = (from + o / WINDOW) * (WINDOW / 2) + o % WINDOW - WINDOW / 2;
                    nll[at] = step.nll(o);
                    best[at] = step.argmax(o);
                    depth += step.depth(o);
                    layers += step.legs(o) == executed.length - 1 && routed(subject)
                            ? throughRouter(subject, step.depth(o)) : executed[step.legs(o)];
                }
                kvBytes += session.report().kvLiveBytes() / (double) (count * WINDOW);
                for (int s = 0; s < count; s++) session.close(s);
            }
            DepthReport report = session.report();
            return new Scores(nll, best, (double) depth / nll.length, (double) layers / nll.length,
                    (double) report.done().flops() / report.fullDepth().flops(),
                    kvBytes / Math.ceilDiv(windows, TOGETHER));
        }
    }

    /** Layers executed in the first so many legs. */
    private static int[] executed(List<Stage> stages) {
        int legs = stages.stream().mapToInt(s -> s.shape().depths()).sum();
        int[] executed = new int[legs + 1];
        int leg = 0;
        for (Stage stage : stages) {
            for (int d = 0; d < stage.shape().depths(); d++, leg++) {
                executed[leg + 1] = executed[leg] + stage.shape().layers();
            }
        }
        return executed;
    }

    /** Whether tokens skip passes in the middle of the model: by routers, caps, or exits with a tail. */
    private static boolean routed(Subject subject) {
        return subject.weights().stages().stream().anyMatch(s -> s.shape().depths() > 1);
    }

    private static int throughRouter(Subject subject, int depth) {
        return subject.weights().stages().stream()
                .mapToInt(s -> s.shape().layers() * Math.min(depth, s.shape().depths())).sum();
    }
}
