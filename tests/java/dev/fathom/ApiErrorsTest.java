package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** What every method refuses, and that it accepts buffers of exactly the size that the shape asks for. */
class ApiErrorsTest {
    private static final int COUNT = 3;

    private Context context;
    private Arena arena;
    private Rows rows;

    @BeforeEach
    void open() {
        context = Context.cpu(1);
        arena = Arena.ofConfined();
        rows = Rows.allocate(context, arena, COUNT);
        assumeFalse(context.info().cuda()); // there overlaps of a few bytes are misaligned first
    }

    @AfterEach
    void close() {
        arena.close();
        context.close();
    }

    /**
     * A buffer argument: its name, the bytes that it needs, whether it may be null, whether it is written, and the
     * argument that it may be the same as.
     */
    private record Arg(String name, long bytes, boolean nullable, boolean written, String mayBe) {
        Arg orBe(String other) {
            return new Arg(name, bytes, nullable, written, other);
        }
    }

    private static Arg in(String name, long bytes) {
        return new Arg(name, bytes, false, false, null);
    }

    private static Arg optional(String name, long bytes) {
        return new Arg(name, bytes, true, false, null);
    }

    private static Arg out(String name, long bytes) {
        return new Arg(name, bytes, false, true, null);
    }

    private static Arg optionalOut(String name, long bytes) {
        return new Arg(name, bytes, true, true, null);
    }

    private interface Call {
        void on(Context context, Buffer[] buffers);
    }

    private void refusesBadBuffers(Call call, Arg... args) {
        Buffer[] good = new Buffer[args.length];
        for (int i = 0; i < args.length; i++) good[i] = context.allocate(arena, args[i].bytes);
        call.on(context, good);
        for (int i = 0; i < args.length; i++) {
            Arg arg = args[i];
            if (arg.bytes > 0) {
                Buffer[] small = replaced(good, i, context.allocate(arena, arg.bytes - 1));
                refused(() -> call.on(context, small),
                        arg.name + " must hold at least " + arg.bytes + " bytes, got " + (arg.bytes - 1));
            }
            Buffer[] absent = replaced(good, i, null);
            if (arg.nullable) {
                assertDoesNotThrow(() -> call.on(context, absent), arg.name);
            } else {
                refused(() -> call.on(context, absent), arg.name + " must not be null");
            }
            if (arg.written) {
                Buffer[] constant = replaced(good, i, good[i].asReadOnly());
                refused(() -> call.on(context, constant), arg.name + " is written, got read-only memory");
                boolean packsBlock = arg.name.equals("weights"); // which does not look for it
                for (int j = 0; j < args.length && !packsBlock; j++) {
                    if (j != i && args[j].bytes > 0) refusesOverlap(call, args, good, i, j);
                }
            }
        }
        Context closed = Context.cpu(1);
        closed.close();
        assertThrows(IllegalStateException.class, () -> call.on(closed, good));
    }

    /** Argument {@code out} is written to where the last bytes of {@code other} lie. */
    private void refusesOverlap(Call call, Arg[] args, Buffer[] good, int out, int other) {
        long shift = Math.max(0, (args[other].bytes - 1) / 4 * 4);
        Buffer shared = context.allocate(arena, shift + args[out].bytes + args[other].bytes);
        good[other].copy(0, shared, 0, args[other].bytes);
        Buffer[] overlapping = replaced(good, out, shared.slice(shift, args[out].bytes));
        overlapping[other] = shared.slice(0, args[other].bytes);
        refused(() -> call.on(context, overlapping), "must not overlap");
        if (!args[other].name.equals(args[out].mayBe)) return;
        overlapping[out] = shared.slice(0, args[out].bytes);
        assertDoesNotThrow(() -> call.on(context, overlapping));
    }

    private static Buffer[] replaced(Buffer[] buffers, int index, Buffer other) {
        Buffer[] copy = Arrays.copyOf(buffers, buffers.length);
        copy[index] = other;
        return copy;
    }

