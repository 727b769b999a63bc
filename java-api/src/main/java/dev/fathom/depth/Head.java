package dev.fathom.depth;

import dev.fathom.Buffer;
import dev.fathom.HeadShape;

/**
 * Final norm and LM head.
 *
 * @param shape    without chosen logits
 * @param gain     fp32 [hiddenSize], or null for 1
 * @param normBias fp32 [hiddenSize], or null for 0
 * @param weights  packed under {@link HeadShape#weights}
 */
public record Head(HeadShape shape, Buffer gain, Buffer normBias, Buffer weights) {
    public Head {
        Require.notNull("shape", shape);
        Require.notNull("weights", weights);
        Require.equal("chosen of the head", shape.chosen(), "none, that is", 0);
    }

    /** The same head with one chosen logit per row. */
    HeadShape choosing() {
        return new HeadShape(shape.hiddenSize(), shape.vocabSize(), shape.weightType(), shape.norm(), shape.normEps(),
                shape.logitScale(), shape.softcap(), 1);
    }
}
