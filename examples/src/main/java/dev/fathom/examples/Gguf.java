package dev.fathom.examples;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * The GGUF format, versions 2 and 3: typed metadata, descriptions of tensors, the data. Nothing in the file is trusted:
 * counts must be such as its bytes can hold, and tensors must lie in the data without overlap.
 *
 * @param metadata by key; of arrays only those of the tokenizer have elements
 */
record Gguf(ObjectNode metadata, List<Info> tensors) {
    private static final int MAGIC = 'G' | 'G' << 8 | 'U' << 16 | 'F' << 24;
    /** Of all that comes before the data. The largest vocabularies take some ten million. */
    private static final long MOST_HEADER_BYTES = 256 << 20;
    private static final int MOST_ELEMENTS = 1 << 22;
    private static final int MOST_NAME_BYTES = (1 << 16) - 1;
    private static final int MOST_DIMENSIONS = 4;
    private static final int MOST_ALIGNMENT = 1 << 16;
    /** Arrays of arrays. */
    private static final int MOST_NESTING = 4;
    private static final Set<String> KEPT_ARRAYS = Set.of("tokenizer.ggml.tokens", "tokenizer.ggml.merges",
            "tokenizer.ggml.scores", "tokenizer.ggml.token_type");
    /** The names of ggml's types by their codes; null: there is none. */
    private static final String[] TYPES = {"F32", "F16", "Q4_0", "Q4_1", null, null, "Q5_0", "Q5_1", "Q8_0", "Q8_1",
        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
        "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"};

    /** A tensor, its sizes outermost first, at {@code offset} of the file. */
    record Info(String name, String type, long[] shape, long offset, long bytes) {
        Tensor in(Contents file) {
            if (!type.equals("Q4_1") && !type.equals("Q6_K")) {
                return new Tensor(name, type, shape, file, offset, bytes);
            }
            Blocks format = Blocks.valueOf(type);
            Contents decoded = new DecodedBlocks(file, format, offset, bytes / format.bytes * format.elements);
            return new Tensor(name, type, shape, decoded, 0, decoded.bytes());
        }
    }

    /** {@code fileName} begins each error. */
    static Gguf read(String fileName, Contents file) {
        return new Reader(fileName, file).read();
    }

    private static final class Reader {
        private final String fileName;
        private final Contents file;
        /** The end of what may be read. */
        private final long end;
        private final byte[] bytes = new byte[1 << 16];
        private final MemorySegment window = MemorySegment.ofArray(bytes);
        private long windowBegin;
        private int windowBytes;
        private long at;

        Reader(String fileName, Contents file) {
            this.fileName = fileName;
            this.file = file;
            end = Math.min(file.bytes(), MOST_HEADER_BYTES);
        }

        private UserException wrong(String what) {
            return new UserException(fileName + ": " + what + ".");
        }

        Gguf read() {
            if (end < 8 || u32() != MAGIC) throw new UserException(fileName + " is not a GGUF file.");
            int version = u32();
            if (version != 2 && version != 3) {
                throw wrong("GGUF version " + Integer.toUnsignedString(version) + " cannot be read, 2 and 3 can");
            }
            long tensors = count("tensors", u64(), 24);
            long keys = count("keys", u64(), 12);
            ObjectNode metadata = JsonNodeFactory.instance.objectNode();
            for (long i = 0; i < keys; i++) {
                String key = name("a key");
                JsonNode value = value(key, u32(), MOST_NESTING);
                if (metadata.replace(key, value) != null) throw wrong("key " + key + " is there twice");
            }
            List<Info> infos = new ArrayList<>();
            for (long i = 0; i < tensors; i++) infos.add(info());
            return new Gguf(metadata, placed(infos, dataBegin(metadata)));
        }

        // ---- tensors ---------------------------------------------------------------------------------------------

        /** With an offset within the data. */
        private Info info() {
            String name = name("a tensor's name");
            String where = "tensor " + name;
            int dimensions = u32();
            if (dimensions < 1 || dimensions > MOST_DIMENSIONS) {
                throw wrong(where + " has " + Integer.toUnsignedString(dimensions) + " dimensions, expected 1.."
                        + MOST_DIMENSIONS);
            }
            long[] shape = new long[dimensions];
            for (int i = dimensions - 1; i >= 0; i--) shape[i] = u64();
            int code = u32();
            String type = code >= 0 && code < TYPES.length ? TYPES[code] : null;
            long bytes = bytes(where, type == null ? "ggml's number " + Integer.toUnsignedString(code) : type, shape);
            return new Info(name, type, shape, u64(), bytes);
        }

        private long bytes(String where, String type, long[] shape) {
            int block = 1;
            int blockBytes;
            switch (type) {
                case "F32" -> blockBytes = 4;
                case "F16", "BF16" -> blockBytes = 2;
                case "Q8_0", "Q4_0", "Q4_1", "Q6_K" -> {
                    block = Blocks.valueOf(type).elements;
                    blockBytes = Blocks.valueOf(type).bytes;
                }
                default -> throw wrong(where + " is of type " + type
                        + ", which is not supported; F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K are");
            }
            try {
                long elements = 1;
                for (long size : shape) {
                    if (size < 1) throw wrong(where + " has a size of " + Long.toUnsignedString(size));
                    elements = Math.multiplyExact(elements, size);
                }
                if (shape[shape.length - 1] % block != 0) {
                    throw wrong(where + " has rows of " + shape[shape.length - 1] + " elements, expected a multiple of "
                            + block + " for " + type);
                }
                return Math.multiplyExact(elements / block, blockBytes);
            } catch (ArithmeticException e) {
                throw wrong(where + " is larger than any file");
            }
        }

