package dev.fathom.examples;

import java.util.ArrayList;
import java.util.List;

/** A text as its tokens come in, with the depth of every piece. Shown from the moment {@link #writeTo} is called. */
final class Transcript {
    private final TextCodec.Decoder decoder;
    private final int promptTokens;
    private final int depths;
    private final boolean coloured;
    private final List<DepthPage.Piece> pieces = new ArrayList<>();
    private Output out;
    private int tokens;
    private long passes;
    /** Deepest token since the last complete character, and the last token. */
    private int pending;
    private int last;

    Transcript(TextCodec.Decoder decoder, int promptTokens, int depths, boolean coloured) {
        this.decoder = decoder;
        this.promptTokens = promptTokens;
        this.depths = depths;
        this.coloured = coloured;
    }

    void token(int id, int depth) {
        tokens++;
        passes += depth;
        last = depth;
        pending = Math.max(pending, depth);
        add(decoder.accept(id));
    }

    /** No token follows. What is left is of the last one, which may have completed another character too. */
    void end() {
        pending = Math.max(pending, last);
        add(decoder.end());
    }

    private void add(String text) {
        if (text.isEmpty()) return;
        pieces.add(new DepthPage.Piece(text, pending, tokens <= promptTokens));
        pending = 0;
        if (out != null) show(pieces.getLast());
    }

    /** Writes what is there, and from now on every piece as it comes. */
    void writeTo(Output stream) {
        if (out != null) return;
        out = stream;
        pieces.forEach(this::show);
    }

    private void show(DepthPage.Piece piece) {
        String text = Terminal.printable(piece.text());
        out.print(coloured ? DepthPalette.terminal(piece.depth(), depths) + text + DepthPalette.RESET : text);
        out.flush();
    }

    List<DepthPage.Piece> pieces() {
        return pieces;
    }

    int tokens() {
        return tokens;
    }

    long passes() {
        return passes;
    }
}
