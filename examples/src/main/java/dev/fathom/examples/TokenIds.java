package dev.fathom.examples;

import java.nio.charset.StandardCharsets;
import java.util.StringTokenizer;

/** Token ids as text, with white space between them. */
final class TokenIds {
    private TokenIds() {}

    static int[] parse(byte[] text, int vocabulary) {
        StringTokenizer words = new StringTokenizer(new String(text, StandardCharsets.ISO_8859_1));
        int[] ids = new int[words.countTokens()];
        for (int i = 0; i < ids.length; i++) {
            String word = words.nextToken();
            try {
                ids[i] = Integer.parseInt(word);
            } catch (NumberFormatException e) {
                ids[i] = -1;
            }
            if (ids[i] < 0 || ids[i] >= vocabulary) {
                throw new UserException("Token id " + (i + 1) + " must be in 0.." + (vocabulary - 1) + ", got "
                        + (word.length() > 40 ? word.substring(0, 40) + "..." : word) + ".");
            }
        }
        return ids;
    }
}
