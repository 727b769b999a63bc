package dev.fathom;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.ToIntFunction;

import dev.fathom.ffi.Fathom;
import dev.fathom.ffi.FathomLibrary;
import dev.fathom.ffi.fth_info;

/**
 * Workers and scratch memory, and the kernels as methods. Each method is one call of the C function of that name in
 * {@code fathom.h}, which says exactly what it computes; shapes of tensors are given in brackets here, row-major,
 * fp32 unless stated.
 *
 * <p>Before a call every buffer is checked to hold what its shape asks for, so no argument can make a kernel read or
 * write elsewhere. Memory is checked to be alive for the whole call. What is wrong becomes
 * <ul>
 *   <li>{@link IllegalArgumentException}: an argument; the sentence names it, what was expected and what came
 *       ({@link NullPointerException} for a shape or type that is null);
 *   <li>{@link IllegalStateException}: this context, or the memory of a buffer, is closed, or another thread runs a
 *       call on this context;
 *   <li>{@link KernelException}: the machine: unsupported, out of memory, device failure;
 *   <li>{@link WrongThreadException}: memory of another thread's confined arena;
 *   <li>{@link UnsatisfiedLinkError}: no native library; the sentence lists what was tried.
 * </ul>
 * After any of them nothing has been computed. A context runs one call at a time; contexts are independent. A call
 * holds its thread until it is done, so call from platform threads.
 *
 * <p>{@link Rows} may be null where the shape has one depth and the operation reads only the depth.
 */
public final class Context implements AutoCloseable {
    static final int BACKENDS = 2;

    /** From here on memory is mapped, aligned to huge pages; below, that would waste more than it gains. */
    private static final long MAPPED_BYTES = 1 << 20;

    private static final boolean TIMED = Boolean.getBoolean("fathom.timed");

    private final Arena arena;
    private final MemorySegment handle;
    private final Info info;
    private final int backend;
    private long begun;
    private long nanos;
    /** Of a CUDA context: calls so far, and how many of them are known to be done. */
    private long calls;
    private long done;

    /**
     * What a context runs on.
     *
     * @param cuda     a CUDA device, else the CPU
     * @param isa      the instruction set that this context uses
     * @param bestIsa  the best one of this machine
     * @param bf16Dot  whether products of bf16 use an instruction of their own
     * @param int8Dot  whether products with quantised weights use one
     * @param workers  threads that run a call, the caller's included
     * @param l2Bytes  cache per core, or of the device, 0 if unknown
     * @param l3Bytes  shared cache, 0 if unknown
     * @param device   what the CUDA device is; null on the CPU
     */
    public record Info(boolean cuda, Isa isa, Isa bestIsa, boolean bf16Dot, boolean int8Dot, int workers,
                       long l2Bytes, long l3Bytes, Device device) {}

    /**
     * A CUDA device.
     *
     * @param ordinal           its number
     * @param multiprocessors   how many blocks run side by side, at least
     * @param computeCapability 90 for 9.0
     * @param bytes             its memory
     */
    public record Device(int ordinal, int multiprocessors, int computeCapability, long bytes) {}

    /** A CPU context with one worker per core that this process may use. */
    public static Context cpu() {
        return cpu(0);
    }

    /** A CPU context; {@code workers} counts the calling thread, 0 means one per core that this process may use. */
    public static Context cpu(int workers) {
        return new Context(Fathom.FTH_CPU(), workers, Fathom.FTH_ISA_AUTO());
    }

    /** The same, capped at an instruction set; one that the machine lacks is lowered to the best that it has. */
    public static Context cpu(int workers, Isa cap) {
        return new Context(Fathom.FTH_CPU(), workers, Check.notNull("cap", cap).ordinal());
    }

    /**
     * A context whose kernels run on a CUDA device. Calls enqueue and return; buffers wait where Java reads them.
     *
     * @throws KernelException without CUDA, driver, device or memory; the sentence says which
     */
    public static Context cuda(int device) {
        return new Context(Fathom.FTH_CUDA(), device, Fathom.FTH_ISA_AUTO());
    }

    /** Number of CUDA devices that could be used; 0 without CUDA, driver or device. */
    public static int cudaDevices() {
        return Fathom.fth_cuda_device_count();
    }

