package dev.fathom.bench;

/** bf16 in Java: the upper half of a float. */
final class Bf16 {
    private Bf16() {}

    /** To nearest even. */
    static void round(float[] from, short[] to) {
        for (int i = 0; i < from.length; i++) {
            int bits = Float.floatToRawIntBits(from[i]);
            to[i] = (short) (bits + 0x7fff + (bits >>> 16 & 1) >>> 16);
        }
    }

    static short[] of(float[] values) {
        short[] rounded = new short[values.length];
        round(values, rounded);
        return rounded;
    }

    static float toFloat(short bits) {
        return Float.intBitsToFloat(bits << 16);
    }
}
