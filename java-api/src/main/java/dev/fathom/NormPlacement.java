package dev.fathom;

/**
 * Where norms stand around a sub-layer f:
 * {@code x = PRE ? norm(h) : h; y = f(x); BRANCH: y = norm(y); h += y; POST: h = norm(h)}.
 */
public enum NormPlacement {
    PRE,
    BRANCH,
    POST
}
