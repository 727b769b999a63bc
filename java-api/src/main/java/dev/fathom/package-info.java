/**
 * Kernels for transformers whose depth adapts to each token: a {@link dev.fathom.Context} runs them, a
 * {@link dev.fathom.Buffer} is memory they reach, shapes hold their numbers, {@link dev.fathom.Rows} say which token
 * runs at which depth.
 */
package dev.fathom;
