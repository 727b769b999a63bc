package dev.fathom.depth;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.KvShape;

class KvCacheTest {
    private final Context context = Context.cpu(1);
    private final Arena arena = Arena.ofConfined();

    @AfterEach
    void close() {
        arena.close();
        context.close();
    }

    private KvCache cache(int pages, int sequences, int lists, int tokens) {
        return new KvCache(context, arena, new KvShape(2, 1, 16, DType.F32, pages * 64L), sequences, lists, tokens);
    }

    @Test
    void appendedItemsFillPagesInOrder() {
        KvCache cache = cache(8, 2, 2, 200);
        for (int i = 0; i < 130; i++) {
            for (int list = 0; list < 2; list++) {
                int entry = cache.append(1, list, i);
                assertEquals(i % 64, entry % 64);
                if (i % 64 > 0) assertEquals(cache.entry(1, list, i - 1) + 1, entry);
                assertEquals(entry, cache.entries().getInt(cache.start(1, list) + i));
            }
        }
        assertEquals(130, cache.length(1, 1));
        assertEquals(0, cache.length(0, 1));
        assertEquals(2, cache.freePages());
        assertEquals(2 * 130, cache.liveEntries());
        assertEquals(cache.poolBytes() / 512, cache.liveBytes() / cache.liveEntries());
        assertEquals(cache.poolBytes() / 8 * 6, cache.heldBytes());
    }

    @Test
    void rewindGoesByPosition() {
        KvCache cache = cache(4, 1, 2, 100);
        for (int p = 0; p < 20; p++) cache.append(0, 0, p);
        for (int p = 1; p < 20; p += 3) cache.append(0, 1, p); // 1 4 7 10 13 16 19
        cache.rewind(0, 10);
        assertEquals(10, cache.length(0, 0));
        assertEquals(3, cache.length(0, 1));
        cache.rewind(0, 0);
        assertEquals(4, cache.freePages());
        assertEquals(0, cache.liveBytes());
    }

    @Test
    void aliasedEntryOutlivesItsList() {
        KvCache cache = cache(3, 1, 2, 100);
        int first = cache.append(0, 0, 0);
        int second = cache.append(0, 0, 1);
        cache.alias(0, 1, second);
        assertEquals(2, cache.liveEntries());
        cache.truncate(0, 0, 1);
        assertEquals(second, cache.entry(0, 1, 0));
        int again = cache.append(0, 0, 1);
        assertFalse(again == second, "an entry that is seen elsewhere must not be written again");
        assertEquals(1, again % 64);
        cache.truncate(0, 1, 0);
        assertEquals(2, cache.liveEntries());
        assertEquals(first, cache.entry(0, 0, 0));
        assertThrows(IllegalArgumentException.class, () -> cache.alias(0, 1, second));
    }

    @Test
    void forkedSequencesGoOnApart() {
        KvCache cache = cache(6, 2, 1, 200);
        for (int p = 0; p < 70; p++) cache.append(0, 0, p);
        cache.fork(0, 1);
        assertEquals(70, cache.liveEntries());
        int mine = cache.append(0, 0, 70);
        int theirs = cache.append(1, 0, 70);
        assertFalse(mine == theirs);
        assertEquals(70 % 64, mine % 64);
        assertEquals(70 % 64, theirs % 64);
        cache.rewind(0, 0);
        for (int i = 0; i < 70; i++) assertTrue(cache.entry(1, 0, i) >= 0);
        assertEquals(71, cache.liveEntries());
        assertThrows(IllegalArgumentException.class, () -> cache.fork(0, 1));
    }