    private static void refused(Executable call, String words) {
        String message = assertThrows(IllegalArgumentException.class, call, words).getMessage();
        assertTrue(message.contains(words), () -> "expected " + words + " in: " + message);
    }

    @Test
    void linear() {
        LinearShape plain = new LinearShape(20, 12, DType.BF16);
        long weights = context.linearBytes(plain);
        refusesBadBuffers((c, b) -> c.linear(plain, COUNT, null, b[0], b[1], b[2], null, null, null, b[3]),
                in("x", COUNT * 80), in("packed", weights), optional("bias", 48), out("y", COUNT * 48));
        Buffer any = context.allocate(arena, 1 << 16);
        refused(() -> context.linear(plain, COUNT, null, any, any, null, any, null, null, any), "lora must be null");
        refused(() -> context.linear(plain, COUNT, null, any, any, null, null, any, null, any),
                "residual must be null");
        refused(() -> context.linear(plain, COUNT, null, any, any, null, null, null, any, any), "gate must be null");
        refused(() -> context.linear(plain, -1, null, any, any, null, null, null, null, any),
                "count must be at least 0");

        LinearShape full = new LinearShape(20, 12, DType.F32, Activation.SILU, true, Residual.GATED, 2, 3);
        refusesBadBuffers((c, b) -> c.linear(full, COUNT, rows, b[0], b[1], b[2], b[3], b[4], b[5], b[6]),
                in("x", COUNT * 80), in("packed", context.linearBytes(full)), optional("bias", 96),
                in("lora", context.loraBytes(full)), in("residual", COUNT * 48), in("gate", COUNT * 4),
                out("y", COUNT * 48).orBe("residual"));
        refused(() -> context.linear(full, COUNT, null, any, any, null, any, any, any, any), "rows must not be null");
        refused(() -> context.linear(full, COUNT + 1, rows, any, any, null, any, any, any, any),
                "rows must hold at least 4 rows, got 3");
        rows.depth(1, 3);
        Buffer y = context.allocate(arena, 1 << 10);
        refused(() -> context.linear(full, COUNT, rows, any, any, null, any, any, any, y),
                "rows[1].depth must be in 0..2, got 3");
    }

    @Test
    void linearPack() {
        LinearShape shape = new LinearShape(20, 12, DType.F32, Activation.SILU, true, Residual.NONE, 2, 3);
        refusesBadBuffers((c, b) -> c.linearPack(shape, 12, 12, DType.F16, b[0], b[1]),
                in("source", 12 * 40), out("packed", context.linearBytes(shape)));
        Buffer any = context.allocate(arena, 1 << 16);
        refused(() -> context.linearPack(shape, 12, 13, DType.F32, any, any.slice(1 << 15, 1 << 15)),
                "count must be in 0..12, got 13");
        refusesBadBuffers((c, b) -> c.loraPack(shape, 2, 0.5f, DType.BF16, b[0], b[1], b[2]),
                in("a", 2 * 40), in("b", 24 * 4), out("packed", context.loraBytes(shape)));
        refused(() -> context.linearPack(shape, 0, -1, DType.F32, any, any), "count must be at least 0, got -1");
        refused(() -> context.linearPack(shape, -1, 1, DType.F32, any, any.slice(1 << 15, 1 << 15)),
                "first must be in");
        refused(() -> context.loraPack(shape, 3, 1, DType.F32, any, any, any), "depth must be in 0..2, got 3");
    }