        private long dataBegin(ObjectNode metadata) {
            int alignment = new ConfigReader(metadata, fileName + ": ").integer("general.alignment", 32,
                    MOST_ALIGNMENT);
            if (Integer.bitCount(alignment) != 1) {
                throw wrong("general.alignment must be a power of two, got " + alignment);
            }
            return Math.ceilDiv(at, alignment) * alignment;
        }

        /** With offsets within the file. */
        private List<Info> placed(List<Info> infos, long begin) {
            long size = Math.max(0, file.bytes() - begin);
            Set<String> names = new HashSet<>();
            for (Info info : infos) {
                if (!names.add(info.name)) throw wrong("tensor " + info.name + " is there twice");
                if (info.offset < 0 || info.bytes > size || info.offset > size - info.bytes) {
                    throw wrong("tensor " + info.name + " takes " + info.bytes + " bytes from byte "
                            + Long.toUnsignedString(info.offset) + " of the data on, which has " + size);
                }
            }
            List<Info> sorted = infos.stream().sorted(Comparator.comparingLong(Info::offset)).toList();
            for (int i = 1; i < sorted.size(); i++) {
                Info before = sorted.get(i - 1);
                if (sorted.get(i).offset < before.offset + before.bytes) {
                    throw wrong("tensors " + before.name + " and " + sorted.get(i).name + " overlap");
                }
            }
            return sorted.stream().map(info ->
                    new Info(info.name, info.type, info.shape, begin + info.offset, info.bytes)).toList();
        }

        // ---- values ----------------------------------------------------------------------------------------------

        private JsonNode value(String key, int type, int nesting) {
            JsonNodeFactory nodes = JsonNodeFactory.instance;
            return switch (type) {
                case 0 -> nodes.numberNode(Byte.toUnsignedInt(u8()));
                case 1 -> nodes.numberNode(u8());
                case 2 -> nodes.numberNode(Short.toUnsignedInt(u16()));
                case 3 -> nodes.numberNode(u16());
                case 4 -> nodes.numberNode(Integer.toUnsignedLong(u32()));
                case 5 -> nodes.numberNode(u32());
                case 6 -> nodes.numberNode(Float.intBitsToFloat(u32()));
                case 7 -> nodes.booleanNode(u8() != 0);
                case 8 -> nodes.textNode(new String(text(u64()), StandardCharsets.UTF_8));
                case 9 -> array(key, nesting);
                case 10 -> nodes.numberNode(new BigInteger(Long.toUnsignedString(u64())));
                case 11 -> nodes.numberNode(u64());
                case 12 -> nodes.numberNode(Double.longBitsToDouble(u64()));
                default -> throw wrong("key " + key + " is of the unknown type " + Integer.toUnsignedString(type));
            };
        }

        /** Elements that are not kept are read all the same: what follows them begins where they end. */
        private ArrayNode array(String key, int nesting) {
            if (nesting == 0) throw wrong("key " + key + " nests arrays too deeply");
            int type = u32();
            long elements = count("elements of " + key, u64(), 1);
            boolean kept = KEPT_ARRAYS.contains(key);
            if (kept && elements > MOST_ELEMENTS) {
                throw wrong("key " + key + " has " + elements + " elements, the limit is " + MOST_ELEMENTS);
            }
            ArrayNode array = JsonNodeFactory.instance.arrayNode();
            for (long i = 0; i < elements; i++) {
                JsonNode element = value(key, type, nesting - 1);
                if (kept) array.add(element);
            }
            return array;
        }

        /** A claimed count of things that take so many bytes each at least. */
        private long count(String what, long claimed, int leastBytes) {
            if (claimed < 0 || claimed > (end - at) / leastBytes) {
                throw wrong("the file claims " + Long.toUnsignedString(claimed) + " " + what
                        + ", more than its bytes can hold");
            }
            return claimed;
        }

        private String name(String what) {
            long length = u64();
            if (length < 0 || length > MOST_NAME_BYTES) {
                throw wrong(what + " has " + Long.toUnsignedString(length) + " bytes, the limit is " + MOST_NAME_BYTES);
            }
            try {
                return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(text(length))).toString();
            } catch (CharacterCodingException e) {
                throw wrong(what + " is not UTF-8");
            }
        }

        private byte[] text(long length) {
            count("bytes of text", length, 1);
            byte[] text = new byte[(int) length];
            for (int done = 0; done < text.length;) {
                int offset = need(1);
                int some = Math.min(text.length - done, windowBytes - offset);
                System.arraycopy(bytes, offset, text, done, some);
                at += some;
                done += some;
            }
            return text;
        }

        private byte u8() {
            return window.get(ValueLayout.JAVA_BYTE, take(1));
        }

        private short u16() {
            return window.get(ValueLayout.JAVA_SHORT_UNALIGNED, take(2));
        }

        private int u32() {
            return window.get(ValueLayout.JAVA_INT_UNALIGNED, take(4));
        }

        private long u64() {
            return window.get(ValueLayout.JAVA_LONG_UNALIGNED, take(8));
        }

        private int take(int count) {
            int offset = need(count);
            at += count;
            return offset;
        }

        /** Where in the window the next {@code count} bytes are. */
        private int need(int count) {
            if (count > end - at) {
                throw wrong(end < file.bytes() ? "what comes before the data has more than " + MOST_HEADER_BYTES
                        + " bytes" : "the file ends early, at byte " + end);
            }
            if (at + count > windowBegin + windowBytes) {
                windowBegin = at;
                windowBytes = (int) Math.min(bytes.length, end - at);
                file.read(at, window.asSlice(0, windowBytes));
            }
            return (int) (at - windowBegin);
        }
    }
}
