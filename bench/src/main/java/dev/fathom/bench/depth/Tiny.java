package dev.fathom.bench.depth;

import java.util.List;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.EmbedShape;
import dev.fathom.GateShape;
import dev.fathom.HeadShape;
import dev.fathom.NormKind;
import dev.fathom.depth.DepthModel;
import dev.fathom.depth.Head;
import dev.fathom.depth.Router;
import dev.fathom.depth.Stage;

/** A model of the same stages as another one, 16 wide, with weights of zero. */
final class Tiny {
    private static final int WIDTH = 16;

    private Tiny() {}

    static Subject like(Subject subject, Context context) {
        List<Stage> stages = subject.weights().stages().stream().map(stage -> stage(stage, context)).toList();
        int words = subject.weights().vocabSize();
        HeadShape head = new HeadShape(WIDTH, words, DType.F32, NormKind.RMS, 1e-5f);
        Buffer table = context.allocate(context.linearBytes(head.weights()));
        DepthModel model = new DepthModel(new EmbedShape(words, WIDTH, DType.F32, true, 1), table, stages,
                new Head(head, null, null, table));
        return new Subject(subject.system(), "tiny", subject.setting(), context, model, subject.policy());
    }

    private static Stage stage(Stage stage, Context context) {
        BlockShape shape = BlockShape.builder(1, WIDTH, WIDTH, 1).headDim(16).depths(stage.shape().depths()).build();
        Router router = switch (stage.router()) {
            case Router.ExpertChoice choice -> {
                GateShape gate = new GateShape(WIDTH, 0, 1, shape.depths(), choice.shape().router(),
                        choice.shape().function(), 1, 0.1f, 0);
                yield new Router.ExpertChoice(gate, context.allocate(context.gateBytes(gate)), choice.gating());
            }
            default -> new Router.Always();
        };
        return new Stage(shape, context.allocate(context.blockBytes(shape)), router, stage.kv());
    }
}
