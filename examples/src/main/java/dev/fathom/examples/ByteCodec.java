package dev.fathom.examples;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** A token is a byte of UTF-8. */
final class ByteCodec implements TextCodec {
    @Override
    public int[] encode(byte[] text) {
        int[] ids = new int[text.length];
        for (int i = 0; i < ids.length; i++) ids[i] = Byte.toUnsignedInt(text[i]);
        return ids;
    }

    @Override
    public boolean isBytes() {
        return true;
    }

    @Override
    public Decoder decoder() {
        return new Utf8();
    }

    private static final class Utf8 implements Decoder {
        private final CharsetDecoder utf8 = StandardCharsets.UTF_8.newDecoder()
                .onMalformedInput(CodingErrorAction.REPLACE)
                .onUnmappableCharacter(CodingErrorAction.REPLACE);
        private final ByteBuffer pending = ByteBuffer.allocate(8);
        private final CharBuffer out = CharBuffer.allocate(16);

        @Override
        public String accept(int token) {
            pending.put((byte) token);
            return decode(false);
        }

        @Override
        public String end() {
            return decode(true);
        }

        private String decode(boolean end) {
            utf8.decode(pending.flip(), out, end);
            pending.compact();
            String text = out.flip().toString();
            out.clear();
            return text;
        }
    }
}
