package dev.fathom.golden;

import java.nio.ByteBuffer;

/** A tensor of a safetensors file: little-endian elements of the type that the file names. */
public record Tensor(String type, int elements, ByteBuffer data) {
    public byte[] bytes() {
        byte[] bytes = new byte[data.remaining()];
        data.get(data.position(), bytes);
        return bytes;
    }

    /** Element i, exactly. */
    public double get(int i) {
        int at = data.position();
        return switch (type) {
            case "F32" -> data.getFloat(at + 4 * i);
            case "BF16" -> Float.intBitsToFloat(data.getShort(at + 2 * i) << 16);
            case "F16" -> Float.float16ToFloat(data.getShort(at + 2 * i));
            case "F64" -> data.getDouble(at + 8 * i);
            case "I32" -> data.getInt(at + 4 * i);
            default -> throw new IllegalArgumentException(type + " is not a type of numbers in the golden files");
        };
    }

    /** Element i of an I32 or I64 tensor. */
    public long integer(int i) {
        return type.equals("I64") ? data.getLong(data.position() + 8 * i) : data.getInt(data.position() + 4 * i);
    }

    public double[] values() {
        double[] values = new double[elements];
        for (int i = 0; i < elements; i++) values[i] = get(i);
        return values;
    }
}
