package dev.fathom.examples;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

import com.fasterxml.jackson.databind.JsonNode;

/** The tensors of a model, from one safetensors file or several with an index. Remembers which were asked for. */
final class Checkpoint {
    private static final String SINGLE = "model.safetensors";
    private static final String INDEX = "model.safetensors.index.json";

    private final Map<String, Tensor> tensors;
    private final Set<String> used = new HashSet<>();

    private Checkpoint(Map<String, Tensor> tensors) {
        this.tensors = tensors;
    }

    /** The tensors live as long as {@code arena}. */
    static Checkpoint open(ModelFiles files, Arena arena) {
        MemorySegment single = files.open(SINGLE, arena);
        if (single != null) return new Checkpoint(Safetensors.read(files.describe(SINGLE), single));
        MemorySegment index = files.open(INDEX, arena);
        if (index == null) {
            throw new UserException(files.describe(SINGLE) + " does not exist, nor does " + INDEX + " beside it.");
        }
        return new Checkpoint(shards(files, Json.object(files.describe(INDEX), index).path("weight_map"), arena));
    }

    private static Map<String, Tensor> shards(ModelFiles files, JsonNode placed, Arena arena) {
        if (!placed.isObject()) throw new UserException(files.describe(INDEX) + " has no object weight_map.");
        Map<String, Map<String, Tensor>> shards = new HashMap<>();
        Map<String, Tensor> tensors = HashMap.newHashMap(placed.size());
        for (Map.Entry<String, JsonNode> entry : placed.properties()) {
            String name = entry.getKey();
            String shard = entry.getValue().asText();
            if (!shard.matches("[A-Za-z0-9_-][A-Za-z0-9._-]*")) { // a plain file name cannot leave the directory
                throw new UserException(files.describe(INDEX) + " places " + name
                        + " in a file whose name is not allowed.");
            }
            Tensor tensor = shards.computeIfAbsent(shard, file -> readShard(files, file, arena)).get(name);
            if (tensor == null) {
                throw new UserException(files.describe(shard) + " lacks tensor " + name + ", which " + INDEX
                        + " places there.");
            }
            tensors.put(name, tensor);
        }
        return tensors;
    }

    private static Map<String, Tensor> readShard(ModelFiles files, String shard, Arena arena) {
        MemorySegment contents = files.open(shard, arena);
        if (contents == null) {
            throw new UserException(files.describe(shard) + " does not exist, " + INDEX + " names it.");
        }
        return Safetensors.read(files.describe(shard), contents);
    }

    boolean has(String name) {
        return tensors.containsKey(name);
    }

    boolean hasUnder(String prefix) {
        return tensors.keySet().stream().anyMatch(name -> name.startsWith(prefix));
    }

    /** The largest number that follows the prefix in a name; -1 if there is none. */
    int largestIndex(String prefix) {
        int largest = -1;
        for (String name : tensors.keySet()) {
            int end = name.indexOf('.', prefix.length());
            if (!name.startsWith(prefix) || end < 0) continue;
            String index = name.substring(prefix.length(), end);
            if (index.matches("[0-9]{1,5}")) largest = Math.max(largest, Integer.parseInt(index));
        }
        return largest;
    }

    /** The tensor without asking for it; null if there is none of the name. */
    Tensor peek(String name) {
        return tensors.get(name);
    }

    /** The tensor, checked to be of the shape; null if there is none of the name. */
    Tensor find(String name, long... shape) {
        Tensor tensor = tensors.get(name);
        if (tensor == null) return null;
        if (!tensor.hasShape(shape)) {
            throw new UserException("Tensor " + name + " has shape " + Arrays.toString(tensor.shape())
                    + ", config.json calls for " + Arrays.toString(shape) + ".");
        }
        used.add(name);
        return tensor;
    }

    Tensor get(String name, long... shape) {
        Tensor tensor = find(name, shape);
        if (tensor == null) throw new UserException("Tensor " + name + " is missing from the checkpoint.");
        return tensor;
    }

    /** The tensor under each of the names that has one; at least one must. Tied copies are one weight. */
    List<Tensor> copies(List<String> names, long... shape) {
        List<Tensor> found = new ArrayList<>();
        for (String name : names) {
            Tensor tensor = find(name, shape);
            if (tensor != null) found.add(tensor);
        }
        if (found.isEmpty()) get(names.getFirst(), shape);
        return found;
    }

    /** Rotary frequencies that old checkpoints store are computed; anything else unread would be lost silently. */
    void requireAllRead() {
        Set<String> names = new TreeSet<>(tensors.keySet());
        names.removeAll(used);
        for (String name : names) {
            if (!name.endsWith("rotary_emb.inv_freq")) {
                throw new UserException("Tensor " + name + " has no place in the model that config.json describes.");
            }
        }
    }

    /** Elements of all tensors that were asked for. */
    long parameters() {
        return used.stream().mapToLong(name -> tensors.get(name).elements()).sum();
    }

    /** Whether all floating-point weights have 16 bits. */
    boolean isHalfPrecision() {
        return tensors.values().stream().noneMatch(tensor -> tensor.dtype().equals("F32"));
    }
}
