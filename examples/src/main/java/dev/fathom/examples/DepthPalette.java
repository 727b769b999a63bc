package dev.fathom.examples;

/** A colour per depth, cold to warm, that reads on dark and light ground. */
final class DepthPalette {
    private static final int[] XTERM = {67, 71, 178, 208, 167, 133};
    private static final String[] CSS = {"#5f87af", "#4f9d4f", "#c8a000", "#e07b1a", "#cc4a4a", "#a653a6"};
    static final String RESET = "\u001b[0m";

    private DepthPalette() {}

    /** Switches a terminal to the colour of a token that took {@code depth} of {@code most} passes. */
    static String terminal(int depth, int most) {
        return "\u001b[38;5;" + XTERM[step(depth, most)] + "m";
    }

    static String css(int depth, int most) {
        return CSS[step(depth, most)];
    }

    /** Few depths are spread over the palette, many share colours. */
    private static int step(int depth, int most) {
        int last = XTERM.length - 1;
        if (most <= 1) return 0;
        return most <= 3 ? (depth - 1) * 2 : (depth - 1) * last / (most - 1);
    }
}
