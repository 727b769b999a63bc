package dev.fathom.depth;

import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.EmbedShape;

/**
 * A decoder: embedding, stages, head. Immutable; any number of sessions may share one. The buffers must outlive them.
 *
 * @param table of the embedding, see {@link EmbedShape}
 */
public record DepthModel(EmbedShape embedding, Buffer table, List<Stage> stages, Head head) {
    public DepthModel {
        Require.notNull("embedding", embedding);
        Require.notNull("table", table);
        Require.notNull("head", head);
        stages = List.copyOf(Require.notNull("stages", stages));
        Require.that(!stages.isEmpty(), "stages must not be empty");
        for (Stage stage : stages) {
            Require.equal("hiddenSize of a stage", stage.shape().hiddenSize(), "hiddenSize of the embedding",
                    embedding.hiddenSize());
        }
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
}
