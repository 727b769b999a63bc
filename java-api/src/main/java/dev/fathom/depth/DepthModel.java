package dev.fathom.depth;

import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.EmbedShape;

/**
 * A decoder: embedding, stages, head; with an encoder where its blocks have cross-attention. Immutable; any number of
 * sessions may share one. The buffers must outlive them.
 *
 * @param table   of the embedding, see {@link EmbedShape}
 * @param encoder null: a decoder alone
 */
public record DepthModel(EmbedShape embedding, Buffer table, List<Stage> stages, Head head, Encoder encoder) {
    /** A decoder alone. */
    public DepthModel(EmbedShape embedding, Buffer table, List<Stage> stages, Head head) {
        this(embedding, table, stages, head, null);
    }

    public DepthModel {
        Require.notNull("embedding", embedding);
        Require.notNull("table", table);
        Require.notNull("head", head);
        stages = List.copyOf(Require.notNull("stages", stages));
        Require.that(!stages.isEmpty(), "stages must not be empty");
        for (Stage stage : stages) {
            Require.equal("hiddenSize of a stage", stage.shape().hiddenSize(), "hiddenSize of the embedding",
                    embedding.hiddenSize());
            Require.that(stage.shape().cross() == (encoder != null), encoder == null
                    ? "a stage with cross-attention needs an encoder"
                    : "with an encoder every stage needs cross-attention");
        }
        Require.that(encoder == null || encoder.embedding().hiddenSize() == embedding.hiddenSize(),
                "hiddenSize of the encoder must equal that of the decoder");
        Require.equal("hiddenSize of the head", head.shape().hiddenSize(), "hiddenSize of the embedding",
                embedding.hiddenSize());
        Require.equal("vocabSize of the head", head.shape().vocabSize(), "vocabSize of the embedding",
                embedding.vocabSize());
    }

    public int hiddenSize() {
        return embedding.hiddenSize();
    }

    public int vocabSize() {
        return embedding.vocabSize();
    }

    /** The most passes that any stage has. */
    public int depths() {
        return stages.stream().mapToInt(stage -> stage.shape().depths()).max().getAsInt();
    }

    /** Whether a router looks ahead: see {@link Router.ExpertChoice#capacity}. */
    boolean choosesOverWholeSequences() {
        return stages.stream().anyMatch(s -> s.router() instanceof Router.ExpertChoice c && c.capacity() != null);
    }

    /**
     * The same with another threshold of all routers with expert choice, of which there must be one.
     *
     * @see Router.ExpertChoice#withThreshold
     */
    public DepthModel withRouterThreshold(float threshold) {
        Require.that(stages.stream().anyMatch(s -> s.router() instanceof Router.ExpertChoice),
                "the model has no router with expert choice");
        return withStages(stages.stream().map(s -> s.router() instanceof Router.ExpertChoice choice
                ? s.withRouter(choice.withThreshold(threshold)) : s).toList());
    }

    /** The same with other stages: exits, say, or routers. */
    public DepthModel withStages(List<Stage> stages) {
        return new DepthModel(embedding, table, stages, head, encoder);
    }
}