    @Test
    void norm() {
        NormShape shape = new NormShape(NormKind.LAYER, 6, 2, 0);
        refusesBadBuffers((c, b) -> c.norm(shape, COUNT, rows, b[0], b[1], b[2], b[3]),
                in("x", COUNT * 24), optional("gain", 48), optional("bias", 48), out("y", COUNT * 24).orBe("x"));
        Buffer x = context.allocate(arena, 1 << 10);
        refused(() -> context.norm(shape, COUNT, null, x, null, null, x), "rows must not be null");
        refused(() -> context.norm(shape, COUNT, rows, x, null, null, x.slice(8, 512)), "must not overlap");
        refused(() -> context.norm(shape, COUNT, rows, x.slice(2, 512), null, null, x), "must be aligned to 4 bytes");
        refused(() -> context.norm(shape, Long.MAX_VALUE, rows, x, null, null, x), "rows must hold at least");
    }

    @Test
    void rope() {
        RopeShape shape = new RopeShape(RopeStyle.HALF, 2, 8, 6);
        refusesBadBuffers((c, b) -> c.rope(shape, COUNT, rows, b[0], b[1]),
                in("frequency", 12), out("x", COUNT * 64));
        Buffer any = context.allocate(arena, 1 << 10);
        refused(() -> context.rope(shape, COUNT, null, any, any), "rows must not be null");
    }

    @Test
    void kv() {
        KvShape shape = new KvShape(2, 2, 16, DType.BF16, 64);
        long pool = context.kvBytes(shape);
        refusesBadBuffers((c, b) -> c.kvWrite(shape, 1, COUNT, rows, b[0], b[1], b[2]),
                in("k", COUNT * 128), in("v", COUNT * 128), out("pool", pool));
        refusesBadBuffers((c, b) -> c.kvRead(shape, 1, COUNT, b[0], b[1], b[2], b[3]),
                in("entry", COUNT * 4), in("pool", pool), out("k", COUNT * 128), out("v", COUNT * 128));
        Buffer any = context.allocate(arena, 1 << 16);
        refused(() -> context.kvWrite(shape, 1, COUNT, null, any, any, any), "rows must not be null");
        refused(() -> context.kvWrite(shape, 1, COUNT + 1, rows, any, any, any),
                "rows must hold at least 4 rows, got 3");
        refused(() -> context.kvWrite(shape, 1, -1, rows, any, any, any), "count must be at least 0, got -1");
        refused(() -> context.kvRead(shape, 1, -1, any, any, any, any), "count must be at least 0, got -1");
        refused(() -> context.kvWrite(shape, 2, COUNT, rows, any, any, any), "layer must be in 0..1, got 2");
        rows.entry(2, 64);
        Buffer entries = context.allocate(arena, pool);
        refused(() -> context.kvWrite(shape, 0, COUNT, rows, any, any, entries), "rows[2].entry");
    }

    @Test
    void attention() {
        KvShape kv = new KvShape(1, 2, 16, DType.F32, 128);
        AttentionShape relative = new AttentionShape(4, BiasKind.RELATIVE, 5, 2, 0.25f);
        refusesBadBuffers((c, b) -> c.attention(relative, kv, 0, COUNT, rows, b[0], b[1], b[2], b[3], b[4], b[5]),
                in("q", COUNT * 256), in("entries", 0), in("pool", context.kvBytes(kv)),
                optional("entryPosition", 128 * 4), in("bias", 80), out("out", COUNT * 256));
        AttentionShape dense = new AttentionShape(4, BiasKind.DENSE, 5, 0, 0.25f);
        refusesBadBuffers((c, b) -> c.attention(dense, kv, 0, COUNT, rows, b[0], b[1], b[2], null, b[3], b[4]),
                in("q", COUNT * 256), in("entries", 0), in("pool", context.kvBytes(kv)), in("bias", COUNT * 80),
                out("out", COUNT * 256));
        AttentionShape plain = new AttentionShape(4, 0.25f);
        Buffer any = context.allocate(arena, 1 << 16);
        Buffer out = context.allocate(arena, 1 << 12);
        refused(() -> context.attention(plain, kv, 0, COUNT, rows, any, any, any, null, any, out), "bias must be null");
        refused(() -> context.attention(plain, kv, 0, COUNT, null, any, any, any, null, null, out),
                "rows must not be null");
        rows.visible(0, 1);
        Buffer lists = context.allocate(arena, 4).write(new int[] {128});
        refused(() -> context.attention(plain, kv, 0, COUNT, rows, any, lists, any, null, null, out),
                "entries[0] must be in 0..127, got 128");
        rows.visible(0, 2);
        refused(() -> context.attention(plain, kv, 0, COUNT, rows, any, lists, any, null, null, out), "rows[0].list");
    }

