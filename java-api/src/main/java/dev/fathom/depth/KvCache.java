package dev.fathom.depth;

import java.lang.foreign.Arena;
import java.util.Arrays;

import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.KvShape;

/**
 * The K and V of one block: a pool of entries, and for every sequence a few lists of entries (one per depth, or one
 * that all depths share). Entries never move. An entry lives as long as some list item names it.
 *
 * <p>Item i of a list is allocated at place {@code i % 64} of a page that the list has to itself, so that 64 appended
 * items are one whole page in order, which kernels read without copying. Aliased items may lie anywhere.
 *
 * <p>Not safe for use by several threads.
 */
public final class KvCache {
    /** Entries of a page. */
    public static final int PAGE = 64;

    static final int NONE = -1;

    private final KvShape shape;
    private final int sequences;
    private final int lists;
    private final int tokens;
    private final long entryBytes;
    private final Buffer pool;
    private final Buffer entries;
    private final Buffer positions;
    /** Items per list; list l of sequence s is number {@code s * lists + l}. */
    private final int[] length;
    /** Per entry: how many list items name it. */
    private final int[] references;
    /** Per page: how many of its entries are named by a list item. */
    private final int[] live;
    /** Per page: the only list that may allocate in it, or NONE for a free page. */
    private final int[] owner;
    /** Per list of a sequence: the pages in which such lists allocate. */
    private final int[] ownedPages;
    private final int[] freePages;
    private int freePageCount;
    private int liveEntries;

    /**
     * An empty cache.
     *
     * @param arena     life of the memory
     * @param shape     of the pool
     * @param sequences how many sequences there are; they are numbered from 0
     * @param lists     lists per sequence
     * @param tokens    most items of a list
     */
    public KvCache(Context context, Arena arena, KvShape shape, int sequences, int lists, int tokens) {
        Require.notNull("context", context);
        Require.notNull("arena", arena);
        Require.notNull("shape", shape);
        Require.atLeast("sequences", sequences, 1);
        Require.atLeast("lists", lists, 1);
        Require.atLeast("tokens", tokens, 1);
        Require.that((long) sequences * lists <= Integer.MAX_VALUE,
                "sequences * lists must be at most 2^31 - 1, got " + sequences + " * " + lists);
        Require.that(shape.entries() <= Integer.MAX_VALUE - PAGE,
                "shape must have fewer than 2^31 - 64 entries, got " + shape.entries());
        this.shape = shape;
        this.sequences = sequences;
        this.lists = lists;
        this.tokens = tokens;
        int count = (int) shape.entries();
        pool = context.allocate(arena, context.kvBytes(shape));
        entries = context.allocateShared(arena, 4L * sequences * lists * tokens);
        positions = context.allocateShared(arena, 4L * count);
        entryBytes = pool.bytes() / count;
        length = new int[sequences * lists];
        references = new int[count];
        live = new int[count / PAGE];
        owner = new int[count / PAGE];
        ownedPages = new int[lists];
        freePages = new int[count / PAGE];
        Arrays.fill(owner, NONE);
        for (int page = owner.length - 1; page >= 0; page--) freePages[freePageCount++] = page;
    }

    public KvShape shape() {
        return shape;
    }

    /** The memory of K and V, as kernels take it. */
    public Buffer pool() {
        return pool;
    }

    /** The items of all lists, as kernels take them; {@link #start} tells where a list begins. */
    public Buffer entries() {
        return entries;
    }

    /** Per entry: the position it was appended with. What relative attention bias reads. */
    public Buffer positions() {
        return positions;
    }

    public int sequences() {
        return sequences;
    }

    /** Lists per sequence. */
    public int lists() {
        return lists;
    }

    /** Most items of a list. */
    public int tokens() {
        return tokens;
    }

    // ---- lists ---------------------------------------------------------------------------------------------------

    /** Where the list begins in {@link #entries}. */
    public long start(int sequence, int list) {
        return (long) number(sequence, list) * tokens;
    }

    public int length(int sequence, int list) {
        return length[number(sequence, list)];
    }

    /** The entry that item {@code i} of the list names. */
    public int entry(int sequence, int list, int i) {
        int number = number(sequence, list);
        Require.index("item", i, length[number]);
        return item(number, i);
    }

    /**
     * Allocates an entry for the token at {@code position} and appends it. What a kernel has stored there before is
     * gone.
     *
     * @return the entry, to be given to the row that writes it
     * @throws CapacityException if the list is full or no page is free
     */
    public int append(int sequence, int list, int position) {
        int number = appendable(sequence, list, position);
        int at = length[number];
        int page = openPage(number, at);
        int entry = page * PAGE + at % PAGE;
        if (page == NONE || references[entry] > 0) {
            if (freePageCount == 0) throw new CapacityException("all " + owner.length + " pages of K,V are in use");
            page = freePages[--freePageCount];
            owner[page] = number;
            ownedPages[list]++;
            entry = page * PAGE + at % PAGE;
        }
        positions.setInt(entry, position);
        name(number, entry);
        return entry;
    }

    /**
     * Appends an entry that some list already names: the token is seen there too, at no cost.
     *
     * @throws CapacityException if the list is full
     */
    public void alias(int sequence, int list, int entry) {
        Require.index("entry", entry, references.length);
        if (references[entry] == 0) {
            throw new IllegalArgumentException("entry must be named by a list, got free entry " + entry);
        }
        name(appendable(sequence, list, positions.getInt(entry)), entry);
    }