    private Context(int backend, int workersOrDevice, int isa) {
        arena = Arena.ofShared();
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(Fathom.C_POINTER);
            MemorySegment message = scratch.allocate(512);
            int status = Fathom.fth_context_create(backend, workersOrDevice, isa, message, message.byteSize(), out);
            if (status != Fathom.FTH_OK()) throw failure(status, message.getString(0));
            // The handle belongs to the arena, which cannot close, and so end the context, while a call is using it.
            handle = FathomLibrary.attach(out.get(Fathom.C_POINTER, 0), 0, arena, Fathom::fth_context_destroy);
            MemorySegment told = scratch.allocate(fth_info.layout());
            check(Fathom.fth_context_info(handle, told));
            info = new Info(fth_info.backend(told) == Fathom.FTH_CUDA(), Isa.values()[fth_info.isa(told)],
                    Isa.values()[fth_info.best_isa(told)], fth_info.bf16_dot(told) == 1, fth_info.int8_dot(told) == 1,
                    fth_info.workers(told), fth_info.l2_bytes(told), fth_info.l3_bytes(told),
                    fth_info.backend(told) != Fathom.FTH_CUDA() ? null
                            : new Device(fth_info.device(told), fth_info.multiprocessors(told),
                                    fth_info.compute_capability(told), fth_info.device_bytes(told)));
            this.backend = info.cuda ? Fathom.FTH_CUDA() : Fathom.FTH_CPU();
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    public Info info() {
        return info;
    }

    /** Whether {@link #close} has been called. */
    public boolean isClosed() {
        return !arena.scope().isAlive();
    }

    /**
     * Ends the workers and frees what the context allocated. Closing again does nothing.
     *
     * @throws IllegalStateException if another thread runs a call or copies to or from a buffer; nothing is closed then
     */
    @Override
    public void close() {
        if (isClosed()) return;
        try {
            arena.close();
        } catch (IllegalStateException e) {
            if (isClosed()) return; // another thread was faster
            throw new IllegalStateException("The context is in use by another thread; close it after that call.", e);
        }
    }

    @Override
    public String toString() {
        String what = info.cuda ? "cuda " + info.device.ordinal()
                : "cpu " + info.isa + (info.bf16Dot ? " (bf16 dot)" : "") + ", " + info.workers
                        + (info.workers == 1 ? " worker" : " workers");
        return what + (isClosed() ? ", closed" : "");
    }

    // ---- memory --------------------------------------------------------------------------------------------------

    /** Zeroed memory for kernels that lives as long as this context; memory of the device on a CUDA context. */
    public Buffer allocate(long bytes) {
        handle(); // refuses a closed context
        return allocate(arena, bytes);
    }

    /** The same, as long as the arena. Large buffers on the CPU are aligned and advised for huge pages. */
    public Buffer allocate(Arena arena, long bytes) {
        return allocate(arena, bytes, info.cuda ? Fathom.FTH_MEMORY_DEVICE() : Fathom.FTH_MEMORY_HOST());
    }

    /**
     * Zeroed memory that Java and kernels both reach in place, as long as this context: for rows, lists, indices and
     * for small results, which would have to be copied at every call if they were memory of a device. On the CPU it is
     * what {@link #allocate(long)} gives.
     */
    public Buffer allocateShared(long bytes) {
        handle(); // refuses a closed context
        return allocateShared(arena, bytes);
    }

    /** The same, as long as the arena. */
    public Buffer allocateShared(Arena arena, long bytes) {
        return allocate(arena, bytes, info.cuda ? Fathom.FTH_MEMORY_PINNED() : Fathom.FTH_MEMORY_HOST());
    }

    private Buffer allocate(Arena arena, long bytes, int kind) {
        Check.notNull("arena", arena);
        Check.atLeast("bytes", bytes, 0);
        boolean host = kind == Fathom.FTH_MEMORY_HOST();
        if (host && bytes < MAPPED_BYTES) return new Buffer(arena.allocate(bytes, 64));
        long mapped = Math.max(bytes, 1);
        int device = info.cuda ? info.device.ordinal() : 0;
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(Fathom.C_POINTER);
            int status = Fathom.fth_memory_map(kind, device, mapped, out);
            if (status != Fathom.FTH_OK()) throw failure(status, bytes + " bytes could not be allocated");
            MemorySegment memory = out.get(Fathom.C_POINTER, 0);
            try {
                MemorySegment owned = FathomLibrary.attach(memory, bytes, arena,
                        m -> Fathom.fth_memory_unmap(kind, device, m, mapped));
                return new Buffer(owned, host ? null : new DeviceMemory(this, kind == Fathom.FTH_MEMORY_DEVICE()));
            } catch (RuntimeException e) { // closed, or another thread's
                Fathom.fth_memory_unmap(kind, device, memory, mapped);
                throw e;
            }
        }
    }

    /** Native memory that the caller owns, as a buffer; nothing is copied. Memory on the Java heap is refused. */
    public Buffer wrap(MemorySegment segment) {
        return new Buffer(segment);
    }

    /** Copies, in the order of the calls, between host and device or within either. */
    void copy(MemorySegment from, MemorySegment to) {
        check(Fathom.fth_copy(handle(), from.byteSize(), from, to));
    }

    void clear(MemorySegment memory) {
        check(Fathom.fth_clear(handle(), memory.byteSize(), memory));
    }

    // ---- context -------------------------------------------------------------------------------------------------

    /** Waits until everything enqueued on a device is done. Returns at once on the CPU. */
    public void synchronize() {
        check(Fathom.fth_synchronize(handle()));
        done = calls;
    }

    /**
     * On a CUDA context, later calls enqueue on this stream, after all that was enqueued before.
     *
     * @param stream a {@code cudaStream_t}; 0 or 1 the legacy default stream, 2 the thread's, as DLPack counts. It must
     *               outlive its use here
     */
    public void useStream(long stream) {
        check(Fathom.fth_use_stream(handle(), MemorySegment.ofAddress(stream)));
    }

    /** Makes room for scratch where kernels run, so that no later call has to that needs no more. */
    public void reserve(long bytes) {
        check(Fathom.fth_reserve(handle(), bytes));
    }

    /** The number of the call that is being prepared. */
    long nextCall() {
        return calls + 1;
    }

    /** Until the kernels of a call are done. A closed context has none. */
    void await(long call) {
        if (call > done && !isClosed()) synchronize();
    }

    /** Does nothing: the price of the boundary itself, for benchmarks. */
    public void nop(Shape shape, Buffer a, Buffer b, Buffer c, Buffer d) {
        check(Fathom.fth_nop(handle(), shape.struct, a.readByKernels(), b.readByKernels(), c.readByKernels(),
                d.writtenByKernels()));
    }