    @Test
    void attentionMasked() {
        DenseKvShape kv = new DenseKvShape(2, 5, 2, 16, DType.BF16, 5 * 40, 40, 20);
        assertEquals((200 + 4 * 40 + 20 + 16) * 2, kv.bytes());
        AttentionShape shape = new AttentionShape(4, BiasKind.DENSE, 5, 0, 0.25f);
        refusesBadBuffers((c, b) -> c.attentionMasked(shape, kv, COUNT, rows, b[0], b[1], b[2], b[3], b[4], b[5]),
                in("q", COUNT * 256), in("k", kv.bytes()), in("v", kv.bytes()), in("reach", 40),
                in("bias", COUNT * 80), out("out", COUNT * 256));
        Buffer any = context.allocate(arena, 1 << 12);
        refused(() -> context.attentionMasked(shape, kv, COUNT, null, any, any, any, any, any, any),
                "rows must not be null");
        AttentionShape plain = new AttentionShape(4, 0.25f);
        refused(() -> context.attentionMasked(plain, kv, COUNT, rows, any, any, any, any, any, any),
                "bias must be null");
    }

    @Test
    void backfill() {
        KvShape kv = new KvShape(2, 2, 16, DType.F32, 64);
        BackfillShape shape = new BackfillShape(20, 3, DType.F32, NormKind.LAYER, RopeStyle.HALF, 8, 1e-5f);
        long weights = context.backfillBytes(shape, kv);
        refusesBadBuffers((c, b) -> c.backfillPack(shape, kv, 2, 1, DType.BF16, b[0], b[1], b[2], b[3], b[4], b[5],
                        b[6]),
                in("wk", 32 * 40), in("wv", 32 * 40), optional("bk", 64), optional("bv", 64), optional("gain", 80),
                optional("normBias", 80), out("packed", weights));
        Buffer nowhere = context.allocate(arena, COUNT * 12).write(new int[] {-1, -1, -1, -1, -1, -1, -1, -1, -1});
        refusesBadBuffers((c, b) -> {
            if (b[3] != null && b[3].bytes() == COUNT * 12) b[3].segment().copyFrom(nowhere.segment());
            c.backfill(shape, kv, COUNT, rows, b[0], b[1], b[2], b[3], b[4]);
        }, in("h", COUNT * 80), in("packed", weights), in("frequency", 16), in("entry", COUNT * 12),
                out("pool", context.kvBytes(kv)));
        Buffer any = context.allocate(arena, 1 << 16);
        refused(() -> context.backfillPack(shape, kv, 3, 0, DType.F32, any, any, null, null, null, null, any),
                "depth must be in");
        refused(() -> context.backfill(shape, kv, COUNT, null, any, any, any, any, any), "rows must not be null");
        BackfillShape plain = new BackfillShape(20, 1, DType.F32, null, RopeStyle.NONE, 0, 0);
        refused(() -> context.backfillPack(plain, kv, 0, 0, DType.F32, any, any, null, null, any, null, any),
                "gain must be null when shape.norm is -1");
        refused(() -> context.backfillPack(plain, kv, 0, 0, DType.F32, any, any, null, null, null, any, any),
                "norm_bias must be null when shape.norm is -1");
        refused(() -> context.backfill(plain, kv, -1, null, any, any, null, any, any), "count must be at least 0");
    }

