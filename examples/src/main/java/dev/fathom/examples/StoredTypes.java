package dev.fathom.examples;

import dev.fathom.DType;

/**
 * The types in which the tensors of a written model are stored.
 *
 * @param plain  null: each as in the original
 * @param blocks of linears, embeddings and head, where their rows can be cut into its blocks; null: like the others
 */
record StoredTypes(DType plain, DType blocks) {
    /** Of a tensor that is written under that name and made of that one and others like it. */
    DType of(String name, Tensor original) {
        if (quantises(name) && original.shape().length == 2 && original.shape()[1] % blocks.blockSize() == 0) {
            return blocks;
        }
        return plain != null ? plain : original.type();
    }

    /** Of what has no counterpart in the original but that weight. */
    DType beside(Tensor original) {
        return plain != null ? plain : original.type().quantised() ? DType.BF16 : original.type();
    }

    /** Whether a tensor of that name is to be stored in blocks if it can be. */
    boolean quantises(String name) {
        return blocks != null && (Linear.isWeight(name) || name.equals("model.embed_tokens.weight")
                || name.equals("lm_head.weight"));
    }
}
