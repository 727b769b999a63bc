package dev.fathom.examples;

import com.fasterxml.jackson.databind.JsonNode;

/** Inverse frequencies of rotary positions, with the rescalings that Llama checkpoints use. */
final class RopeFrequencies {
    private RopeFrequencies() {}

    /**
     * One frequency per rotated pair. {@code scaling} is the object rope_parameters or rope_scaling, or a missing node.
     */
    static float[] of(double theta, int rotaryDim, JsonNode scaling) {
        String type = scaling.path("rope_type").asText(scaling.path("type").asText("default"));
        double factor = type.equals("default") || type.equals("factors") ? 1 : number(scaling, "factor");
        float[] frequencies = new float[rotaryDim / 2];
        for (int i = 0; i < frequencies.length; i++) {
            double frequency = Math.pow(theta, -2.0 * i / rotaryDim);
            frequencies[i] = (float) switch (type) {
                case "default" -> frequency;
                case "linear" -> frequency / factor;
                case "llama3" -> llama3(frequency, factor, scaling);
                case "factors" -> frequency / factor(scaling.path("factors"), i, frequencies.length);
                default -> throw new UserException("config.json: rope type " + type + " is not supported;"
                        + " default, linear, llama3 and factors are.");
            };
        }
        return frequencies;
    }

    /** Long waves are slowed down by the factor, short ones kept, those between blended. */
    private static double llama3(double frequency, double factor, JsonNode scaling) {
        double low = number(scaling, "low_freq_factor");
        double high = number(scaling, "high_freq_factor");
        double turns = number(scaling, "original_max_position_embeddings") * frequency / (2 * Math.PI);
        double kept = Math.clamp((turns - low) / (high - low), 0.0, 1.0);
        return (1 - kept) * frequency / factor + kept * frequency;
    }

    /** Of a pair, from a list with one for each. */
    private static double factor(JsonNode factors, int pair, int pairs) {
        double factor = factors.path(pair).asDouble(Double.NaN);
        if (factors.size() != pairs || !(factor > 0) || Double.isInfinite(factor)) {
            throw new UserException("config.json: rope factors must be " + pairs + " positive numbers.");
        }
        return factor;
    }

    private static double number(JsonNode scaling, String key) {
        double value = scaling.path(key).asDouble(Double.NaN);
        if (!(value > 0) || Double.isInfinite(value)) {
            throw new UserException("config.json: rope scaling needs a positive number " + key + ", got "
                    + scaling.path(key) + ".");
        }
        return value;
    }
}