    // ---- linear --------------------------------------------------------------------------------------------------

    /** Bytes of the packed weights of a linear. */
    public long linearBytes(LinearShape shape) {
        if (shape.packedBytes[backend] == 0) {
            shape.packedBytes[backend] = ask(out -> Fathom.fth_linear_bytes(handle(), shape.struct, out));
        }
        return shape.packedBytes[backend];
    }

    /**
     * Packs {@code count} rows of W, starting at its row {@code first}. Every row must be packed once before use.
     *
     * @param source [count, inFeatures] of {@code sourceType}; Q8_0 and Q4_0 need inFeatures to be a multiple of 32,
     *               rows of F8_E4M3 begin with their scale
     * @param packed {@link #linearBytes}
     */
    public void linearPack(LinearShape shape, long first, long count, DType sourceType, Buffer source, Buffer packed) {
        int columns = Check.notNull("shape", shape).inFeatures();
        MemorySegment from = Check.input("source", source, Check.atLeast("count", count, 0),
                Check.sourceBytes(sourceType, columns, columns));
        MemorySegment to = Check.output("packed", packed, 1, linearBytes(shape));
        check(Fathom.fth_linear_pack(handle(), shape.struct, first, count, sourceType.ordinal(), from, to));
    }

    /** Bytes of the packed LoRA pairs of all depths. */
    public long loraBytes(LinearShape shape) {
        if (shape.loraBytes[backend] == 0) {
            shape.loraBytes[backend] = ask(out -> Fathom.fth_lora_bytes(handle(), shape.struct, out));
        }
        return shape.loraBytes[backend];
    }

    /**
     * Packs the LoRA pair of one depth.
     *
     * @param scale  {@code alpha / rank}, folded into b
     * @param a      [loraRank, inFeatures] of {@code sourceType}
     * @param b      [rows of W, loraRank] of {@code sourceType}
     * @param packed {@link #loraBytes}
     */
    public void loraPack(LinearShape shape, int depth, float scale, DType sourceType, Buffer a, Buffer b,
                         Buffer packed) {
        long rankBytes = (long) shape.loraRank() * Check.plainSource(sourceType).bytes();
        MemorySegment down = Check.input("a", a, shape.inFeatures(), rankBytes);
        MemorySegment up = Check.input("b", b, shape.weightRows(), rankBytes);
        MemorySegment to = Check.output("packed", packed, 1, loraBytes(shape));
        check(Fathom.fth_lora_pack(handle(), shape.struct, depth, scale, sourceType.ordinal(), down, up, to));
    }

    /**
     * A linear with everything that may be fused to it.
     *
     * @param rows     (depth); null without LoRA
     * @param x        [count, inFeatures]
     * @param packed   from {@link #linearPack}
     * @param bias     [rows of W] or null
     * @param lora     from {@link #loraPack}; null without LoRA
     * @param residual [count, outFeatures], may be y itself; null without residual
     * @param gate     [count] for a gated residual, else null
     * @param y        [count, outFeatures]
     */
    public void linear(LinearShape shape, long count, Rows rows, Buffer x, Buffer packed, Buffer bias, Buffer lora,
                       Buffer residual, Buffer gate, Buffer y) {
        MemorySegment row = shape.hasLora ? Check.rows(rows, count) : Check.optionalRows(rows, count);
        MemorySegment in = Check.input("x", x, count, shape.xBytes);
        MemorySegment weights = Check.input("packed", packed, 1, linearBytes(shape));
        MemorySegment added = Check.optional("bias", bias, shape.weightRows(), 4);
        MemorySegment pairs = Check.inputIf(shape.hasLora, "lora", lora, 1, shape.hasLora ? loraBytes(shape) : 0);
        MemorySegment r = Check.inputIf(shape.hasResidual, "residual", residual, count, shape.yBytes);
        MemorySegment g = Check.inputIf(shape.hasGate, "gate", gate, count, 4);
        MemorySegment out = Check.output("y", y, count, shape.yBytes);
        check(Fathom.fth_linear(handle(), shape.struct, count, row, in, weights, added, pairs, r, g, out));
    }

    // ---- norm, rope ----------------------------------------------------------------------------------------------

    /**
     * @param rows (depth); may be null if the shape has one depth
     * @param x    [count, width]
     * @param gain [depths, width], or null for 1
     * @param bias [depths, width], or null for 0
     * @param y    [count, width]; may be x
     */
    public void norm(NormShape shape, long count, Rows rows, Buffer x, Buffer gain, Buffer bias, Buffer y) {
        MemorySegment row = shape.perDepth ? Check.rows(rows, count) : Check.optionalRows(rows, count);
        MemorySegment in = Check.input("x", x, count, shape.rowBytes);
        MemorySegment scale = Check.optional("gain", gain, 1, shape.gainBytes);
        MemorySegment added = Check.optional("bias", bias, 1, shape.gainBytes);
        MemorySegment out = Check.output("y", y, count, shape.rowBytes);
        check(Fathom.fth_norm(handle(), shape.struct, count, row, in, scale, added, out));
    }

