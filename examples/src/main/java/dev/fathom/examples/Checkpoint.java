package dev.fathom.examples;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

import com.fasterxml.jackson.databind.JsonNode;

/**
 * The tensors of a model, from a GGUF file, a safetensors file or several with an index, which stay open until this is
 * closed. Remembers which were asked for.
 */
final class Checkpoint implements AutoCloseable {
    private static final String SINGLE = "model.safetensors";
    private static final String INDEX = "model.safetensors.index.json";

    private final Map<String, Tensor> tensors;
    private final Set<String> used = new HashSet<>();
    private final List<Contents> open = new ArrayList<>();

    Checkpoint(ModelFiles files) {
        try {
            if (files instanceof GgufModel gguf) tensors = readGguf(gguf);
            else tensors = F8Rows.join(readSafetensors(files));
        } catch (RuntimeException | Error e) {
            close();
            throw e;
        }
    }

    private Map<String, Tensor> readGguf(GgufModel gguf) {
        Contents contents = GgufModel.open(gguf.path());
        open.add(contents);
        Map<String, Tensor> tensors = new HashMap<>();
        for (Tensor tensor : gguf.tensors(contents)) tensors.put(tensor.name(), tensor);
        return tensors;
    }

    private Map<String, Tensor> readSafetensors(ModelFiles files) {
        Contents single = files.open(SINGLE);
        return single == null ? readShards(files) : read(files.describe(SINGLE), single);
    }

    private Map<String, Tensor> readShards(ModelFiles files) {
        byte[] index = files.read(INDEX, Json.MAX_BYTES);
        if (index == null) {
            throw new UserException(files.describe(SINGLE) + " does not exist, nor does " + INDEX + " beside it.");
        }
        JsonNode placed = Json.object(files.describe(INDEX), index).path("weight_map");
        if (!placed.isObject()) throw new UserException(files.describe(INDEX) + " has no object weight_map.");
        Map<String, Map<String, Tensor>> shards = new HashMap<>();
        Map<String, Tensor> tensors = new HashMap<>();
        for (Map.Entry<String, JsonNode> entry : placed.properties()) {
            String name = entry.getKey();
            String shard = entry.getValue().asText();
            if (!shard.matches("[A-Za-z0-9_-][A-Za-z0-9._-]*")) { // a plain file name cannot leave the directory
                throw new UserException(files.describe(INDEX) + " places " + name
                        + " in a file whose name is not allowed.");
            }
            Tensor tensor = shards.computeIfAbsent(shard, file -> readShard(files, file)).get(name);
            if (tensor == null) {
                throw new UserException(files.describe(shard) + " lacks tensor " + name + ", which " + INDEX
                        + " places there.");
            }
            tensors.put(name, tensor);
        }
        return tensors;
    }

    private Map<String, Tensor> readShard(ModelFiles files, String shard) {
        Contents contents = files.open(shard);
        if (contents == null) {
            throw new UserException(files.describe(shard) + " does not exist, " + INDEX + " names it.");
        }
        return read(files.describe(shard), contents);
    }

    private Map<String, Tensor> read(String name, Contents contents) {
        open.add(contents);
        return Safetensors.read(name, contents);
    }

    @Override
    public void close() {
        open.forEach(Contents::close);
    }

    Collection<Tensor> tensors() {
        return tensors.values();
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
}
