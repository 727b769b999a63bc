package dev.fathom.examples;

import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

import dev.fathom.DType;

/** Options that name a type of numbers. */
final class TypeOption {
    private TypeOption() {}

    /** The type that an option names, one of the legal ones; null if the option is not given. */
    static DType of(String option, String value, DType... legal) {
        if (value == null) return null;
        List<DType> types = List.of(legal);
        for (DType type : types) {
            if (name(type).equals(value.toLowerCase(Locale.ROOT))) return type;
        }
        String others = types.subList(0, types.size() - 1).stream().map(TypeOption::name)
                .collect(Collectors.joining(", "));
        throw new UserException(option + " must be " + others + " or " + name(types.getLast()) + ", got " + value + ".");
    }

    private static String name(DType type) {
        return type == DType.F8_E4M3 ? "f8" : type.name().toLowerCase(Locale.ROOT);
    }
}
