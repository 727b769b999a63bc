package dev.fathom.bench;

import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.Map;

import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.Context;
import dev.fathom.DType;
import dev.fathom.Kind;
import dev.fathom.NormKind;
import dev.fathom.Part;
import dev.fathom.Rows;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;

/** One decoder layer over the next token of {@code rows} sequences. */
public class BlockBench extends KernelBench {
    private static final float EPS = 1e-5f;

    @State(Scope.Benchmark)
    public static class Plain {
        @Param({"MOR_360M"})
        public Model model;
        @Param({"1", "16"})
        public int rows;
        @Param({"512"})
        public int context;

        float[][] hidden;
        PlainLayer layer;
        /** [rows * context][kvWidth], one sequence after another. */
        float[][] k;
        float[][] v;
        private PlainKv[] kv;

        @Setup
        public void fill() {
            Numbers numbers = new Numbers();
            hidden = numbers.rows(rows, model.hidden);
            layer = new PlainLayer(model, numbers, EPS, rows, context);
            k = numbers.rows(rows * context, model.kvWidth());
            v = numbers.rows(rows * context, model.kvWidth());
            kv = new PlainKv[rows];
            for (int r = 0; r < rows; r++) {
                int from = r * context, to = from + context;
                kv[r] = new PlainKv(model, Arrays.copyOfRange(k, from, to), Arrays.copyOfRange(v, from, to));
            }
        }

        float[][] run() {
            layer.run(hidden, kv, context - 1);
            return hidden;
        }
    }

    @State(Scope.Benchmark)
    public static class Ours {
        /** Of the weights; K and V: see {@link #kvType}. */
        @Param({"F32", "BF16", "I8", "Q8_0", "Q4_0", "F8_E4M3"})
        public DType type;

        private Context context;
        private BlockShape shape;
        private Rows rows;
        private Buffer weights;
        private Buffer lists;
        private long entries;
        private Buffer pool;
        private Buffer hidden;

        @Setup
        public void prepare(Plain plain, Cpu cpu) {
            context = cpu.context;
            Model model = plain.model;
            shape = BlockShape.builder(1, model.hidden, model.intermediate, model.heads).kvHeads(model.kvHeads)
                    .weightType(type).kvType(kvType(type)).norm(NormKind.RMS, EPS).build();
            entries = (long) plain.rows * plain.context;
            rows = Rows.allocate(context, plain.rows);
            for (int r = 0; r < plain.rows; r++) {
                int first = r * plain.context, last = first + plain.context - 1;
                rows.set(r, first, plain.context, plain.context - 1, 0, last);
            }
            weights = pack(cpu, plain.layer);
            lists = cpu.list((int) entries);
            pool = cpu.pool(shape.kv(entries), plain.k, plain.v);
            hidden = cpu.buffer(plain.hidden);
            call();
            Agreement.require(plain.run(), hidden, Agreement.of(type));
        }

        private Buffer pack(Cpu cpu, PlainLayer layer) {
            Buffer packed = context.allocate(context.blockBytes(shape));
            try (Arena arena = Arena.ofConfined()) {
                layer.linears().forEach((part, w) ->
                        pack(part, cpu.transposed(arena, w, 0, w[0].length), packed));
            }
            pack(Part.ATTENTION_PRE_NORM, cpu.buffer(layer.attentionGain), packed);
            pack(Part.MLP_PRE_NORM, cpu.buffer(layer.mlpGain), packed);
            pack(Part.ROPE_FREQUENCY, cpu.buffer(layer.frequency), packed);
            return packed;
        }

        private void pack(Part part, Buffer source, Buffer packed) {
            context.blockPack(shape, 0, 0, part, Kind.WEIGHT, 1, DType.F32, source, packed);
        }

        void call() {
            context.block(shape, rows.capacity(), rows, null, weights, lists, null, entries, pool, hidden);
        }
    }

    private static DType kvType(DType weights) {
        return weights.quantised() ? DType.BF16 : weights;
    }

    @Benchmark
    public void fathom(Ours ours) {
        ours.call();
    }

    @Benchmark
    public float[][] plainJava(Plain plain) {
        return plain.run();
    }

    @Override
    Work work(Case c) {
        Model m = c.model();
        DType kvType = kvType(c.type());
        double rows = c.rows(), hidden = rows * m.hidden * 4, token = 2 * Work.kvBytes(kvType, m);
        double in = m.hidden, out = 2.0 * m.queryWidth() + 2.0 * m.kvWidth() + 3.0 * m.intermediate;
        Map<DType, Double> flops = new EnumMap<>(DType.class);
        flops.put(c.type(), 2 * rows * in * out);
        flops.merge(kvType, 4 * rows * c.context() * m.queryWidth(), Double::sum);
        return new Work(flops, Work.weightBytes(c.type(), in, out) + rows * c.context() * token + hidden,
                hidden + rows * token);
    }
}