    /**
     * Rotates heads in place.
     *
     * @param rows      (position)
     * @param frequency [rotaryDim / 2]
     * @param x         [count, heads, headDim]
     */
    public void rope(RopeShape shape, long count, Rows rows, Buffer frequency, Buffer x) {
        MemorySegment row = Check.rows(rows, count);
        MemorySegment turns = Check.input("frequency", frequency, 1, shape.frequencyBytes);
        MemorySegment heads = Check.output("x", x, count, shape.rowBytes);
        check(Fathom.fth_rope(handle(), shape.struct, count, row, turns, heads));
    }

    // ---- K,V pool ------------------------------------------------------------------------------------------------

    /** Bytes of a pool. */
    public long kvBytes(KvShape shape) {
        if (shape.bytes[backend] == 0) {
            shape.bytes[backend] = ask(out -> Fathom.fth_kv_bytes(handle(), shape.struct, out));
        }
        return shape.bytes[backend];
    }

    /**
     * Stores K and V of one layer; K as it is given, so rotate it first.
     *
     * @param rows (entry): where to; -1 skips the row, no entry may occur twice
     * @param k    [count, kvHeads, headDim]
     * @param v    [count, kvHeads, headDim]
     * @param pool {@link #kvBytes}
     */
    public void kvWrite(KvShape shape, int layer, long count, Rows rows, Buffer k, Buffer v, Buffer pool) {
        MemorySegment row = Check.rows(rows, count);
        MemorySegment keys = Check.input("k", k, count, shape.rowBytes);
        MemorySegment values = Check.input("v", v, count, shape.rowBytes);
        MemorySegment to = Check.output("pool", pool, 1, kvBytes(shape));
        check(Fathom.fth_kv_write(handle(), shape.struct, layer, count, row, keys, values, to));
    }

    /**
     * Reads entries of one layer back.
     *
     * @param entry [count] of int
     * @param k     [count, kvHeads, headDim]
     * @param v     [count, kvHeads, headDim]
     */
    public void kvRead(KvShape shape, int layer, long count, Buffer entry, Buffer pool, Buffer k, Buffer v) {
        MemorySegment from = Check.control("entry", entry, Check.atLeast("count", count, 0), 4);
        MemorySegment stored = Check.input("pool", pool, 1, kvBytes(shape));
        MemorySegment keys = Check.output("k", k, count, shape.rowBytes);
        MemorySegment values = Check.output("v", v, count, shape.rowBytes);
        check(Fathom.fth_kv_read(handle(), shape.struct, layer, count, from, stored, keys, values));
    }

    // ---- attention -----------------------------------------------------------------------------------------------

    /**
     * Attention over lists of pool entries. Rows of one list that follow one another are read together.
     *
     * @param rows          (list, visible, start, tree, position)
     * @param q             [count, heads, headDim]
     * @param entries       the lists, int; as many items as the buffer holds
     * @param pool          {@link #kvBytes}
     * @param entryPosition [entries of the pool] of int, positions of the keys for a relative bias; null: an item's
     *                      index in its list is its position
     * @param bias          RELATIVE [heads, biasWidth], DENSE [count, heads, biasWidth], else null
     * @param out           [count, heads, headDim]
     */
    public void attention(AttentionShape shape, KvShape kv, int layer, long count, Rows rows, Buffer q, Buffer entries,
                          Buffer pool, Buffer entryPosition, Buffer bias, Buffer out) {
        MemorySegment row = Check.rows(rows, count);
        long queryBytes = shape.headCount * kv.headBytes;
        MemorySegment queries = Check.input("q", q, count, queryBytes);
        MemorySegment lists = Check.control("entries", entries, 0, 4);
        MemorySegment stored = Check.input("pool", pool, 1, kvBytes(kv));
        MemorySegment positions = Check.optional("entryPosition", entryPosition, kv.entryCount, 4);
        MemorySegment added = bias(shape, count, bias);
        MemorySegment result = Check.output("out", out, count, queryBytes);
        check(Fathom.fth_attention(handle(), shape.struct, kv.struct, layer, count, row, queries, lists,
                lists.byteSize() / 4, stored, positions, added, result));
    }

    /**
     * Attention over dense K,V that an engine keeps: a key counts if its token has K,V at the row's depth.
     *
     * @param rows  (sequence, depth, visible, start, tree, position)
     * @param q     [count, heads, headDim]
     * @param k     as the shape says, {@link DenseKvShape#bytes}
     * @param v     likewise
     * @param reach [sequences, tokens] of int: the deepest depth at which the token has K,V, -1 for none
     * @param bias  RELATIVE [heads, biasWidth], DENSE [count, heads, biasWidth], else null
     * @param out   [count, heads, headDim]
     */
    public void attentionMasked(AttentionShape shape, DenseKvShape kv, long count, Rows rows, Buffer q, Buffer k,
                                Buffer v, Buffer reach, Buffer bias, Buffer out) {
        MemorySegment row = Check.rows(rows, count);
        long queryBytes = shape.headCount * kv.headBytes;
        MemorySegment queries = Check.input("q", q, count, queryBytes);
        MemorySegment keys = Check.input("k", k, 1, kv.bytes);
        MemorySegment values = Check.input("v", v, 1, kv.bytes);
        MemorySegment depths = Check.input("reach", reach, 1, kv.reachBytes);
        MemorySegment added = bias(shape, count, bias);
        MemorySegment result = Check.output("out", out, count, queryBytes);
        check(Fathom.fth_attention_masked(handle(), shape.struct, kv.struct, count, row, queries, keys, values, depths,
                added, result));
    }

