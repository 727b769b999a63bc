package dev.fathom.golden;

import java.io.IOException;
import java.util.Locale;
import java.util.stream.Stream;

import dev.fathom.Activation;
import dev.fathom.BlockShape;
import dev.fathom.Buffer;
import dev.fathom.DType;
import dev.fathom.Kind;
import dev.fathom.KvShape;
import dev.fathom.NormKind;
import dev.fathom.NormPlacement;
import dev.fathom.Part;
import dev.fathom.RopeStyle;
import dev.fathom.Rows;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** A whole block over rows of mixed depths, against the golden vectors. */
class BlockGoldenTest {
    @TestFactory
    Stream<DynamicTest> block() throws IOException {
        return Golden.tests("block", BlockGoldenTest::block);
    }

    private static void block(Case c) {
        BlockShape shape = shape(c);
        int count = c.count(), row = shape.kvHeads() * shape.headDim(), entries = c.integer("entries");
        KvShape kv = shape.kv(entries);
        Buffer weights = c.allocate(c.context.blockBytes(shape)), pool = c.allocate(c.context.kvBytes(kv));
        pack(c, shape, weights);
        if (c.has("pool_entry")) {
            int n = c.tensor("pool_entry").elements();
            Rows old = c.freshRows(n);
            for (int i = 0; i < n; i++) old.entry(i, c.integer("pool_entry", i));
            for (int l = 0; l < shape.layers(); l++) {
                c.context.kvWrite(kv, l, n, old, c.part("pool_k", l, shape.layers()),
                        c.part("pool_v", l, shape.layers()), pool);
            }
        }
        Rows rows = c.rows(count);
        for (int i = 0; i < count; i++) rows.entry(i, c.integer("entry", i));
        Buffer hidden = c.buffer("hidden");
        c.context.block(shape, count, rows, shape.cross() ? c.rows(count, "cross_") : null, weights,
                c.buffer("entries"), c.buffer("entry_position"), entries, pool, hidden);

        double[] want = c.values("hidden_out");
        double error = (shape.cross() ? 3 : 2) * shape.layers() * errorOfSubLayer(shape);
        c.expect("hidden_out", hidden, i -> error * (1 + Math.abs(want[i])));
        for (String name : new String[] {"k", "v"}) {
            double[] written = c.values("written_" + name);
            Buffer k = c.floats(row), v = c.floats(row), one = c.allocate(4);
            for (int i = 0; i < shape.layers() * count; i++) {
                if (rows.entry(i % count) < 0) continue;
                one.setInt(0, rows.entry(i % count));
                c.context.kvRead(kv, i / count, 1, one, pool, k, v);
                for (int j = 0; j < row; j++) {
                    double exact = written[i * row + j];
                    float got = (name.equals("k") ? k : v).getFloat(j);
                    Case.near("written_" + name, i * row + j, exact, got, error * (1 + Math.abs(exact)));
                }
            }
        }
    }

    /**
     * What a sub-layer may add to the error of a value around 1. It chains three products. One of n terms, with rows of
     * W and inputs of norms about 1 and sqrt(n), has terms of sqrt(n) in sum, by Cauchy and Schwarz, and errs by n U of
     * that. In bf16 an input that is off by U may still fall to the next value, up to 2^-7 away; so may a stored K or
     * V; and the weights of attention are bf16 themselves. Few inputs do, and each is one of many terms: 2^-7 holds for
     * their sum.
     */
    private static double errorOfSubLayer(BlockShape shape) {
        if (shape.weightType() == DType.BF16 || shape.kvType() == DType.BF16) return 0x1p-7;
        int longest = Math.max(shape.hiddenSize(), Math.max(shape.intermediateSize(), shape.heads() * shape.headDim()));
        return 3 * Bounds.sum(longest, Math.sqrt(longest));
    }

    private static BlockShape shape(Case c) {
        NormPlacement[] places = Stream.of(NormPlacement.values())
                .filter(place -> (c.integer("norm_placement") >> place.ordinal() & 1) == 1)
                .toArray(NormPlacement[]::new);
        int heads = c.integer("heads");
        BlockShape.Builder builder = BlockShape
                .builder(c.integer("layers"), c.integer("hidden_size"), c.integer("intermediate_size"), heads)
                .depths(c.integer("depths")).kvHeads(c.integer("kv_heads")).headDim(c.integer("head_dim"))
                .weightType(c.type("weight_type")).kvType(c.type("kv_type"))
                .norm(NormKind.values()[c.integer("norm")], c.real("norm_eps")).normPlacement(places)
                .normPerDepth(c.flag("norm_per_depth"))
                .activation(Activation.values()[c.integer("activation")], c.flag("glu")).bias(c.flag("bias"))
                .rope(RopeStyle.values()[c.integer("rope_style")], c.integer("rotary_dim"))
                .relativeBias(c.integer("relative_width"), c.integer("relative_center")).cross(c.flag("cross"))
                .attentionScale(c.real("attention_scale"));
        for (Part part : Part.values()) {
            if (part.isLinear()) builder.loraRank(part, c.node("lora_rank").get(part.ordinal()).intValue());
        }
        return builder.build();
    }

    private static void pack(Case c, BlockShape shape, Buffer weights) {
        for (Part part : new Part[] {Part.ROPE_FREQUENCY, Part.RELATIVE_BIAS}) {
            if (!shape.has(part)) continue;
            Buffer source = c.buffer(part == Part.ROPE_FREQUENCY ? "frequency" : "relative_bias");
            c.context.blockPack(shape, 0, 0, part, Kind.WEIGHT, 1, DType.F32, source, weights);
        }
        for (int l = 0; l < shape.layers(); l++) {
            for (Part part : Part.values()) {
                String prefix = "layer" + l + "." + part.name().toLowerCase(Locale.ROOT) + ".";
                for (Kind kind : Kind.values()) {
                    String name = prefix + kind.name().toLowerCase(Locale.ROOT);
                    if (!c.has(name)) continue;
                    boolean lora = kind == Kind.LORA_A || kind == Kind.LORA_B;
                    boolean typed = part.isLinear() && kind != Kind.BIAS;
                    int depths = lora || !part.isLinear() && shape.normPerDepth() ? shape.depths() : 1;
                    for (int d = 0; d < depths; d++) {
                        c.context.blockPack(shape, l, d, part, kind, kind == Kind.LORA_B ? c.real("lora_scale") : 1,
                                typed ? shape.weightType() : DType.F32, c.part(name, d, depths), weights);
                    }
                }
            }
        }
    }
}
