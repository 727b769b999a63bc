package dev.fathom;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Supplier;

import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** Every rule of every shape: what breaks it is refused with its sentence, and what lies at its edge is accepted. */
class ShapeRulesTest {
    private final List<DynamicTest> tests = new ArrayList<>();

    private void refused(String sentence, Supplier<?> making) {
        tests.add(DynamicTest.dynamicTest(sentence, () -> assertEquals(sentence,
                assertThrows(IllegalArgumentException.class, making::get).getMessage())));
    }

    private void accepted(String what, Supplier<?> making) {
        tests.add(DynamicTest.dynamicTest(what, making::get));
    }

    private interface OfFloat {
        Object of(float value);
    }

    private interface OfInt {
        Object of(int value);
    }

    private interface OfType {
        Object of(DType type);
    }

    private void finite(String name, OfFloat shape) {
        for (float value : new float[] {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY}) {
            refused(name + " must be a finite number, got " + value, () -> shape.of(value));
        }
        accepted(name + " -1", () -> shape.of(-1));
    }

    private void notNegative(String name, OfFloat shape) {
        for (float value : new float[] {Float.NaN, Float.POSITIVE_INFINITY, -1e-9f}) {
            refused(name + " must be a finite number of at least 0, got " + value, () -> shape.of(value));
        }
        accepted(name + " 0", () -> shape.of(0));
    }

    private void positive(String name, OfFloat shape) {
        for (float value : new float[] {Float.NaN, Float.POSITIVE_INFINITY, 0, -1}) {
            refused(name + " must be a finite number above 0, got " + value, () -> shape.of(value));
        }
        accepted(name + " tiny", () -> shape.of(Float.MIN_VALUE));
    }

    private void atLeast(int least, String name, OfInt shape) {
        for (int value : new int[] {least - 1, Integer.MIN_VALUE}) {
            refused(name + " must be at least " + least + ", got " + value, () -> shape.of(value));
        }
        accepted(name + " " + least, () -> shape.of(least));
    }

    private void range(int least, int most, String name, OfInt shape) {
        for (int value : new int[] {least - 1, most + 1, Integer.MIN_VALUE, Integer.MAX_VALUE}) {
            refused(name + " must be in " + least + ".." + most + ", got " + value, () -> shape.of(value));
        }
        accepted(name + " " + least, () -> shape.of(least));
        accepted(name + " " + most, () -> shape.of(most));
    }

    /** Refuses all types but these, which are named as the sentence names them. */
    private void types(String name, String legal, OfType shape) {
        List<String> names = List.of(legal.split(", | or "));
        for (DType type : DType.values()) {
            if (names.contains(type.name())) accepted(name + " " + type, () -> shape.of(type));
            else refused(name + " must be " + legal + ", got " + type, () -> shape.of(type));
        }
        refused(name + " must not be null", () -> shape.of(null));
    }

    private void weightType(String name, OfType shape) {
        types(name, "F32, BF16, I8, Q8_0, Q4_0 or F8_E4M3", shape);
    }

    private void kvType(String name, OfType shape) {
        types(name, "F32, BF16 or I8", shape);
    }

    private void plainType(String name, OfType shape) {
        types(name, "F32 or BF16", shape);
    }

    private void headDim(OfInt shape) {
        range(16, 256, "headDim", shape);
        refused("headDim must be a multiple of 8, got 20", () -> shape.of(20));
    }

    @TestFactory
    List<DynamicTest> linear() {
        atLeast(1, "inFeatures", n -> new LinearShape(n, 4, DType.F32));
        atLeast(1, "outFeatures", n -> new LinearShape(4, n, DType.F32));
        weightType("weightType", type -> new LinearShape(4, 4, type));
        refused("activation must not be null",
                () -> new LinearShape(4, 4, DType.F32, null, false, Residual.NONE, 0, 0));
        refused("residual must not be null",
                () -> new LinearShape(4, 4, DType.F32, Activation.RELU, false, null, 0, 0));
        atLeast(0, "loraRank", n -> new LinearShape(4, 4, DType.F32, Activation.RELU, false, Residual.NONE, n, 0));
        atLeast(1, "loraDepths", n -> new LinearShape(4, 4, DType.F32, Activation.RELU, false, Residual.NONE, 2, n));
        range(0, 0, "loraDepths without LoRA",
                n -> new LinearShape(4, 4, DType.F32, Activation.RELU, false, Residual.NONE, 0, n));
        return tests;
    }

