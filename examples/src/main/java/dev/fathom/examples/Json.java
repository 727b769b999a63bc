package dev.fathom.examples;

import java.io.IOException;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

/** JSON. What is read is of unknown origin: duplicate keys, deep nesting and great lengths are errors. */
final class Json {
    /** Enough for the header of a checkpoint of 100,000 tensors; bounds the memory that a hostile file can claim. */
    static final int MAX_BYTES = 16 << 20;

    private static final JsonMapper MAPPER = JsonMapper.builder(JsonFactory.builder()
                    .streamReadConstraints(StreamReadConstraints.builder()
                            .maxDocumentLength(MAX_BYTES)
                            .maxNestingDepth(32)
                            .maxNameLength(1024)
                            .maxStringLength(1 << 16)
                            .maxNumberLength(64)
                            .build())
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    private Json() {}

    /** The object that is the whole document. {@code name} begins the sentence of an error. */
    static ObjectNode object(String name, byte[] document) {
        JsonNode node;
        try {
            node = MAPPER.readTree(document);
        } catch (JsonProcessingException e) {
            String where = e.getLocation() == null ? "" : " at byte " + Math.max(0, e.getLocation().getByteOffset());
            throw new UserException(name + " is not valid JSON" + where + ": " + firstLine(e.getOriginalMessage())
                    + ".");
        } catch (IOException e) {
            throw new UserException(name + " is not valid JSON: " + firstLine(e.getMessage()) + ".");
        }
        if (!node.isObject()) throw new UserException(name + " must be a JSON object.");
        return (ObjectNode) node;
    }

    static byte[] bytes(JsonNode node) {
        try {
            return MAPPER.writeValueAsBytes(node);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e); // a tree of nodes has nothing that JSON lacks
        }
    }

    /** For people to read, with a line feed at the end. */
    static String text(JsonNode node) {
        return node.toPrettyString() + "\n";
    }

    private static String firstLine(String message) {
        String line = message.lines().findFirst().orElse("unreadable");
        return (line.length() > 200 ? line.substring(0, 200) + "..." : line).replaceAll("[\\p{Cntrl}]", "?");
    }
}