    @Test
    void block() {
        BlockShape shape = BlockShape.builder(2, 32, 48, 2).kvHeads(1).bias(true).loraRank(Part.UP, 3).build();
        refusesBadBuffers((c, b) -> c.block(shape, COUNT, rows, null, b[0], b[1], b[2], 64, b[3], b[4]),
                in("weights", context.blockBytes(shape)), in("entries", 0), optional("entryPosition", 256),
                out("pool", context.kvBytes(shape.kv(64))), out("hidden", COUNT * 128));
        Buffer any = context.allocate(arena, 1 << 20);
        refused(() -> context.block(shape, COUNT, rows, null, any, any, null, 65, any, any),
                "entries must be a multiple of 64");
        assertTrue(context.blockScratchBytes(shape, COUNT) > 0);

        long weights = context.blockBytes(shape);
        for (Part part : Part.values()) {
            for (Kind kind : Kind.values()) {
                boolean there = switch (kind) {
                    case WEIGHT -> shape.has(part);
                    case BIAS -> part.isLinear() && shape.has(part);
                    case LORA_A, LORA_B -> part == Part.UP;
                };
                if (!there) continue;
                refusesBadBuffers((c, b) -> c.blockPack(shape, 0, 0, part, kind, 1, DType.BF16, b[0], b[1]),
                        in("source", shape.elements(part, kind) * 2), out("weights", weights));
            }
        }
        refused(() -> context.block(shape, COUNT, null, null, any, any, null, 64, any, any), "rows must not be null");
        refused(() -> context.block(shape, -1, rows, null, any, any, null, 64, any, any),
                "count must be at least 0, got -1");
        refused(() -> context.blockScratchBytes(shape, -1), "count must be in 0..");
        refused(() -> context.block(shape, COUNT, rows, rows, any, any, null, 64, any, any), "crossRows must be null");
        BlockShape crossing = BlockShape.builder(2, 32, 48, 2).cross(true).relativeBias(9, 4).rope(RopeStyle.NONE)
                .build();
        long packed = context.blockBytes(crossing);
        refusesBadBuffers((c, b) -> c.block(crossing, COUNT, rows, rows, b[0], b[1], b[2], 64, b[3], b[4]),
                in("weights", packed), in("entries", 0), optional("entryPosition", 256),
                out("pool", context.kvBytes(crossing.kv(64))), out("hidden", COUNT * 128));
        refused(() -> context.block(crossing, COUNT, rows, null, any, any, null, 64, any, any),
                "crossRows must not be null");
        Rows few = rows.slice(0, 1);
        refused(() -> context.block(crossing, COUNT, rows, few, any, any, null, 64, any, any),
                "crossRows must hold at least 3 rows, got 1");
        Rows cross = Rows.allocate(context, arena, COUNT).visible(2, 1);
        Buffer hidden = context.allocate(arena, COUNT * 128), none = context.allocate(arena, 0);
        Buffer pool = context.allocate(arena, context.kvBytes(crossing.kv(64)));
        refused(() -> context.block(crossing, COUNT, rows, cross, any, none, null, 64, pool, hidden),
                "cross_rows[2].list");
        refusesBadBuffers((c, b) -> c.blockPack(crossing, 0, 0, Part.RELATIVE_BIAS, Kind.WEIGHT, 1, DType.F32, b[0],
                b[1]), in("source", 2 * 9 * 4), out("weights", packed));
        refusesBadBuffers((c, b) -> c.blockPack(crossing, 1, 0, Part.CROSS_O, Kind.WEIGHT, 1, DType.F32, b[0], b[1]),
                in("source", 32 * 32 * 4), out("weights", packed));
        refused(() -> context.blockPack(shape, 0, 0, Part.CROSS_Q, Kind.WEIGHT, 1, DType.F32, any, any),
                "shape.cross = 1");
        refused(() -> context.blockPack(shape, 2, 0, Part.Q, Kind.WEIGHT, 1, DType.F32, any, any), "layer");
        refused(() -> context.blockPack(shape, 0, 0, Part.Q, Kind.WEIGHT, Float.NaN, DType.F32, any, any), "scale");
    }

