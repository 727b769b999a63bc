package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;

/**
 * The safetensors format: a 64-bit header length, a JSON header, the data. Nothing in the file is trusted: types,
 * shapes and offsets must agree with one another and with the file's size, and the tensors must cover the data exactly
 * once.
 */
final class Safetensors {
    /**
     * With the name of a quantised tensor behind it: the key of the metadata that has its type. The tensor is stored as
     * bytes, whose rows are rows of blocks.
     */
    static final String BLOCKS = "blocks.";
    private static final int MAX_DIMENSIONS = 8;

    private record Span(long begin, long end, Tensor tensor) {
        /** The tensor that is stored as these bytes. */
        Span ofBlocks(String fileName, String type) {
            long[] shape = tensor.shape().clone();
            int last = shape.length - 1;
            if (type.equals("Q8_0") || type.equals("Q4_0")) {
                Blocks format = Blocks.valueOf(type);
                if (tensor.dtype().equals("U8") && last >= 0 && shape[last] % format.bytes == 0) {
                    shape[last] = shape[last] / format.bytes * format.elements;
                    return new Span(begin, end, new Tensor(tensor.name(), type, shape, tensor.file(), tensor.offset(),
                            tensor.bytes()));
                }
            }
            throw new UserException(fileName + ": tensor " + tensor.name() + ", " + tensor.dtype() + " "
                    + Arrays.toString(tensor.shape()) + ", cannot hold blocks of type " + clip(type) + ".");
        }
    }

    private Safetensors() {}

    /** The tensors of a file by name; it must stay open for them. {@code fileName} begins each error. */
    static Map<String, Tensor> read(String fileName, Contents file) {
        long most = Math.min(file.bytes() - 8, Json.MAX_BYTES);
        if (most < 0) throw new UserException(fileName + " is too short for a safetensors file.");
        long length = ByteBuffer.wrap(bytes(file, 0, 8)).order(ByteOrder.LITTLE_ENDIAN).getLong();
        if (length < 2 || length > most) {
            throw new UserException(fileName + " claims a header of " + Long.toUnsignedString(length)
                    + " bytes, expected 2.." + Math.max(2, most) + ".");
        }
        JsonNode header = Json.object("The header of " + fileName, bytes(file, 8, (int) length));
        long begin = 8 + length;

        List<Span> spans = new ArrayList<>(header.size());
        for (Map.Entry<String, JsonNode> entry : header.properties()) {
            if (!entry.getKey().equals("__metadata__")) {
                Span span = span(fileName, entry.getKey(), entry.getValue(), file, begin);
                JsonNode blocks = header.path("__metadata__").path(BLOCKS + entry.getKey());
                spans.add(blocks.isMissingNode() ? span : span.ofBlocks(fileName, blocks.asText()));
            }
        }
        checkCover(fileName, spans, file.bytes() - begin);
        Map<String, Tensor> tensors = HashMap.newHashMap(spans.size());
        for (Span span : spans) tensors.put(span.tensor.name(), span.tensor);
        return tensors;
    }

    private static byte[] bytes(Contents file, long offset, int count) {
        byte[] bytes = new byte[count];
        file.read(offset, MemorySegment.ofArray(bytes));
        return bytes;
    }

    private static Span span(String fileName, String name, JsonNode entry, Contents file, long begin) {
        String where = fileName + ": tensor " + name;
        String dtype = entry.path("dtype").isTextual() ? entry.path("dtype").textValue() : "(none)";
        long[] shape = numbers(where + ": shape", entry.path("shape"), MAX_DIMENSIONS);
        long[] offsets = numbers(where + ": data_offsets", entry.path("data_offsets"), 2);
        if (offsets.length != 2 || offsets[0] > offsets[1] || offsets[1] > file.bytes() - begin) {
            throw new UserException(where + ": data_offsets must be a begin and an end in 0.." + (file.bytes() - begin)
                    + ", got " + entry.path("data_offsets") + ".");
        }
        long bits = bits(where, dtype);
        try {
            for (long size : shape) bits = Math.multiplyExact(bits, size);
        } catch (ArithmeticException e) {
            throw new UserException(where + ": shape " + entry.path("shape") + " is larger than any file.");
        }
        if (bits != (offsets[1] - offsets[0]) * 8) {
            throw new UserException(where + " needs " + bits / 8 + " bytes for " + dtype + " " + entry.path("shape")
                    + ", data_offsets give " + (offsets[1] - offsets[0]) + ".");
        }
        return new Span(offsets[0], offsets[1],
                new Tensor(name, dtype, shape, file, begin + offsets[0], offsets[1] - offsets[0]));
    }

    /** Non-negative integers, at most {@code most}. */
    private static long[] numbers(String what, JsonNode array, int most) {
        if (!array.isArray() || array.size() > most) {
            throw new UserException(what + " must be an array of at most " + most + " numbers.");
        }
        long[] values = new long[array.size()];
        for (int i = 0; i < values.length; i++) {
            JsonNode item = array.get(i);
            if (!item.isIntegralNumber() || !item.canConvertToLong() || item.longValue() < 0) {
                throw new UserException(what + " must hold integers of at least 0, got " + clip(item.toString()) + ".");
            }
            values[i] = item.longValue();
        }
        return values;
    }

    private static int bits(String where, String dtype) {
        return switch (dtype) {
            case "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0" -> 8;
            case "U16", "I16", "F16", "BF16" -> 16;
            case "U32", "I32", "F32" -> 32;
            case "U64", "I64", "F64", "C64" -> 64;
            case "F4" -> 4;
            case "F6_E2M3", "F6_E3M2" -> 6;
            default -> throw new UserException(where + " is of the unknown type " + clip(dtype) + ".");
        };
    }

    private static void checkCover(String fileName, List<Span> spans, long bytes) {
        spans.sort(Comparator.comparingLong(Span::begin).thenComparingLong(Span::end));
        long end = 0;
        for (Span span : spans) {
            if (span.begin != end) {
                throw new UserException(fileName + ": tensor " + span.tensor.name() + " begins at byte " + span.begin
                        + " of the data, expected " + end + ": tensors must neither overlap nor leave gaps.");
            }
            end = span.end;
        }
        if (end != bytes) {
            throw new UserException(fileName + ": the tensors end at byte " + end + " of the data, which has " + bytes
                    + ".");
        }
    }

    private static String clip(String text) {
        return text.length() > 40 ? text.substring(0, 40) + "..." : text;
    }
}