    private static MemorySegment bias(AttentionShape shape, long count, Buffer bias) {
        return Check.inputIf(shape.bias != BiasKind.NONE, "bias", bias, shape.bias == BiasKind.DENSE ? count : 1,
                shape.biasBytes);
    }

    // ---- K,V backfill --------------------------------------------------------------------------------------------

    /** Bytes of the packed weights of a backfill. */
    public long backfillBytes(BackfillShape shape, KvShape kv) {
        BackfillShape.Size known = shape.size;
        if (known == null || known.kv() != kv || known.backend() != backend) {
            long bytes = ask(out -> Fathom.fth_backfill_bytes(handle(), shape.struct, kv.struct, out));
            known = shape.size = new BackfillShape.Size(kv, backend, bytes);
        }
        return known.bytes();
    }

    /**
     * Packs K's and V's weights of one layer at one depth, for this shape and this kv alone, but with any number of
     * entries.
     *
     * @param wk       [kvHeads * headDim, hiddenSize] of {@code sourceType}
     * @param wv       the same
     * @param bk       [kvHeads * headDim] of {@code sourceType}, or null for 0
     * @param bv       the same
     * @param gain     [hiddenSize], or null for 1; null without norm
     * @param normBias [hiddenSize], or null for 0; null without norm
     * @param packed   {@link #backfillBytes}
     */
    public void backfillPack(BackfillShape shape, KvShape kv, int depth, int layer, DType sourceType, Buffer wk,
                             Buffer wv, Buffer bk, Buffer bv, Buffer gain, Buffer normBias, Buffer packed) {
        long sourceBytes = (long) shape.width * Check.plainSource(sourceType).bytes();
        MemorySegment keys = Check.input("wk", wk, kv.rowBytes / 4, sourceBytes);
        MemorySegment values = Check.input("wv", wv, kv.rowBytes / 4, sourceBytes);
        MemorySegment keyBias = Check.optional("bk", bk, kv.rowBytes / 4, sourceType.bytes());
        MemorySegment valueBias = Check.optional("bv", bv, kv.rowBytes / 4, sourceType.bytes());
        MemorySegment scale = Check.optional("gain", gain, 1, shape.hiddenBytes);
        MemorySegment added = Check.optional("normBias", normBias, 1, shape.hiddenBytes);
        MemorySegment to = Check.output("packed", packed, 1, backfillBytes(shape, kv));
        check(Fathom.fth_backfill_pack(handle(), shape.struct, kv.struct, depth, layer, sourceType.ordinal(), keys,
                values, keyBias, valueBias, scale, added, to));
    }

    /**
     * Writes K,V of all layers from exit states.
     *
     * @param rows      (position); may be null without rotation
     * @param h         [count, hiddenSize]
     * @param packed    from {@link #backfillPack}
     * @param frequency [rotaryDim / 2]; null without rotation
     * @param entry     [count, depths] of int, -1 skips
     * @param pool      {@link #kvBytes}
     */
    public void backfill(BackfillShape shape, KvShape kv, long count, Rows rows, Buffer h, Buffer packed,
                         Buffer frequency, Buffer entry, Buffer pool) {
        MemorySegment row = shape.turns ? Check.rows(rows, count) : Check.optionalRows(rows, count);
        MemorySegment states = Check.input("h", h, count, shape.hiddenBytes);
        MemorySegment weights = Check.input("packed", packed, 1, backfillBytes(shape, kv));
        MemorySegment turns = Check.optional("frequency", frequency, 1, shape.frequencyBytes);
        MemorySegment targets = Check.control("entry", entry, count, shape.entryBytes);
        MemorySegment to = Check.output("pool", pool, 1, kvBytes(kv));
        check(Fathom.fth_backfill(handle(), shape.struct, kv.struct, count, row, states, weights, turns, targets, to));
    }

    // ---- block ---------------------------------------------------------------------------------------------------

    /** Bytes of the buffer with all weights of a block. It must be zero before packing. */
    public long blockBytes(BlockShape shape) {
        if (shape.bytes[backend] == 0) {
            shape.bytes[backend] = ask(out -> Fathom.fth_block_bytes(handle(), shape.struct, out));
        }
        return shape.bytes[backend];
    }

    /**
     * Packs one tensor: linears [out, in], biases [out], LoRA A [rank, in], B [out, rank], gains [hiddenSize],
     * frequencies [rotaryDim / 2], the relative bias [heads, relativeWidth]. Gains that are not packed are 0: pack
     * every one that the placement uses.
     *
     * @param scale   multiplies the source: 1, or {@code alpha / rank} for a LoRA's B
     * @param source  {@link BlockShape#elements} of {@code sourceType}; F8_E4M3, Q8_0 and Q4_0 for weights of linears
     *                only, whose inputs must be a multiple of 32 for the last two
     * @param weights {@link #blockBytes}
     */
    public void blockPack(BlockShape shape, int layer, int depth, Part part, Kind kind, float scale, DType sourceType,
                          Buffer source, Buffer weights) {
        MemorySegment from = Check.input("source", source, 1, shape.sourceBytes(part, kind, sourceType));
        MemorySegment to = Check.output("weights", weights, 1, blockBytes(shape));
        check(Fathom.fth_block_pack(handle(), shape.struct, layer, depth, part.ordinal(), kind.ordinal(), scale,
                sourceType.ordinal(), from, to));
    }