    @TestFactory
    List<DynamicTest> norm() {
        refused("kind must not be null", () -> new NormShape(null, 4, 1e-5f));
        atLeast(1, "width", n -> new NormShape(NormKind.RMS, n, 1e-5f));
        atLeast(1, "depths", n -> new NormShape(NormKind.RMS, 4, n, 1e-5f));
        notNegative("eps", eps -> new NormShape(NormKind.LAYER, 4, eps));
        return tests;
    }

    @TestFactory
    List<DynamicTest> rope() {
        refused("style must not be null", () -> new RopeShape(null, 1, 8, 8));
        atLeast(1, "heads", n -> new RopeShape(RopeStyle.HALF, n, 8, 8));
        atLeast(1, "headDim", n -> new RopeShape(RopeStyle.NONE, 1, n, 0));
        range(2, 8, "rotaryDim", n -> new RopeShape(RopeStyle.INTERLEAVED, 1, 8, n));
        range(0, 8, "rotaryDim", n -> new RopeShape(RopeStyle.NONE, 1, 8, n));
        refused("rotaryDim must be even, got 5", () -> new RopeShape(RopeStyle.HALF, 1, 8, 5));
        return tests;
    }

    @TestFactory
    List<DynamicTest> kv() {
        atLeast(1, "layers", n -> new KvShape(n, 1, 16, DType.F32, 64));
        range(1, 1 << 16, "kvHeads", n -> new KvShape(1, n, 16, DType.F32, 64));
        headDim(n -> new KvShape(1, 1, n, DType.F32, 64));
        kvType("type", type -> new KvShape(1, 1, 16, type, 64));
        long most = (1L << 31) - 64;
        for (long entries : new long[] {0, -64, 63, 65, 96, most + 1, most + 64, Long.MIN_VALUE, Long.MAX_VALUE}) {
            refused("entries must be a multiple of 64 in 64..2147483584, got " + entries,
                    () -> new KvShape(1, 1, 16, DType.F32, entries));
        }
        accepted("64 entries", () -> new KvShape(1, 1, 16, DType.F32, 64));
        accepted("2^31 - 64 entries, which the kernels count too", () -> {
            try (Context context = Context.cpu(1)) {
                return context.kvBytes(new KvShape(1, 1, 16, DType.F32, most));
            }
        });
        return tests;
    }

    @TestFactory
    List<DynamicTest> attention() {
        range(1, 1 << 16, "heads", n -> new AttentionShape(n, 1));
        refused("biasKind must not be null", () -> new AttentionShape(2, null, 0, 0, 1));
        range(0, 0, "biasWidth without bias", n -> new AttentionShape(2, BiasKind.NONE, n, 0, 1));
        atLeast(1, "biasWidth", n -> new AttentionShape(2, BiasKind.RELATIVE, n, 0, 1));
        finite("scale", scale -> new AttentionShape(2, scale));
        return tests;
    }

    @TestFactory
    List<DynamicTest> denseKv() {
        atLeast(1, "sequences", n -> new DenseKvShape(n, 1, 1, 16, DType.F32, 16, 16, 16));
        atLeast(1, "tokens", n -> new DenseKvShape(1, n, 1, 16, DType.F32, 16, 16, 16));
        range(1, 1 << 16, "kvHeads", n -> new DenseKvShape(1, 1, n, 16, DType.F32, 16, 16, 16));
        headDim(n -> new DenseKvShape(1, 1, 1, n, DType.F32, 16, 16, 16));
        plainType("type", type -> new DenseKvShape(1, 1, 1, 16, type, 16, 16, 16));
        atLeast(0, "sequenceStride", n -> new DenseKvShape(1, 1, 1, 16, DType.F32, n, 16, 16));
        atLeast(0, "tokenStride", n -> new DenseKvShape(1, 1, 1, 16, DType.F32, 16, n, 16));
        atLeast(0, "headStride", n -> new DenseKvShape(1, 1, 1, 16, DType.F32, 16, 16, n));
        return tests;
    }

