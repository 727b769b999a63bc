/** Draws the committed results as one page, docs/performance.html. */
package dev.fathom.bench.charts;