    /** Scratch that the context will hold for {@code count} rows. */
    public long blockScratchBytes(BlockShape shape, long count) {
        return ask(out -> Fathom.fth_block_scratch_bytes(handle(), shape.struct, count, out));
    }

    /**
     * One pass of rows of any depths and sequences through the layers. In every layer each row with an entry first
     * stores its K,V there, then rows attend: a row sees entries that others write in this call if its list names
     * them.
     *
     * @param rows          (list, visible, start, tree, position, depth, entry)
     * @param crossRows     (list, visible, start, tree): what the cross-attention of each row sees, entries of the same
     *                      pool that hold an encoder's K,V; null without {@link BlockShape#cross}
     * @param weights       from {@link #blockPack}
     * @param entries       the lists, int; as many items as the buffer holds
     * @param entryPosition [poolEntries] of int, positions of the keys for a relative bias; null: an item's index in
     *                      its list is its position
     * @param poolEntries   entries of the pool, whose shape is {@link BlockShape#kv}
     * @param pool          {@link #kvBytes} of that shape
     * @param hidden        [count, hiddenSize], in place
     */
    public void block(BlockShape shape, long count, Rows rows, Rows crossRows, Buffer weights, Buffer entries,
                      Buffer entryPosition, long poolEntries, Buffer pool, Buffer hidden) {
        MemorySegment row = Check.rows(rows, count);
        MemorySegment cross = Check.rowsIf(shape.hasCross, "crossRows", crossRows, count);
        MemorySegment packed = Check.input("weights", weights, 1, blockBytes(shape));
        MemorySegment lists = Check.control("entries", entries, 0, 4);
        MemorySegment stored = Check.output("pool", pool, 1, kvBytes(shape.kv(poolEntries)));
        MemorySegment positions = Check.optional("entryPosition", entryPosition, poolEntries, 4);
        MemorySegment states = Check.output("hidden", hidden, count, shape.hiddenBytes);
        check(Fathom.fth_block(handle(), shape.struct, count, row, cross, packed, lists, lists.byteSize() / 4,
                positions, poolEntries, stored, states));
    }

    // ---- head statistics -----------------------------------------------------------------------------------------

    /**
     * Norm, LM head and statistics of the logits in one pass.
     *
     * @param h           [count, hiddenSize]
     * @param gain        [hiddenSize], or null for 1
     * @param normBias    [hiddenSize], or null for 0
     * @param packed      W, packed under {@link HeadShape#weights}
     * @param chosenId    [count, chosen] of int; null if the shape has none
     * @param stats       room for {@code count} rows; null with chosen logits and without {@code logits}: then only the
     *                    chosen ones are computed, to the same bits
     * @param chosenLogit [count, chosen]; null if the shape has none
     * @param logits      [count, vocabSize], or null: none are stored
     */
    public void head(HeadShape shape, long count, Buffer h, Buffer gain, Buffer normBias, Buffer packed,
                     Buffer chosenId, HeadStats stats, Buffer chosenLogit, Buffer logits) {
        MemorySegment states = Check.input("h", h, Check.atLeast("count", count, 0), shape.hiddenBytes);
        MemorySegment scale = Check.optional("gain", gain, 1, shape.hiddenBytes);
        MemorySegment added = Check.optional("normBias", normBias, 1, shape.hiddenBytes);
        MemorySegment weights = Check.input("packed", packed, 1, linearBytes(shape.weights));
        boolean choosing = shape.chosenBytes > 0;
        MemorySegment ids = Check.controlIf(choosing, "chosenId", chosenId, count, shape.chosenBytes);
        boolean onlyChosen = choosing && stats == null && logits == null;
        MemorySegment told = onlyChosen ? MemorySegment.NULL
                : Check.output("stats", Check.notNull("stats", stats).buffer(), count, HeadStats.BYTES);
        MemorySegment picked = Check.outputIf(choosing, "chosenLogit", chosenLogit, count, shape.chosenBytes);
        MemorySegment all = Check.optionalOutput("logits", logits, count, shape.logitBytes);
        check(Fathom.fth_head(handle(), shape.struct, count, states, scale, added, weights, ids, told, picked, all));
    }

    // ---- gate ----------------------------------------------------------------------------------------------------

    /** Bytes of the packed routers of all depths. */
    public long gateBytes(GateShape shape) {
        if (shape.bytes[backend] == 0) {
            shape.bytes[backend] = ask(out -> Fathom.fth_gate_bytes(handle(), shape.struct, out));
        }
        return shape.bytes[backend];
    }

    /**
     * Packs a part of one depth's router. Every part that the shape has must be packed before use.
     *
     * @param source {@link GateShape#elements} of {@code sourceType}; weights are [out, in]
     * @param packed {@link #gateBytes}
     */
    public void gatePack(GateShape shape, int depth, GatePart part, DType sourceType, Buffer source, Buffer packed) {
        MemorySegment from = Check.input("source", source, shape.elements(part), Check.plainSource(sourceType).bytes());
        MemorySegment to = Check.output("packed", packed, 1, gateBytes(shape));
        check(Fathom.fth_gate_pack(handle(), shape.struct, depth, part.ordinal(), sourceType.ordinal(), from, to));
    }