    /** A size beyond every long is refused as a size, not wrapped around. */
    @Test
    void denseKvOfGiantStridesNeedsAllThereIs() {
        long giant = Long.MAX_VALUE / 2;
        assertEquals(Long.MAX_VALUE, new DenseKvShape(4, 4, 1, 16, DType.F32, giant, 1, 1).bytes());
        assertEquals(Long.MAX_VALUE, new DenseKvShape(2, 2, 2, 16, DType.F32, giant, giant, giant).bytes());
        assertEquals(Long.MAX_VALUE, new DenseKvShape(2, 1, 1, 16, DType.F32, giant, 1, 1).bytes());
        assertEquals((3L * 1000 + 2 * 100 + 10 + 16) * 2,
                new DenseKvShape(4, 3, 2, 16, DType.BF16, 1000, 100, 10).bytes());
    }

    @TestFactory
    List<DynamicTest> backfill() {
        OfInt rotary = n -> new BackfillShape(8, 1, DType.F32, NormKind.RMS, RopeStyle.HALF, n, 0);
        atLeast(1, "hiddenSize", n -> new BackfillShape(n, 1, DType.F32, NormKind.RMS, RopeStyle.HALF, 8, 0));
        atLeast(1, "depths", n -> new BackfillShape(8, n, DType.F32, NormKind.RMS, RopeStyle.HALF, 8, 0));
        weightType("weightType", type -> new BackfillShape(8, 1, type, NormKind.RMS, RopeStyle.HALF, 8, 0));
        refused("ropeStyle must not be null", () -> new BackfillShape(8, 1, DType.F32, null, null, 0, 0));
        range(2, 256, "rotaryDim", rotary);
        range(0, 256, "rotaryDim", n -> new BackfillShape(8, 1, DType.F32, null, RopeStyle.NONE, n, 0));
        refused("rotaryDim must be even, got 7", () -> rotary.of(7));
        notNegative("normEps", eps -> new BackfillShape(8, 1, DType.F32, NormKind.RMS, RopeStyle.NONE, 0, eps));
        return tests;
    }

    private static BlockShape block(Consumer<BlockShape.Builder> change) {
        BlockShape.Builder builder = BlockShape.builder(2, 64, 96, 4);
        change.accept(builder);
        return builder.build();
    }

