package dev.fathom.examples;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.MissingNode;

/**
 * An object of config.json, or of another description, with typed access. Messages begin with {@code path}. A key it
 * lacks is looked up in {@code outer}; null counts as absent.
 */
record ConfigReader(JsonNode node, String path, ConfigReader outer) {
    ConfigReader(JsonNode node, String path) {
        this(node, path, null);
    }

    /** This object with another one behind it. */
    ConfigReader within(ConfigReader outer) {
        return new ConfigReader(node, path, outer);
    }

    private JsonNode value(String key) {
        JsonNode value = node.path(key);
        if (value.isNull()) value = MissingNode.getInstance();
        return value.isMissingNode() && outer != null ? outer.value(key) : value;
    }

    private UserException wrong(String key, String expected, JsonNode got) {
        String shown = got.isMissingNode() ? "nothing" : got.toString();
        return new UserException(path + key + " must be " + expected + ", got "
                + (shown.length() > 60 ? shown.substring(0, 60) + "..." : shown) + ".");
    }

    /** A whole number in 1..most; programs that write text for numbers are understood. */
    int integer(String key, int most) {
        JsonNode value = value(key);
        double number = value.isContainerNode() ? Double.NaN : value.asDouble(Double.NaN);
        if (!(number >= 1 && number <= most) || number != Math.rint(number)) {
            throw wrong(key, "a whole number in 1.." + most, value);
        }
        return (int) number;
    }

    int integer(String key, int otherwise, int most) {
        return has(key) ? integer(key, most) : otherwise;
    }

    /** Whole numbers in 1..most, each above the one before it. */
    List<Integer> integers(String key, int most) {
        JsonNode value = value(key);
        List<Integer> numbers = new ArrayList<>();
        int last = 0;
        for (JsonNode element : value) {
            double number = element.asDouble(Double.NaN);
            if (!(number > last && number <= most) || number != Math.rint(number)) break;
            last = (int) number;
            numbers.add(last);
        }
        if (value.isArray() && numbers.size() == value.size()) return List.copyOf(numbers);
        throw wrong(key, "a list of rising whole numbers in 1.." + most, value);
    }

    boolean has(String key) {
        return !value(key).isMissingNode();
    }

    double positive(String key, double otherwise) {
        return has(key) ? positive(key) : otherwise;
    }

    double positive(String key) {
        JsonNode value = value(key);
        double number = value.isContainerNode() ? Double.NaN : value.asDouble(Double.NaN);
        if (!(number > 0 && number < Float.MAX_VALUE)) throw wrong(key, "a positive number", value);
        return number;
    }

    boolean flag(String key, boolean otherwise) {
        JsonNode value = value(key);
        if (value.isMissingNode()) return otherwise;
        return switch (value.asText().toLowerCase(Locale.ROOT)) {
            case "true", "1", "yes", "on" -> true;
            case "false", "0", "no", "off" -> false;
            default -> throw wrong(key, "true or false", value);
        };
    }

    String text(String key, String otherwise) {
        return value(key).asText(otherwise);
    }

    String oneOf(String key, String otherwise, String... allowed) {
        String text = text(key, otherwise);
        if (!List.of(allowed).contains(text)) throw wrong(key, "one of " + String.join(", ", allowed), value(key));
        return text;
    }

    /** The object under the key, or null. */
    ConfigReader object(String key) {
        JsonNode value = value(key);
        if (value.isMissingNode()) return null;
        if (!value.isObject()) throw wrong(key, "an object", value);
        return new ConfigReader(value, path + key + ".");
    }

    /** The object under the key if it is switched on, else null. An object that does not say is on. */
    ConfigReader enabled(String key) {
        JsonNode value = value(key);
        if (!value.isMissingNode() && !value.isObject()) {
            if (!flag(key, false)) return null;
            throw wrong(key, "an object or false", value);
        }
        ConfigReader object = object(key);
        return object == null || !object.flag("enable", true) ? null : object;
    }
}