    /**
     * Runs each row's router.
     *
     * @param rows       (depth); may be null if the shape has one depth
     * @param x          [count, hiddenSize]
     * @param packed     from {@link #gatePack}
     * @param choiceBias [outputs] or null
     * @param logits     z, [count, outputs] or null
     * @param p          [count, outputs] or null
     * @param gate       [count]
     * @param choice     [count] of int
     */
    public void gate(GateShape shape, long count, Rows rows, Buffer x, Buffer packed, Buffer choiceBias,
                     Buffer logits, Buffer p, Buffer gate, Buffer choice) {
        MemorySegment row = shape.perDepth ? Check.rows(rows, count) : Check.optionalRows(rows, count);
        MemorySegment in = Check.input("x", x, count, shape.hiddenBytes);
        MemorySegment routers = Check.input("packed", packed, 1, gateBytes(shape));
        MemorySegment added = Check.optional("choiceBias", choiceBias, 1, shape.outputBytes);
        MemorySegment all = Check.optionalOutput("logits", logits, count, shape.outputBytes);
        MemorySegment values = Check.optionalOutput("p", p, count, shape.outputBytes);
        MemorySegment gates = Check.output("gate", gate, count, 4);
        MemorySegment choices = Check.output("choice", choice, count, 4);
        check(Fathom.fth_gate(handle(), shape.struct, count, row, in, routers, added, all, values, gates, choices));
    }

    // ---- recursion -----------------------------------------------------------------------------------------------

    /**
     * Passes through a block, as many for each row as its routers say. On a CUDA context nothing waits for Java between
     * the passes.
     *
     * <p>A row with an entry appends it to its list, behind those of the rows before it that append to the same one, and
     * sees all items up to its own; {@code visible} is what the list holds before the call. A row without an entry sees
     * {@code visible} items. Rows that append to one list follow one another. The lists are not changed: the caller
     * appends the entries of the passes that a row took.
     *
     * @param gate         its routers look at the states; null: every row takes all passes
     * @param rows         [depths, count] (list, visible, start, tree, position, entry): each row, for each pass, as it
     *                     is if it gets there
     * @param blockWeights from {@link #blockPack}; the block has no cross-attention
     * @param gateWeights  from {@link #gatePack}; null without gate
     * @param entries      the lists, int, with room for what is appended
     * @param hidden       [count, hiddenSize], in place
     * @param passes       [count] of int: how many each row took
     */
    public void recursion(RecursionShape shape, BlockShape block, GateShape gate, long count, Rows rows,
                          Buffer blockWeights, Buffer gateWeights, Buffer entries, Buffer entryPosition,
                          long poolEntries, Buffer pool, Buffer hidden, Buffer passes) {
        MemorySegment row = Check.rows(rows, Check.product(Check.atLeast("count", count, 0), shape.depths()));
        boolean routed = gate != null;
        MemorySegment packed = Check.input("blockWeights", blockWeights, 1, blockBytes(block));
        MemorySegment routers = Check.inputIf(routed, "gateWeights", gateWeights, 1, routed ? gateBytes(gate) : 0);
        MemorySegment lists = Check.control("entries", entries, 0, 4);
        MemorySegment positions = Check.optional("entryPosition", entryPosition, poolEntries, 4);
        MemorySegment stored = Check.output("pool", pool, 1, kvBytes(block.kv(poolEntries)));
        MemorySegment states = Check.output("hidden", hidden, count, block.hiddenBytes);
        MemorySegment taken = Check.output("passes", passes, count, 4);
        check(Fathom.fth_recursion(handle(), shape.struct, block.struct, routed ? gate.struct : MemorySegment.NULL,
                count, row, packed, routers, lists, lists.byteSize() / 4, positions, poolEntries, stored, states,
                taken));
    }

    // ---- state delta ---------------------------------------------------------------------------------------------

    /**
     * How far each row moved from one pass to the next. For one number per tensor, the tensor is one row.
     *
     * @param before2 [count, width], the state before {@code before}; or null
     * @param before  [count, width]
     * @param now     [count, width]
     * @param delta   room for {@code count} rows
     */
    public void stateDelta(int width, long count, Buffer before2, Buffer before, Buffer now, StateDelta delta) {
        long rowBytes = Check.atLeast("width", width, 1) * 4L;
        Check.atLeast("count", count, 0);
        MemorySegment first = Check.optional("before2", before2, count, rowBytes);
        MemorySegment second = Check.input("before", before, count, rowBytes);
        MemorySegment third = Check.input("now", now, count, rowBytes);
        MemorySegment told = Check.output("delta", Check.notNull("delta", delta).buffer(), count, StateDelta.BYTES);
        check(Fathom.fth_state_delta(handle(), width, count, first, second, third, told));
    }

    // ---- top k ---------------------------------------------------------------------------------------------------

    /**
     * The {@code k[s]} largest values of each segment s, {@code values[begin[s]] .. values[begin[s + 1] - 1]}: writes
     * their positions in {@code values}, in ascending order, to {@code index[begin[s]] .. index[begin[s] + k[s] - 1]},
     * and nothing else. Of equal values the lowest positions are taken; NaN is less than any number.
     *
     * @param values [count]
     * @param begin  [segments + 1] of int, ascending, in 0..count
     * @param k      [segments] of int, each at most the segment's size
     * @param index  [count] of int
     */
    public void topK(long count, Buffer values, long segments, Buffer begin, Buffer k, Buffer index) {
        MemorySegment from = Check.input("values", values, Check.atLeast("count", count, 0), 4);
        MemorySegment ends = Check.control("begin", begin, Check.sum(Check.atLeast("segments", segments, 0), 1), 4);
        MemorySegment numbers = Check.control("k", k, segments, 4);
        MemorySegment to = Check.output("index", index, count, 4);
        check(Fathom.fth_top_k(handle(), count, from, segments, ends, numbers, to));
    }

