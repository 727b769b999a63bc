import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;

import jdk.incubator.vector.ByteVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;

/**
 * The products of a layer with the JDK's Vector API, y = W x with W in f32 or in int8 with a scale per row. Weights lie
 * in panels of {@link #PANEL} output features, [in][PANEL], so that a sum is the lane of a vector; a tile of four rows
 * by a panel stays in registers. The API has no dot product of bytes: int8 becomes float on its way in, and activations
 * stay as they are.
 */
final class VectorApi {
    private static final VectorSpecies<Float> F = FloatVector.SPECIES_PREFERRED;
    private static final int LANES = F.length();
    private static final VectorSpecies<Byte> B = VectorSpecies.of(byte.class, VectorShape.forBitSize(8 * LANES));
    private static final int PANEL = 4 * LANES;
    private static final long LINE = 64;
    private static final long WARM_NANOS = 1_000_000_000;

    /** One product: x [rows, in], y [rows, out], and W of each copy in one of two types. */
    private static final class Product {
        int in;
        int out;
        float[] x;
        float[] y;
        float[] scale; // of the output features, in int8
        MemorySegment[] w; // panels, of each copy
    }

    private final boolean int8;
    private final int copies;
    private final List<Product> products = new ArrayList<>();
    private final Arena arena = Arena.ofShared();
    private Team team = new Team(1);
    private int rows;

    VectorApi(boolean int8, int copies) {
        this.int8 = int8;
        this.copies = copies;
    }

    static String version() {
        return Runtime.version().toString();
    }

    /** Takes x [rows, in] and w [out, in] from native memory; out is a multiple of the panel. */
    void add(long x, long w, int rows, int in, int out) {
        if (out % PANEL != 0) throw new IllegalArgumentException(out + " output features are not whole panels");
        Product p = new Product();
        p.in = in;
        p.out = out;
        p.x = floats(x, rows * in);
        p.y = new float[rows * out];
        float[] plain = floats(w, in * out);
        long bytes = (int8 ? 1L : 4L) * in * out;
        p.w = new MemorySegment[copies];
        for (int copy = 0; copy < copies; copy++) p.w[copy] = arena.allocate(bytes, LINE);
        if (int8) p.scale = new float[out];
        for (int o = 0; o < out; o++) {
            float most = 0;
            for (int i = 0; int8 && i < in; i++) most = Math.max(most, Math.abs(plain[o * in + i]));
            if (int8) p.scale[o] = most / 127;
            for (int i = 0; i < in; i++) {
                int place = (o / PANEL * in + i) * PANEL + o % PANEL;
                float value = plain[o * in + i];
                if (int8) p.w[0].set(ValueLayout.JAVA_BYTE, place, (byte) Math.rint(value / p.scale[o]));
                else p.w[0].setAtIndex(ValueLayout.JAVA_FLOAT, place, value);
            }
        }
        for (int copy = 1; copy < copies; copy++) p.w[copy].copyFrom(p.w[0]);
        products.add(p);
    }

    private static float[] floats(long address, int count) {
        return MemorySegment.ofAddress(address).reinterpret(4L * count).toArray(ValueLayout.JAVA_FLOAT);
    }

    /** So many rows, one or a multiple of four, and threads; then runs until the compiler is done. */
    void prepare(int rows, int threads) {
        this.rows = rows;
        if (threads != team.threads) {
            team.close();
            team = new Team(threads);
        }
        int copy = 0;
        for (long start = System.nanoTime(); System.nanoTime() - start < WARM_NANOS; ) run(copy++ % copies);
        for (Product p : products) Arrays.fill(p.y, Float.NaN);
    }

    void run(int copy) {
        for (Product p : products) team.run(p.out / PANEL, panel -> panel(p, copy, panel));
    }

    void result(int part, long y) {
        float[] from = products.get(part).y;
        MemorySegment.copy(from, 0, MemorySegment.ofAddress(y).reinterpret(4L * from.length), ValueLayout.JAVA_FLOAT, 0,
                from.length);
    }

    void close() {
        team.close();
        arena.close();
    }

    private void panel(Product p, int copy, int panel) {
        long size = (int8 ? 1L : 4L) * PANEL * p.in;
        MemorySegment w = p.w[copy].asSlice(panel * size, size);
        int o = panel * PANEL;
        if (rows == 1) one(p.x, p.in, w, int8, p.y, o);
        else for (int r = 0; r < rows; r += 4) four(p.x, r, p.in, w, int8, p.y, o, p.out);
        for (int r = 0; int8 && r < rows; r++) scale(p.y, r * p.out + o, p.scale, o);
    }

    // ---- one row: two sums for each feature, so that additions wait for each other half as long --------------------