    @TestFactory
    List<DynamicTest> block() {
        atLeast(1, "layers", n -> BlockShape.builder(n, 64, 96, 4).build());
        atLeast(1, "hiddenSize", n -> BlockShape.builder(2, n, 96, 4).headDim(16).build());
        atLeast(1, "intermediateSize", n -> BlockShape.builder(2, 64, n, 4).build());
        range(1, 1 << 16, "heads", n -> BlockShape.builder(2, 64, 96, n).kvHeads(1).headDim(16).build());
        range(1, 4, "kvHeads", n -> block(b -> b.kvHeads(n)));
        refused("heads must be a multiple of kvHeads 3, got 4", () -> block(b -> b.kvHeads(3)));
        headDim(n -> block(b -> b.headDim(n).rope(RopeStyle.HALF)));
        refused("headDim must be in 16..256, got 4", () -> BlockShape.builder(1, 32, 64, 8).build());
        atLeast(1, "depths", n -> block(b -> b.depths(n)));
        weightType("weightType", type -> block(b -> b.weightType(type)));
        kvType("kvType", type -> block(b -> b.kvType(type)));
        refused("norm must not be null", () -> block(b -> b.norm(null, 1e-5f)));
        notNegative("normEps", eps -> block(b -> b.norm(NormKind.LAYER, eps)));
        refused("activation must not be null", () -> block(b -> b.activation(null, true)));
        refused("ropeStyle must not be null", () -> block(b -> b.rope(null)));
        refused("rotaryDim must be in 2..16, got 0", () -> block(b -> b.rope(RopeStyle.HALF, 0)));
        refused("rotaryDim must be in 2..16, got 18", () -> block(b -> b.rope(RopeStyle.INTERLEAVED, 18)));
        refused("rotaryDim must be even, got 3", () -> block(b -> b.rope(RopeStyle.HALF, 3)));
        accepted("rotaryDim 2", () -> block(b -> b.rope(RopeStyle.HALF, 2)));
        accepted("rotaryDim without rotation", () -> block(b -> b.rope(RopeStyle.NONE, 99)));
        atLeast(0, "relativeWidth", n -> block(b -> b.relativeBias(n, 0)));
        for (Part part : Part.values()) {
            if (part.isLinear()) {
                atLeast(0, "loraRank of " + part, n -> block(b -> b.loraRank(part, n)));
            } else {
                refused("linear must be one of Q..DOWN, got " + part, () -> block(b -> b.loraRank(part, 1)));
            }
        }
        refused("linear must not be null", () -> block(b -> b.loraRank(null, 1)));
        refused("linear must be one of Q..DOWN, got RELATIVE_BIAS",
                () -> block(b -> { }).loraRank(Part.RELATIVE_BIAS));
        finite("attentionScale", scale -> block(b -> b.attentionScale(scale)));
        refused("part must not be null", () -> block(b -> { }).has(null));
        refused("part must not be null", () -> block(b -> { }).elements(null, Kind.WEIGHT));
        refused("kind must not be null", () -> block(b -> { }).elements(Part.Q, null));
        refused("entries must be a multiple of 64 in 64..2147483584, got 65", () -> block(b -> { }).kv(65));
        return tests;
    }

    @TestFactory
    List<DynamicTest> head() {
        atLeast(1, "hiddenSize", n -> new HeadShape(n, 8, DType.F32, NormKind.RMS, 0));
        atLeast(1, "vocabSize", n -> new HeadShape(8, n, DType.F32, NormKind.RMS, 0));
        weightType("weightType", type -> new HeadShape(8, 8, type, null, 0));
        notNegative("normEps", eps -> new HeadShape(8, 8, DType.F32, NormKind.RMS, eps));
        finite("logitScale", scale -> new HeadShape(8, 8, DType.F32, null, 0, scale, 0, 0));
        notNegative("softcap", cap -> new HeadShape(8, 8, DType.F32, null, 0, 1, cap, 0));
        atLeast(0, "chosen", n -> new HeadShape(8, 8, DType.F32, null, 0, 1, 0, n));
        return tests;
    }

    private static GateShape linearGate(int outputs, float temperature, float alpha, float threshold) {
        return new GateShape(8, 0, outputs, 1, RouterKind.LINEAR, GateFunction.NONE, temperature, alpha, threshold);
    }

    @TestFactory
    List<DynamicTest> gate() {
        GateFunction none = GateFunction.NONE;
        atLeast(1, "hiddenSize", n -> new GateShape(n, 0, 1, 1, RouterKind.LINEAR, none, 1, 1, 0));
        atLeast(1, "innerSize", n -> new GateShape(8, n, 1, 1, RouterKind.MLP, none, 1, 1, 0));
        range(0, 0, "innerSize of a linear router", n -> new GateShape(8, n, 1, 1, RouterKind.LINEAR, none, 1, 1, 0));
        atLeast(1, "outputs", n -> linearGate(n, 1, 1, 0));
        atLeast(1, "depths", n -> new GateShape(8, 0, 1, n, RouterKind.LINEAR, none, 1, 1, 0));
        refused("router must not be null", () -> new GateShape(8, 0, 1, 1, null, none, 1, 1, 0));
        refused("function must not be null", () -> new GateShape(8, 0, 1, 1, RouterKind.LINEAR, null, 1, 1, 0));
        positive("temperature", temperature -> linearGate(1, temperature, 1, 0));
        finite("alpha", alpha -> linearGate(1, 1, alpha, 0));
        finite("threshold", threshold -> linearGate(1, 1, 1, threshold));
        refused("activation must not be null",
                () -> new GateShape(8, 4, 1, 1, RouterKind.MLP, none, 1, 1, 0, null, true));
        refused("activation of a linear router must be IDENTITY, got RELU",
                () -> new GateShape(8, 0, 1, 1, RouterKind.LINEAR, none, 1, 1, 0, Activation.RELU, true));
        return tests;
    }