    @Test
    void refusedRequestsChangeNothing() {
        KvCache cache = cache(1, 1, 2, 70);
        for (int p = 0; p < 64; p++) cache.append(0, 0, p);
        String full = assertThrows(CapacityException.class, () -> cache.append(0, 0, 64)).getMessage();
        assertEquals("all 1 pages of K,V are in use", full);
        assertThrows(CapacityException.class, () -> cache.append(0, 1, 0));
        assertEquals(64, cache.length(0, 0));
        assertEquals(0, cache.length(0, 1));
        for (int p = 0; p < 64; p++) cache.alias(0, 1, cache.entry(0, 0, p));
        cache.rewind(0, 63);
        String order = assertThrows(IllegalArgumentException.class, () -> cache.append(0, 0, 62)).getMessage();
        assertEquals("position must be above 62, got 62", order);
        KvCache small = cache(4, 1, 1, 3);
        for (int p = 0; p < 3; p++) small.append(0, 0, p);
        assertThrows(CapacityException.class, () -> small.append(0, 0, 3));
        assertThrows(IllegalArgumentException.class, () -> small.append(1, 0, 3));
        assertThrows(IllegalArgumentException.class, () -> small.append(0, 1, 3));
        assertThrows(IllegalArgumentException.class, () -> small.truncate(0, 0, 4));
        assertThrows(IllegalArgumentException.class, () -> small.alias(0, 0, 256));
    }

    /**
     * Random operations against lists of numbered tokens: no entry serves two tokens, none is lost, all pages return.
     */
    @Test
    void randomOperationsKeepTheBooks() {
        SplittableRandom random = new SplittableRandom(7);
        int sequences = 3;
        int lists = 2;
        int tokens = 150;
        KvCache cache = cache(9, sequences, lists, tokens);
        List<List<Integer>> model = new ArrayList<>(); // the tokens of each list
        for (int i = 0; i < sequences * lists; i++) model.add(new ArrayList<>());
        Map<Integer, Integer> tokenOf = new HashMap<>(); // by entry; overwritten when an entry is used again
        int next = 0;
        for (int round = 0; round < 4000; round++) {
            int sequence = random.nextInt(sequences);
            int list = random.nextInt(lists);
            List<Integer> own = model.get(sequence * lists + list);
            int last = own.isEmpty() ? -1 : cache.positions().getInt(cache.entry(sequence, list, own.size() - 1));
            switch (random.nextInt(10)) {
                case 0 -> {
                    int keep = own.isEmpty() ? 0 : random.nextInt(own.size() + 1);
                    cache.truncate(sequence, list, keep);
                    own.subList(keep, own.size()).clear();
                }
                case 1 -> {
                    int from = random.nextInt(sequences);
                    if (from == sequence) continue;
                    cache.rewind(sequence, 0);
                    cache.fork(from, sequence);
                    for (int l = 0; l < lists; l++) {
                        model.set(sequence * lists + l, new ArrayList<>(model.get(from * lists + l)));
                    }
                }
                case 2 -> {
                    int other = random.nextInt(lists);
                    List<Integer> source = model.get(sequence * lists + other);
                    if (source.isEmpty() || own.size() == tokens) continue;
                    int entry = cache.entry(sequence, other, source.size() - 1);
                    if (cache.positions().getInt(entry) <= last) continue;
                    cache.alias(sequence, list, entry);
                    own.add(source.getLast());
                }
                default -> {
                    int count = Math.min(1 + random.nextInt(40), tokens - own.size());
                    int pages = cache.pagesFor(sequence, list, count);
                    int free = cache.freePages();
                    if (pages > free) continue;
                    for (int i = 0; i < count; i++) {
                        int entry = cache.append(sequence, list, last + 1 + i);
                        tokenOf.put(entry, next);
                        own.add(next++);
                    }
                    assertEquals(free - pages, cache.freePages());
                }
            }
            Map<Integer, Boolean> seen = new HashMap<>();
            for (int i = 0; i < model.size(); i++) {
                assertEquals(model.get(i).size(), cache.length(i / lists, i % lists));
                for (int k = 0; k < model.get(i).size(); k++) {
                    int entry = cache.entry(i / lists, i % lists, k);
                    assertEquals(model.get(i).get(k), tokenOf.get(entry));
                    seen.put(entry, true);
                }
            }
            assertEquals(seen.size(), cache.liveEntries());
        }
        for (int sequence = 0; sequence < sequences; sequence++) cache.rewind(sequence, 0);
        assertEquals(9, cache.freePages());
        assertEquals(0, cache.heldBytes());
    }
}
