package dev.fathom.depth;

import java.util.List;

import dev.fathom.Buffer;
import dev.fathom.EmbedShape;
import dev.fathom.NormShape;

/**
 * The encoder of an encoder-decoder: embedding, stages whose rows see the whole source, final norm.
 *
 * @param table    of the embedding
 * @param stages   without routers, each passed once
 * @param norm     of one depth
 * @param gain     fp32 [hiddenSize], or null for 1
 * @param normBias fp32 [hiddenSize], or null for 0
 * @param radius   a row sees so many tokens to either side (LongT5: local attention); 0: all
 */
public record Encoder(EmbedShape embedding, Buffer table, List<Stage> stages, NormShape norm, Buffer gain,
                      Buffer normBias, int radius) {
    public Encoder {
        Require.notNull("embedding", embedding);
        Require.notNull("table", table);
        Require.notNull("norm", norm);
        Require.atLeast("radius", radius, 0);
        stages = List.copyOf(Require.notNull("stages", stages));
        Require.that(!stages.isEmpty(), "stages must not be empty");
        for (Stage stage : stages) {
            Require.that(stage.router() instanceof Router.Always && stage.shape().depths() == 1
                    && !stage.shape().cross(), "stages of an encoder have one depth, no router and no cross-attention");
            Require.equal("hiddenSize of a stage", stage.shape().hiddenSize(), "hiddenSize of the embedding",
                    embedding.hiddenSize());
        }
    }
}