    @TestFactory
    List<DynamicTest> embed() {
        atLeast(1, "vocabSize", n -> new EmbedShape(n, 8, DType.F32, false, 1));
        atLeast(1, "hiddenSize", n -> new EmbedShape(8, n, DType.F32, true, 1));
        plainType("type", type -> new EmbedShape(8, 8, type, false, 1));
        weightType("weightType", type -> new EmbedShape(8, 8, type, true, 1));
        finite("scale", scale -> new EmbedShape(8, 8, DType.F32, false, scale));
        return tests;
    }

    @Test
    void rowsAndStatistics() {
        try (Context context = Context.cpu(1)) {
            for (OfInt making : List.<OfInt>of(n -> Rows.allocate(context, n), n -> HeadStats.allocate(context, n),
                    n -> StateDelta.allocate(context, n))) {
                assertEquals("capacity must be at least 0, got -1",
                        assertThrows(IllegalArgumentException.class, () -> making.of(-1)).getMessage());
                making.of(0);
            }
            for (Supplier<?> making : List.<Supplier<?>>of(() -> Rows.of(null), () -> HeadStats.of(null),
                    () -> StateDelta.of(null))) {
                assertEquals("buffer must not be null",
                        assertThrows(IllegalArgumentException.class, making::get).getMessage());
            }
        }
    }

    @Test
    void numbersOfABlockAreThoseThatWereSet() {
        BlockShape shape = BlockShape.builder(3, 64, 96, 4).depths(5).kvHeads(2).headDim(24).weightType(DType.BF16)
                .kvType(DType.BF16).norm(NormKind.LAYER, 0.5f).normPlacement(NormPlacement.BRANCH, NormPlacement.POST)
                .normPerDepth(true).activation(Activation.GELU, false).bias(true).rope(RopeStyle.INTERLEAVED, 10)
                .relativeBias(7, 3).cross(true).loraRank(Part.CROSS_O, 6).attentionScale(0.75f).build();
        assertEquals("3 64 96 4 5 2 24 BF16 BF16 LAYER 0.5 [BRANCH, POST] true GELU false true INTERLEAVED 10 7 3"
                + " true 6 0.75", String.join(" ", List.of(shape.layers(), shape.hiddenSize(), shape.intermediateSize(),
                shape.heads(), shape.depths(), shape.kvHeads(), shape.headDim(), shape.weightType(), shape.kvType(),
                shape.norm(), shape.normEps(), shape.normPlacement(), shape.normPerDepth(), shape.activation(),
                shape.glu(), shape.bias(), shape.ropeStyle(), shape.rotaryDim(), shape.relativeWidth(),
                shape.relativeCenter(), shape.cross(), shape.loraRank(Part.CROSS_O), shape.attentionScale())
                .stream().map(Object::toString).toList()));
        assertTrue(!shape.has(Part.GATE) && !shape.has(Part.MLP_PRE_NORM) && shape.has(Part.CROSS_BRANCH_NORM));
        assertTrue(BlockShape.builder(1, 64, 96, 4).normPlacement().build().normPlacement().isEmpty());
    }

