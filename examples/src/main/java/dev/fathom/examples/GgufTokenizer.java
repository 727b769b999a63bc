package dev.fathom.examples;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * The tokenizer of a GGUF file as a tokenizer.json: byte-level BPE ({@code gpt2}) or the BPE of SentencePiece
 * ({@code llama}).
 */
final class GgufTokenizer {
    /** Types of tokens. */
    private static final int UNKNOWN = 2;
    private static final int CONTROL = 3;
    private static final int USER_DEFINED = 4;
    /** No piece of a known vocabulary is as long; bounds the work of looking for the parts of one. */
    private static final int MOST_PIECE = 256;
    private static final String SPACE = "\u2581";
    /** How Llama 3 and Qwen 2 split text into words; they differ in how many digits stay together. */
    private static final String WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|%s"
            + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    private final ConfigReader metadata;
    private final JsonNode tokens;
    private final JsonNode types;

    GgufTokenizer(ConfigReader metadata) {
        this.metadata = metadata;
        tokens = get("tokens");
        types = get("token_type");
    }

    private JsonNode get(String key) {
        return metadata.node().path("tokenizer.ggml." + key);
    }

    private String model() {
        return get("model").asText();
    }

    private String splitter() {
        return get("pre").asText("default");
    }

    /** Null: there is none, or it is of an unknown kind. */
    ObjectNode json() {
        if (tokens.isEmpty()) return null;
        ObjectNode root = JsonNodeFactory.instance.objectNode().put("version", "1.0");
        root.putNull("truncation").putNull("padding");
        ObjectNode model = root.putObject("model").put("type", "BPE").put("fuse_unk", true);
        model.putNull("dropout").putNull("continuing_subword_prefix").putNull("end_of_word_suffix");
        model.putNull("unk_token").put("ignore_merges", false);
        boolean known = switch (model()) {
            case "gpt2" -> putByteLevel(root, model);
            case "llama" -> putSentencePiece(root, model);
            default -> false;
        };
        if (!known) return null;
        ObjectNode vocabulary = model.putObject("vocab");
        for (int id = 0; id < tokens.size(); id++) {
            if (!vocabulary.has(tokens.get(id).asText())) vocabulary.put(tokens.get(id).asText(), id);
        }
        root.set("added_tokens", addedTokens());
        root.set("post_processor", postProcessor());
        return root;
    }

    /** Begins a sentence that says why there is none. */
    String without(Path path) {
        String kind = model().equals("gpt2") ? model() + " with the pre-tokenizer " + splitter() : model();
        return tokens.isEmpty() ? path + " has no tokenizer, there is no tokenizer.json beside it"
                : "The tokenizer of " + path + ", " + kind + ", is not known, there is no tokenizer.json beside it";
    }

    // ---- kinds ---------------------------------------------------------------------------------------------------

    private boolean putByteLevel(ObjectNode root, ObjectNode model) {
        ObjectNode words = byteLevel(false);
        ObjectNode first = switch (splitter()) {
            case "gpt-2" -> {
                words = byteLevel(true);
                yield null;
            }
            case "llama-bpe", "llama3", "llama-v3" -> split("\\p{N}{1,3}");
            case "qwen2" -> split("\\p{N}");
            case "smollm" -> {
                words = byteLevel(true);
                yield node("Digits").put("individual_digits", true);
            }
            default -> null;
        };
        if (first == null && !splitter().equals("gpt-2")) return false;
        if (first == null) root.set("pre_tokenizer", words);
        else root.putObject("pre_tokenizer").put("type", "Sequence").putArray("pretokenizers").add(first).add(words);
        if (splitter().equals("qwen2")) root.set("normalizer", node("NFC"));
        else root.putNull("normalizer");
        root.set("decoder", byteLevel(false));
        // Llama 3's vocabulary has words that its merges do not reach.
        model.put("byte_fallback", false).put("ignore_merges", splitter().matches("llama-bpe|llama3|llama-v3"));
        model.set("merges", get("merges").isArray() ? get("merges") : JsonNodeFactory.instance.arrayNode());
        return true;
    }

    private static ObjectNode byteLevel(boolean splits) {
        return node("ByteLevel").put("add_prefix_space", false).put("trim_offsets", false).put("use_regex", splits);
    }

    private static ObjectNode split(String digits) {
        ObjectNode split = node("Split").put("behavior", "Isolated").put("invert", false);
        split.putObject("pattern").put("Regex", WORDS.formatted(digits));
        return split;
    }

    private static ObjectNode node(String type) {
        return JsonNodeFactory.instance.objectNode().put("type", type);
    }