    private static void one(float[] x, int in, MemorySegment w, boolean int8, float[] y, int o) {
        FloatVector a0 = FloatVector.zero(F), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        for (int i = 0; i < in; i += 2) {
            long at = (long) PANEL * i;
            FloatVector even = FloatVector.broadcast(F, x[i]), odd = FloatVector.broadcast(F, x[i + 1]);
            a0 = even.fma(load(w, int8, at), a0);
            a1 = even.fma(load(w, int8, at + LANES), a1);
            a2 = even.fma(load(w, int8, at + 2 * LANES), a2);
            a3 = even.fma(load(w, int8, at + 3 * LANES), a3);
            b0 = odd.fma(load(w, int8, at + 4 * LANES), b0);
            b1 = odd.fma(load(w, int8, at + 5 * LANES), b1);
            b2 = odd.fma(load(w, int8, at + 6 * LANES), b2);
            b3 = odd.fma(load(w, int8, at + 7 * LANES), b3);
        }
        store(a0.add(b0), a1.add(b1), a2.add(b2), a3.add(b3), y, o);
    }

    // ---- four rows ------------------------------------------------------------------------------------------------

    private static void four(float[] x, int r, int in, MemorySegment w, boolean int8, float[] y, int o, int out) {
        FloatVector a0 = FloatVector.zero(F), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        FloatVector c0 = a0, c1 = a0, c2 = a0, c3 = a0, d0 = a0, d1 = a0, d2 = a0, d3 = a0;
        for (int i = 0, k = r * in; i < in; i++, k++) {
            long at = (long) PANEL * i;
            FloatVector w0 = load(w, int8, at), w1 = load(w, int8, at + LANES);
            FloatVector w2 = load(w, int8, at + 2 * LANES), w3 = load(w, int8, at + 3 * LANES);
            FloatVector v = FloatVector.broadcast(F, x[k]);
            a0 = v.fma(w0, a0);
            a1 = v.fma(w1, a1);
            a2 = v.fma(w2, a2);
            a3 = v.fma(w3, a3);
            v = FloatVector.broadcast(F, x[k + in]);
            b0 = v.fma(w0, b0);
            b1 = v.fma(w1, b1);
            b2 = v.fma(w2, b2);
            b3 = v.fma(w3, b3);
            v = FloatVector.broadcast(F, x[k + 2 * in]);
            c0 = v.fma(w0, c0);
            c1 = v.fma(w1, c1);
            c2 = v.fma(w2, c2);
            c3 = v.fma(w3, c3);
            v = FloatVector.broadcast(F, x[k + 3 * in]);
            d0 = v.fma(w0, d0);
            d1 = v.fma(w1, d1);
            d2 = v.fma(w2, d2);
            d3 = v.fma(w3, d3);
        }
        store(a0, a1, a2, a3, y, r * out + o);
        store(b0, b1, b2, b3, y, (r + 1) * out + o);
        store(c0, c1, c2, c3, y, (r + 2) * out + o);
        store(d0, d1, d2, d3, y, (r + 3) * out + o);
    }

    private static FloatVector load(MemorySegment w, boolean int8, long at) {
        if (!int8) return FloatVector.fromMemorySegment(F, w, 4 * at, ByteOrder.nativeOrder());
        ByteVector v = ByteVector.fromMemorySegment(B, w, at, ByteOrder.nativeOrder());
        return (FloatVector) v.convertShape(VectorOperators.B2F, F, 0);
    }

    private static void store(FloatVector v0, FloatVector v1, FloatVector v2, FloatVector v3, float[] y, int at) {
        v0.intoArray(y, at);
        v1.intoArray(y, at + LANES);
        v2.intoArray(y, at + 2 * LANES);
        v3.intoArray(y, at + 3 * LANES);
    }

    private static void scale(float[] y, int at, float[] scale, int o) {
        for (int i = 0; i < PANEL; i += LANES) {
            FloatVector.fromArray(F, y, at + i).mul(FloatVector.fromArray(F, scale, o + i)).intoArray(y, at + i);
        }
    }

    // ---- threads ----------------------------------------------------------------------------------------------------

    private interface Job {
        void piece(int index);
    }

    /** Shares the pieces of a job among threads, which spin for the next one a moment and then sleep. */
    private static final class Team {
        private static final int SPINS = 2000;

        final int threads;
        private final List<Thread> helpers = new ArrayList<>();
        private final AtomicInteger next = new AtomicInteger();
        private final AtomicInteger left = new AtomicInteger();
        private Job job;
        private int pieces;
        private volatile int epoch;
        private volatile boolean closed;

        Team(int threads) {
            this.threads = threads;
            for (int i = 1; i < threads; i++) helpers.add(Thread.ofPlatform().daemon().start(this::help));
        }

        void run(int pieces, Job job) {
            this.job = job;
            this.pieces = pieces;
            next.set(0);
            left.set(helpers.size());
            epoch++; // only the caller writes it
            for (Thread helper : helpers) LockSupport.unpark(helper);
            share();
            while (left.get() != 0) Thread.onSpinWait();
        }

        void close() {
            closed = true;
            for (Thread helper : helpers) LockSupport.unpark(helper);
        }

        private void share() {
            for (int i; (i = next.getAndIncrement()) < pieces; ) job.piece(i);
        }

        private void help() {
            for (int seen = 0; ; seen++) {
                for (int i = 0; i < SPINS && epoch == seen; i++) Thread.onSpinWait();
                while (epoch == seen && !closed) LockSupport.park(this);
                if (closed) return;
                share();
                left.decrementAndGet();
            }
        }
    }
}