    @Test
    void head() {
        HeadShape shape = new HeadShape(20, 30, DType.F32, NormKind.RMS, 1e-5f, 1, 0, 2);
        long weights = context.linearBytes(shape.weights());
        refusesBadBuffers((c, b) -> c.head(shape, COUNT, b[0], b[1], b[2], b[3], b[4],
                        b[5] == null ? null : HeadStats.of(b[5]), b[6], b[7]),
                in("h", COUNT * 80), optional("gain", 80), optional("normBias", 80), in("packed", weights),
                in("chosenId", COUNT * 8), out("stats", COUNT * 24), out("chosenLogit", COUNT * 8),
                optionalOut("logits", COUNT * 120));
        Buffer any = context.allocate(arena, 1 << 16);
        HeadShape plain = new HeadShape(20, 30, DType.F32, null, 0);
        HeadStats stats = HeadStats.allocate(context, arena, COUNT);
        refused(() -> context.head(plain, COUNT, any, null, null, any, any, stats, null, null),
                "chosenId must be null");
        refused(() -> context.head(plain, COUNT, any, null, null, any, null, stats, any, null),
                "chosenLogit must be null");
        refused(() -> context.head(plain, -1, any, null, null, any, null, stats, null, null),
                "count must be at least 0, got -1");
        refused(() -> context.head(plain, COUNT, any, null, null, any, null, null, null, null),
                "stats must not be null");
    }

    @Test
    void gate() {
        GateShape shape = new GateShape(10, 6, 3, 2, RouterKind.MLP, GateFunction.SOFTMAX, 1, 1, 0, Activation.SILU,
                true);
        long weights = context.gateBytes(shape);
        refusesBadBuffers((c, b) -> c.gate(shape, COUNT, rows, b[0], b[1], b[2], b[3], b[4], b[5], b[6]),
                in("x", COUNT * 40), in("packed", weights), optional("choiceBias", 12),
                optionalOut("logits", COUNT * 12), optionalOut("p", COUNT * 12), out("gate", COUNT * 4),
                out("choice", COUNT * 4));
        long[] elements = {60, 6, 18, 3};
        for (GatePart part : GatePart.values()) {
            refusesBadBuffers((c, b) -> c.gatePack(shape, 1, part, DType.F16, b[0], b[1]),
                    in("source", elements[part.ordinal()] * 2), out("packed", weights));
        }
        Buffer any = context.allocate(arena, 1 << 13);
        refused(() -> context.gate(shape, COUNT, null, any, any, null, null, null, any, any),
                "rows must not be null");
        refused(() -> context.gatePack(shape, 2, GatePart.W1, DType.F32, any, any), "depth must be in 0..1, got 2");
        GateShape plain = new GateShape(10, 0, 3, 1, RouterKind.LINEAR, GateFunction.NONE, 1, 1, 0);
        refused(() -> context.gatePack(plain, 0, GatePart.W2, DType.F32, any, any), "the shape has, got W2");
        refused(() -> context.gatePack(plain, 0, GatePart.B1, DType.F32, any, any), "the shape has, got B1");
    }

    @Test
    void stateDelta() {
        refusesBadBuffers((c, b) -> c.stateDelta(5, COUNT, b[0], b[1], b[2], b[3] == null ? null : StateDelta.of(b[3])),
                optional("before2", COUNT * 20), in("before", COUNT * 20), in("now", COUNT * 20),
                out("delta", COUNT * 20));
        Buffer any = context.allocate(arena, 1 << 10);
        StateDelta delta = StateDelta.allocate(context, arena, COUNT);
        refused(() -> context.stateDelta(0, COUNT, null, any, any, delta), "width must be at least 1, got 0");
        refused(() -> context.stateDelta(5, -1, null, any, any, delta), "count must be at least 0, got -1");
        refused(() -> context.stateDelta(5, COUNT, null, any, any, StateDelta.of(any)), "must not overlap");
        assertThrows(IndexOutOfBoundsException.class, () -> delta.cosine(COUNT));
    }