    @Test
    void numbersOfOtherShapesAreThoseThatWereSet() {
        LinearShape linear = new LinearShape(3, 5, DType.BF16, Activation.RELU, true, Residual.ADD, 2, 4);
        assertEquals("3 5 BF16 RELU true ADD 2 4 10", linear.inFeatures() + " " + linear.outFeatures() + " "
                + linear.weightType() + " " + linear.activation() + " " + linear.glu() + " " + linear.residual() + " "
                + linear.loraRank() + " " + linear.loraDepths() + " " + linear.weightRows());
        NormShape norm = new NormShape(NormKind.LAYER, 7, 3, 0.25f);
        assertEquals("LAYER 7 3 0.25", norm.kind() + " " + norm.width() + " " + norm.depths() + " " + norm.eps());
        RopeShape rope = new RopeShape(RopeStyle.INTERLEAVED, 3, 20, 6);
        assertEquals("INTERLEAVED 3 20 6",
                rope.style() + " " + rope.heads() + " " + rope.headDim() + " " + rope.rotaryDim());
        KvShape kv = new KvShape(2, 3, 24, DType.BF16, 192);
        assertEquals("2 3 24 BF16 192",
                kv.layers() + " " + kv.kvHeads() + " " + kv.headDim() + " " + kv.type() + " " + kv.entries());
        AttentionShape attention = new AttentionShape(6, BiasKind.RELATIVE, 9, 4, 0.5f);
        assertEquals("6 RELATIVE 9 4 0.5", attention.heads() + " " + attention.biasKind() + " "
                + attention.biasWidth() + " " + attention.biasCenter() + " " + attention.scale());
        DenseKvShape dense = new DenseKvShape(2, 5, 3, 24, DType.BF16, 1000, 100, 30);
        assertEquals("2 5 3 24 BF16 1000 100 30", dense.sequences() + " " + dense.tokens() + " " + dense.kvHeads()
                + " " + dense.headDim() + " " + dense.type() + " " + dense.sequenceStride() + " "
                + dense.tokenStride() + " " + dense.headStride());
        BackfillShape backfill = new BackfillShape(11, 2, DType.BF16, NormKind.LAYER, RopeStyle.INTERLEAVED, 8, 0.5f);
        assertEquals("11 2 BF16 LAYER INTERLEAVED 8 0.5", backfill.hiddenSize() + " " + backfill.depths() + " "
                + backfill.weightType() + " " + backfill.norm() + " " + backfill.ropeStyle() + " "
                + backfill.rotaryDim() + " " + backfill.normEps());
        HeadShape head = new HeadShape(9, 13, DType.BF16, NormKind.LAYER, 0.5f, 2, 30, 3);
        assertEquals("9 13 BF16 LAYER 0.5 2.0 30.0 3", head.hiddenSize() + " " + head.vocabSize() + " "
                + head.weightType() + " " + head.norm() + " " + head.normEps() + " " + head.logitScale() + " "
                + head.softcap() + " " + head.chosen());
        GateShape gate = new GateShape(9, 4, 3, 2, RouterKind.MLP, GateFunction.TANH, 2, 0.5f, -1, Activation.SILU,
                true);
        assertEquals("9 4 3 2 MLP TANH 2.0 0.5 -1.0 SILU true", gate.hiddenSize() + " " + gate.innerSize() + " "
                + gate.outputs() + " " + gate.depths() + " " + gate.router() + " " + gate.function() + " "
                + gate.temperature() + " " + gate.alpha() + " " + gate.threshold() + " " + gate.activation() + " "
                + gate.bias());
        EmbedShape embed = new EmbedShape(12, 7, DType.BF16, true, 1.5f);
        assertEquals("12 7 BF16 true 1.5", embed.vocabSize() + " " + embed.hiddenSize() + " " + embed.type() + " "
                + embed.packed() + " " + embed.scale());
        assertEquals(null, new HeadShape(9, 13, DType.F32, null, 0).norm());
        assertEquals(null, new BackfillShape(9, 1, DType.F32, null, RopeStyle.NONE, 0, 0).norm());
    }
}