    // ---- compact, embed ------------------------------------------------------------------------------------------

    /**
     * {@code y[i] = x[index[i]]}.
     *
     * @param index [count] of int
     * @param x     [sourceCount, width]
     * @param y     [count, width]
     */
    public void gather(int width, long sourceCount, long count, Buffer index, Buffer x, Buffer y) {
        long rowBytes = Check.atLeast("width", width, 1) * 4L;
        MemorySegment from = Check.control("index", index, Check.atLeast("count", count, 0), 4);
        MemorySegment in = Check.input("x", x, Check.atLeast("sourceCount", sourceCount, 0), rowBytes);
        MemorySegment out = Check.output("y", y, count, rowBytes);
        check(Fathom.fth_gather(handle(), width, sourceCount, count, from, in, out));
    }

    /**
     * {@code x[index[i]] = y[i]}; other rows of x are not touched.
     *
     * @param index [count] of int, all different
     * @param y     [count, width]
     * @param x     [targetCount, width]
     */
    public void scatter(int width, long targetCount, long count, Buffer index, Buffer y, Buffer x) {
        long rowBytes = Check.atLeast("width", width, 1) * 4L;
        MemorySegment to = Check.control("index", index, Check.atLeast("count", count, 0), 4);
        MemorySegment in = Check.input("y", y, count, rowBytes);
        MemorySegment out = Check.output("x", x, Check.atLeast("targetCount", targetCount, 0), rowBytes);
        check(Fathom.fth_scatter(handle(), width, targetCount, count, to, in, out));
    }

    /**
     * {@code x[index[i]] += gate[i] * y[i]}; other rows of x are not touched.
     *
     * @param index [count] of int, all different
     * @param gate  [count], or null for 1
     * @param y     [count, width]
     * @param x     [targetCount, width]
     */
    public void scatterAdd(int width, long targetCount, long count, Buffer index, Buffer gate, Buffer y, Buffer x) {
        long rowBytes = Check.atLeast("width", width, 1) * 4L;
        MemorySegment to = Check.control("index", index, Check.atLeast("count", count, 0), 4);
        MemorySegment gates = Check.optional("gate", gate, count, 4);
        MemorySegment in = Check.input("y", y, count, rowBytes);
        MemorySegment out = Check.output("x", x, Check.atLeast("targetCount", targetCount, 0), rowBytes);
        check(Fathom.fth_scatter_add(handle(), width, targetCount, count, to, gates, in, out));
    }

    /**
     * {@code out[i] = scale * table[id[i]]}.
     *
     * @param id    [count] of int
     * @param table [vocabSize, hiddenSize] of the shape's type, or the packed LM head
     * @param out   [count, hiddenSize]
     */
    public void embed(EmbedShape shape, long count, Buffer id, Buffer table, Buffer out) {
        MemorySegment ids = Check.control("id", id, Check.atLeast("count", count, 0), 4);
        long tableBytes = shape.isPacked ? linearBytes(shape.weights) : shape.tableBytes;
        MemorySegment from = Check.input("table", table, 1, tableBytes);
        MemorySegment to = Check.output("out", out, count, shape.hiddenBytes);
        check(Fathom.fth_embed(handle(), shape.struct, count, ids, from, to));
    }

    // ---- calls ---------------------------------------------------------------------------------------------------

    /**
     * Nanoseconds that kernel calls of this context have taken so far, the boundary included. Counted if the program
     * was started with {@code -Dfathom.timed=true}; else 0.
     */
    public long kernelNanos() {
        return nanos;
    }

    /** Taken at the beginning of every call. */
    private MemorySegment handle() {
        if (isClosed()) throw new IllegalStateException("The context is closed.");
        if (TIMED) begun = System.nanoTime();
        return handle;
    }

    /** Calls a function that answers with one number. */
    private long ask(ToIntFunction<MemorySegment> function) {
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(ValueLayout.JAVA_LONG);
            check(function.applyAsInt(out));
            return out.get(ValueLayout.JAVA_LONG, 0);
        }
    }

    /** Passed at the end of every call. */
    private void check(int status) {
        if (TIMED) nanos += System.nanoTime() - begun;
        calls++;
        if (status != 0) throw failure(status, status == Fathom.FTH_BUSY() ? "" : message());
    }

    private String message() {
        // As part of the arena, so that the text cannot go away while it is read.
        MemorySegment text = Fathom.fth_context_message(handle());
        return FathomLibrary.attach(text, text.byteSize(), arena, null).getString(0);
    }

    private static RuntimeException failure(int status, String told) {
        String message = told.replaceFirst("^fth_\\w+: ", ""); // the C function: here the stack trace tells
        if (status == Fathom.FTH_INVALID_ARGUMENT()) return new IllegalArgumentException(message);
        if (status == Fathom.FTH_BUSY()) {
            return new IllegalStateException("Another call is running on this context; use one context per thread.");
        }
        return new KernelException(status == Fathom.FTH_UNSUPPORTED() ? KernelException.Status.UNSUPPORTED
                : status == Fathom.FTH_OUT_OF_MEMORY() ? KernelException.Status.OUT_OF_MEMORY
                : KernelException.Status.DEVICE_ERROR, message);
    }
}