    @Test
    void topK() {
        Buffer ends = context.allocate(arena, 12).write(new int[] {0, 2, COUNT});
        refusesBadBuffers((c, b) -> {
            if (b[1] != null && b[1].bytes() == 12) b[1].segment().copyFrom(ends.segment());
            c.topK(COUNT, b[0], 2, b[1], b[2], b[3]);
        }, in("values", COUNT * 4), in("begin", 12), in("k", 8), out("index", COUNT * 4));
        Buffer any = context.allocate(arena, 1 << 10), index = context.allocate(arena, 1 << 10);
        refused(() -> context.topK(-1, any, 2, ends, any, index), "count must be at least 0, got -1");
        refused(() -> context.topK(COUNT, any, -1, ends, any, index), "segments must be at least 0, got -1");
        refused(() -> context.topK(COUNT, any, Long.MAX_VALUE, ends, any, index), "begin must hold at least");
        refused(() -> context.topK(2, any, 2, ends, any, index), "begin[2] must be in 2..2, got 3");
        Buffer most = context.allocate(arena, 8).write(new int[] {3, 0});
        refused(() -> context.topK(COUNT, any, 2, ends, most, index), "k[0] must be in 0..2, got 3");
    }

    @Test
    void compact() {
        refusesBadBuffers((c, b) -> c.gather(5, 4, COUNT, b[0], b[1], b[2]),
                in("index", COUNT * 4), in("x", 4 * 20), out("y", COUNT * 20));
        refusesBadBuffers((c, b) -> c.scatter(5, 4, 1, b[0], b[1], b[2]),
                in("index", 4), in("y", 20), out("x", 4 * 20));
        refusesBadBuffers((c, b) -> c.scatterAdd(5, 4, 1, b[0], b[1], b[2], b[3]),
                in("index", 4), optional("gate", 4), in("y", 20), out("x", 4 * 20));
        Buffer any = context.allocate(arena, 1 << 10);
        refused(() -> context.gather(0, 4, COUNT, any, any, any), "width must be at least 1, got 0");
        refused(() -> context.gather(5, -4, COUNT, any, any, any), "sourceCount must be at least 0, got -4");
        refused(() -> context.gather(5, 4, -1, any, any, any), "count must be at least 0, got -1");
        refused(() -> context.scatter(0, 4, COUNT, any, any, any), "width must be at least 1, got 0");
        refused(() -> context.scatter(5, -4, COUNT, any, any, any), "targetCount must be at least 0, got -4");
        refused(() -> context.scatter(5, 4, -1, any, any, any), "count must be at least 0, got -1");
        refused(() -> context.scatterAdd(0, 4, COUNT, any, null, any, any), "width must be at least 1, got 0");
        refused(() -> context.scatterAdd(5, -4, COUNT, any, null, any, any), "targetCount must be at least 0, got -4");
        refused(() -> context.scatterAdd(5, 4, -1, any, null, any, any), "count must be at least 0, got -1");
        Buffer index = context.allocate(arena, 12).write(new int[] {0, 4, 1});
        Buffer y = context.allocate(arena, 60);
        refused(() -> context.gather(5, 4, COUNT, index, any, y), "index[1]");
    }

