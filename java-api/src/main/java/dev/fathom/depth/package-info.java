/**
 * Decoding with a depth per token: what a model is ({@link dev.fathom.depth.DepthModel}), where its K and V are
 * ({@link dev.fathom.depth.KvCache}), how far each token goes ({@link dev.fathom.depth.Router},
 * {@link dev.fathom.depth.ExitPolicy}), the scheduler that serves requests ({@link dev.fathom.depth.Scheduler}), and
 * the session that runs steps of any mix of prompts and single tokens ({@link dev.fathom.depth.DepthSession}).
 *
 * <p>Words: a <i>stage</i> is a block of layers that is passed one or more times; a <i>depth</i> is the 0-based index
 * of such a pass; an <i>entry</i> is one token's K and V for the layers of a block at one depth; a <i>list</i> is the
 * entries that a (sequence, depth) can see, in order of position.
 */
package dev.fathom.depth;
