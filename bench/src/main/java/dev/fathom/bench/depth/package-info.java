/**
 * The study behind docs/depth.md: what systems of adaptive depth cost and give, measured on models trained for them.
 * {@link dev.fathom.bench.depth.Study} measures, {@link dev.fathom.bench.depth.Page} writes the page.
 */
package dev.fathom.bench.depth;