    @Test
    void embed() {
        EmbedShape table = new EmbedShape(30, 20, DType.BF16, false, 1);
        refusesBadBuffers((c, b) -> c.embed(table, COUNT, b[0], b[1], b[2]),
                in("id", COUNT * 4), in("table", 30 * 40), out("out", COUNT * 80));
        EmbedShape tied = new EmbedShape(30, 20, DType.BF16, true, 1);
        long head = context.linearBytes(new LinearShape(20, 30, DType.BF16));
        refusesBadBuffers((c, b) -> c.embed(tied, COUNT, b[0], b[1], b[2]),
                in("id", COUNT * 4), in("table", head), out("out", COUNT * 80));
        Buffer any = context.allocate(arena, 1 << 12);
        refused(() -> context.embed(table, -1, any, any, any), "count must be at least 0, got -1");
        Buffer id = context.allocate(arena, 12).write(new int[] {0, 30, 1}), y = context.allocate(arena, COUNT * 80);
        refused(() -> context.embed(table, COUNT, id, any, y), "id[1] must be in 0..29, got 30");
    }

    @Test
    void nullShapesAreNamed() {
        String message = assertThrows(NullPointerException.class, () -> context.linearBytes(null)).getMessage();
        assertTrue(message.contains("\"shape\" is null"), message);
        Buffer any = context.allocate(arena, 64);
        LinearShape shape = new LinearShape(2, 2, DType.F32);
        refused(() -> context.linearPack(shape, 0, 1, null, any, any), "sourceType must not be null");
    }

    @Test
    void contexts() {
        refused(() -> Context.cpu(-1), "workers must be in 0..");
        refused(() -> Context.cpu(1, null), "cap must not be null");
        refused(() -> context.allocate(-1), "bytes must be at least 0, got -1");
        refused(() -> context.allocate(null, 1), "arena must not be null");
        refused(() -> context.wrap(null), "segment must not be null");
        refused(() -> Context.cpu(2000), "workers must be in 0..1024, got 2000");
        assertTrue(assertThrows(IllegalArgumentException.class, () -> Context.cpu(2000)).getMessage()
                .startsWith("workers must"), "without the name of the C function");
        KernelException noDevice = assertThrows(KernelException.class, () -> Context.cuda(Context.cudaDevices()));
        assertTrue(noDevice.getMessage().contains("CUDA"), noDevice.getMessage());
        assertEquals(KernelException.Status.UNSUPPORTED, noDevice.status());
        KernelException tooMuch = assertThrows(KernelException.class, () -> context.allocate(arena, 1L << 45));
        assertEquals(KernelException.Status.OUT_OF_MEMORY, tooMuch.status());
    }

    @Test
    void shapesAreValues() {
        BlockShape one = BlockShape.builder(1, 64, 96, 2).loraRank(Part.K, 4).build();
        BlockShape same = BlockShape.builder(1, 64, 96, 2).loraRank(Part.K, 4).build();
        BlockShape other = BlockShape.builder(1, 64, 96, 2).loraRank(Part.V, 4).build();
        assertEquals(one, same);
        assertEquals(one.hashCode(), same.hashCode());
        assertTrue(!one.equals(other));
        assertTrue(one.toString().startsWith("BlockShape[layers=1, depths=1, hidden_size=64"), one.toString());
        assertTrue(one.toString().contains("lora_rank=[0 4 0 0 0 0 0 0 0]"), one.toString());
        assertEquals(4, one.loraRank(Part.K));
        assertEquals(Set.of(NormPlacement.PRE), one.normPlacement());
        assertEquals(32, one.headDim());
        assertEquals(32, one.rotaryDim());
        BlockShape crossing = BlockShape.builder(1, 64, 96, 2).cross(true).relativeBias(9, 4).build();
        assertTrue(crossing.cross() && crossing.has(Part.CROSS_O) && crossing.has(Part.CROSS_PRE_NORM));
        assertTrue(!one.has(Part.CROSS_O) && !one.has(Part.CROSS_PRE_NORM) && !one.has(Part.RELATIVE_BIAS));
        assertTrue(!crossing.has(Part.CROSS_POST_NORM) && crossing.has(Part.GATE));
        assertEquals(9, crossing.relativeWidth());
        assertEquals(4, crossing.relativeCenter());
    }
}