    /** Keeps the first {@code count} items of the list. */
    public void truncate(int sequence, int list, int count) {
        int number = number(sequence, list);
        Require.range("count", count, 0, length[number]);
        while (length[number] > count) dropLast(number);
    }

    /** Removes the tokens at {@code position} and after it from every list of the sequence; 0 empties them. */
    public void rewind(int sequence, int position) {
        for (int list = 0; list < lists; list++) rewind(sequence, list, position);
    }

    /** Removes the tokens at {@code position} and after it from one list of the sequence. */
    public void rewind(int sequence, int list, int position) {
        int number = number(sequence, list);
        while (length[number] > 0 && lastPosition(number) >= position) dropLast(number);
    }

    /** Items of the list whose tokens stand before {@code position}. */
    int before(int sequence, int list, int position) {
        int number = number(sequence, list);
        int low = 0;
        int high = length[number];
        while (low < high) {
            int middle = low + high >>> 1;
            if (positions.getInt(item(number, middle)) < position) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    /** The entry of the list whose token stands at {@code position}. */
    public int entryAt(int sequence, int list, int position) {
        int at = before(sequence, list, position);
        if (at < length(sequence, list)) {
            int entry = entry(sequence, list, at);
            if (positions.getInt(entry) == position) return entry;
        }
        throw new IllegalArgumentException("position must be one of a token in list " + list + " of sequence "
                + sequence + ", got " + position);
    }

    /** Lets the empty sequence {@code to} see all that {@code from} sees. No K or V is copied; both may go on apart. */
    public void fork(int from, int to) {
        for (int list = 0; list < lists; list++) {
            if (length(to, list) > 0) throw new IllegalArgumentException("sequence " + to + " must be empty");
        }
        for (int list = 0; list < lists; list++) {
            int source = number(from, list);
            int target = number(to, list);
            for (int i = 0; i < length[source]; i++) name(target, item(source, i));
        }
    }

    // ---- room ----------------------------------------------------------------------------------------------------

    /** The free pages that {@code count} calls of {@link #append} would take. */
    public int pagesFor(int sequence, int list, int count) {
        int number = number(sequence, list);
        int from = length[number];
        long to = (long) from + count;
        int wholeFrom = Math.ceilDiv(from, PAGE);
        int pages = (int) (Math.ceilDiv(to, (long) PAGE) - wholeFrom);
        boolean partial = count > 0 && from % PAGE != 0;
        return partial && !hasPlaces(number, from, (int) Math.min(to, (long) wholeFrom * PAGE)) ? pages + 1 : pages;
    }

    public int freePages() {
        return freePageCount;
    }

    /** Pages in use that were taken for this list of some sequence. */
    int ownedPages(int list) {
        return ownedPages[list];
    }

    /** Entries in free pages; lists may have further places in pages that they hold. */
    public int freeEntries() {
        return freePageCount * PAGE;
    }

    /** Entries that some list names. */
    public int liveEntries() {
        return liveEntries;
    }

    /** Bytes of the entries that some list names. */
    public long liveBytes() {
        return liveEntries * entryBytes;
    }

    /** Bytes of the pages that hold at least one such entry. */
    public long heldBytes() {
        return (owner.length - freePageCount) * PAGE * entryBytes;
    }

    /** Bytes of the pool. */
    public long poolBytes() {
        return pool.bytes();
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    private int number(int sequence, int list) {
        Require.index("sequence", sequence, sequences);
        Require.index("list", list, lists);
        return sequence * lists + list;
    }

    private int item(int number, int i) {
        return entries.getInt((long) number * tokens + i);
    }

    private int lastPosition(int number) {
        return positions.getInt(item(number, length[number] - 1));
    }

    private int appendable(int sequence, int list, int position) {
        int number = number(sequence, list);
        if (length[number] == tokens) {
            throw new CapacityException("sequence " + sequence + " holds " + tokens + " tokens, no more fit");
        }
        int last = length[number] == 0 ? -1 : lastPosition(number);
        if (position <= last) {
            throw new IllegalArgumentException("position must be above " + last + ", got " + position);
        }
        return number;
    }

    /** The page in which the list allocates items near item {@code at}, or NONE. */
    private int openPage(int number, int at) {
        for (int i = at - 1; i >= at - at % PAGE; i--) {
            int page = item(number, i) / PAGE;
            if (owner[page] == number) return page;
        }
        return NONE;
    }

    /** Whether items {@code from .. to)} of one page's worth can be placed without a free page. */
    private boolean hasPlaces(int number, int from, int to) {
        int page = openPage(number, from);
        if (page == NONE) return false;
        for (int i = from; i < to; i++) {
            if (references[page * PAGE + i % PAGE] > 0) return false; // truncated here, but aliased elsewhere
        }
        return true;
    }

    private void name(int number, int entry) {
        entries.setInt((long) number * tokens + length[number]++, entry);
        if (references[entry]++ == 0) {
            live[entry / PAGE]++;
            liveEntries++;
        }
    }

    private void dropLast(int number) {
        int entry = item(number, --length[number]);
        if (--references[entry] > 0) return;
        liveEntries--;
        int page = entry / PAGE;
        if (--live[page] == 0) {
            ownedPages[owner[page] % lists]--;
            owner[page] = NONE;
            freePages[freePageCount++] = page;
        }
    }
}