    private boolean putSentencePiece(ObjectNode root, ObjectNode model) {
        if (!get("scores").isArray() || get("scores").size() != tokens.size()) return false;
        boolean leadingSpace = metadata.flag("tokenizer.ggml.add_space_prefix", true);
        ArrayNode normalizers = root.putObject("normalizer").put("type", "Sequence").putArray("normalizers");
        if (leadingSpace) normalizers.add(node("Prepend").put("prepend", SPACE));
        normalizers.add(replace(" ", SPACE));
        root.putNull("pre_tokenizer");
        ArrayNode decoders = root.putObject("decoder").put("type", "Sequence").putArray("decoders");
        decoders.add(replace(SPACE, " ")).add(node("ByteFallback")).add(node("Fuse"));
        if (leadingSpace) decoders.add(node("Strip").put("content", " ").put("start", 1).put("stop", 0));
        model.put("byte_fallback", true);
        for (int id = 0; id < tokens.size(); id++) {
            if (type(id) == UNKNOWN) model.put("unk_token", tokens.get(id).asText());
        }
        model.set("merges", mergesByScore());
        return true;
    }

    private static ObjectNode replace(String what, String by) {
        ObjectNode replace = node("Replace").put("content", by);
        replace.putObject("pattern").put("String", what);
        return replace;
    }

    private record Merge(String left, String right, double score) {}

    /** Every way to make a piece of two, the pieces of the best scores first. */
    private ArrayNode mergesByScore() {
        Map<String, Integer> ids = HashMap.newHashMap(tokens.size());
        for (int id = 0; id < tokens.size(); id++) ids.putIfAbsent(tokens.get(id).asText(), id);
        List<Merge> merges = new ArrayList<>();
        ids.forEach((piece, id) -> {
            if (piece.length() > MOST_PIECE) return;
            double score = get("scores").get(id).asDouble();
            for (int end = 1; end < piece.length(); end++) {
                String left = piece.substring(0, end);
                String right = piece.substring(end);
                if (ids.containsKey(left) && ids.containsKey(right)) merges.add(new Merge(left, right, score));
            }
        });
        // Of equal scores the piece that comes first, which is the one that it was trained to prefer.
        merges.sort(Comparator.comparingDouble((Merge merge) -> -merge.score)
                .thenComparingInt(merge -> ids.get(merge.left + merge.right)).thenComparingInt(m -> -m.left.length()));
        ArrayNode array = JsonNodeFactory.instance.arrayNode();
        for (Merge merge : merges) array.addArray().add(merge.left).add(merge.right);
        return array;
    }

    // ---- special tokens ------------------------------------------------------------------------------------------

    private int type(int id) {
        return types.path(id).asInt(1);
    }

    /** Tokens that text is searched for before anything else. */
    private ArrayNode addedTokens() {
        ArrayNode added = JsonNodeFactory.instance.arrayNode();
        for (int id = 0; id < tokens.size(); id++) {
            int type = type(id);
            String token = tokens.get(id).asText();
            if (type != CONTROL && type != USER_DEFINED && type != UNKNOWN || token.isEmpty()) continue;
            added.addObject().put("id", id).put("content", token).put("single_word", false)
                    .put("lstrip", false).put("rstrip", false).put("normalized", false)
                    .put("special", type != USER_DEFINED);
        }
        return added;
    }

    /** Puts a token before the text, one behind it, or neither, as the file says. */
    private ObjectNode postProcessor() {
        boolean usual = !model().equals("gpt2") || splitter().matches("llama-bpe|llama3|llama-v3");
        ObjectNode template = node("TemplateProcessing");
        ArrayNode single = template.putArray("single");
        ObjectNode special = JsonNodeFactory.instance.objectNode();
        if (metadata.flag("tokenizer.ggml.add_bos_token", usual)) putToken("bos", single, special);
        single.addObject().putObject("Sequence").put("id", "A").put("type_id", 0);
        if (metadata.flag("tokenizer.ggml.add_eos_token", false)) putToken("eos", single, special);
        ArrayNode pair = single.deepCopy();
        pair.addObject().putObject("Sequence").put("id", "B").put("type_id", 1);
        template.set("pair", pair);
        template.set("special_tokens", special);
        return template;
    }

    private void putToken(String kind, ArrayNode sequence, ObjectNode special) {
        int id = get(kind + "_token_id").asInt(-1);
        if (id < 0 || id >= tokens.size()) return;
        String token = tokens.get(id).asText();
        sequence.addObject().putObject("SpecialToken").put("id", token).put("type_id", 0);
        ObjectNode described = special.putObject(token).put("id", token);
        described.putArray("ids").add(id);
        described.putArray("tokens").add(token);
    }
}
