package dev.fathom;

import java.util.EnumSet;
import java.util.Set;

import dev.fathom.ffi.fth_block_shape;

/**
 * A stack of transformer layers, run as a whole on rows of any depth. Made by a {@link #builder}; what is not set
 * there is as in a Llama: RMS norm before each sub-layer, SiLU with glu, rotated halves, no biases, one depth, fp32.
 */
public final class BlockShape extends Shape {
    private static final int LINEARS = Part.DOWN.ordinal() + 1;

    final long[] bytes = new long[Context.BACKENDS];
    final long hiddenBytes;
    final boolean hasCross;
    /** The pool that the block was last run on. */
    private KvShape pool;

    private BlockShape(Builder b) {
        Check.atLeast("layers", b.layers, 1);
        Check.atLeast("depths", b.depths, 1);
        Check.atLeast("hiddenSize", b.hiddenSize, 1);
        Check.atLeast("intermediateSize", b.intermediateSize, 1);
        Check.range("heads", b.heads, 1, Check.MOST_HEADS);
        Check.range("kvHeads", b.kvHeads, 1, b.heads);
        if (b.heads % b.kvHeads != 0) {
            throw new IllegalArgumentException("heads must be a multiple of kvHeads " + b.kvHeads + ", got " + b.heads);
        }
        Check.headDim(b.headDim);
        Check.weightType("weightType", b.weightType);
        Check.kvType("kvType", b.kvType);
        Check.notNull("norm", b.norm);
        Check.notNull("activation", b.activation);
        Check.notNull("ropeStyle", b.ropeStyle);
        int rotaryDim = b.ropeStyle == RopeStyle.NONE ? 0 : b.rotaryDim < 0 ? b.headDim : b.rotaryDim;
        Check.rotaryDim(b.ropeStyle, rotaryDim, b.headDim);
        Check.atLeast("relativeWidth", b.relativeWidth, 0);
        for (int i = 0; i < LINEARS; i++) Check.atLeast("loraRank of " + Part.values()[i], b.loraRank[i], 0);
        Check.notNegative("normEps", b.normEps);
        float scale = Float.isNaN(b.attentionScale) ? (float) (1 / Math.sqrt(b.headDim)) : b.attentionScale;
        Check.finite("attentionScale", scale);
        super(fth_block_shape.layout());
        fth_block_shape.layers(struct, b.layers);
        fth_block_shape.depths(struct, b.depths);
        fth_block_shape.hidden_size(struct, b.hiddenSize);
        fth_block_shape.intermediate_size(struct, b.intermediateSize);
        fth_block_shape.heads(struct, b.heads);
        fth_block_shape.kv_heads(struct, b.kvHeads);
        fth_block_shape.head_dim(struct, b.headDim);
        fth_block_shape.weight_type(struct, b.weightType.ordinal());
        fth_block_shape.kv_type(struct, b.kvType.ordinal());
        fth_block_shape.norm(struct, b.norm.ordinal());
        int placement = 0;
        for (NormPlacement place : b.normPlacement) placement |= 1 << place.ordinal();
        fth_block_shape.norm_placement(struct, placement);
        fth_block_shape.norm_per_depth(struct, b.normPerDepth ? 1 : 0);
        fth_block_shape.activation(struct, b.activation.ordinal());
        fth_block_shape.glu(struct, b.glu ? 1 : 0);
        fth_block_shape.bias(struct, b.bias ? 1 : 0);
        fth_block_shape.rope_style(struct, b.ropeStyle.ordinal());
        fth_block_shape.rotary_dim(struct, rotaryDim);
        fth_block_shape.relative_width(struct, b.relativeWidth);
        fth_block_shape.relative_center(struct, b.relativeCenter);
        fth_block_shape.cross(struct, b.cross ? 1 : 0);
        for (int i = 0; i < LINEARS; i++) fth_block_shape.lora_rank(struct, i, b.loraRank[i]);
        fth_block_shape.norm_eps(struct, b.normEps);
        fth_block_shape.attention_scale(struct, scale);
        hiddenBytes = b.hiddenSize * 4L;
        hasCross = b.cross;
    }

    /** {@code kvHeads} is {@code heads} and {@code headDim} is {@code hiddenSize / heads} until set otherwise. */
    public static Builder builder(int layers, int hiddenSize, int intermediateSize, int heads) {
        return new Builder(layers, hiddenSize, intermediateSize, heads);
    }

    public int layers() {
        return fth_block_shape.layers(struct);
    }

    public int depths() {
        return fth_block_shape.depths(struct);
    }

    public int hiddenSize() {
        return fth_block_shape.hidden_size(struct);
    }

    public int intermediateSize() {
        return fth_block_shape.intermediate_size(struct);
    }

    public int heads() {
        return fth_block_shape.heads(struct);
    }

    public int kvHeads() {
        return fth_block_shape.kv_heads(struct);
    }

    public int headDim() {
        return fth_block_shape.head_dim(struct);
    }

    public DType weightType() {
        return DType.values()[fth_block_shape.weight_type(struct)];
    }

    public DType kvType() {
        return DType.values()[fth_block_shape.kv_type(struct)];
    }

    public NormKind norm() {
        return NormKind.values()[fth_block_shape.norm(struct)];
    }

    public Set<NormPlacement> normPlacement() {
        Set<NormPlacement> places = EnumSet.allOf(NormPlacement.class);
        int bits = fth_block_shape.norm_placement(struct);
        places.removeIf(place -> (bits >> place.ordinal() & 1) == 0);
        return places;
    }

    public boolean normPerDepth() {
        return fth_block_shape.norm_per_depth(struct) == 1;
    }

    public Activation activation() {
        return Activation.values()[fth_block_shape.activation(struct)];
    }

    public boolean glu() {
        return fth_block_shape.glu(struct) == 1;
    }

    public boolean bias() {
        return fth_block_shape.bias(struct) == 1;
    }

    public RopeStyle ropeStyle() {
        return RopeStyle.values()[fth_block_shape.rope_style(struct)];
    }

    public int rotaryDim() {
        return fth_block_shape.rotary_dim(struct);
    }

    /** Width of the table of self-attention's relative bias; 0: it has none. */
    public int relativeWidth() {
        return fth_block_shape.relative_width(struct);
    }

    /** Index of position difference 0 in that table. */
    public int relativeCenter() {
        return fth_block_shape.relative_center(struct);
    }

    /** Whether a cross-attention stands between self-attention and MLP. */
    public boolean cross() {
        return hasCross;
    }

    /** 0: the linear has no LoRA. */
    public int loraRank(Part linear) {
        if (!linear.isLinear()) throw new IllegalArgumentException("linear must be one of Q..DOWN, got " + linear);
        return fth_block_shape.lora_rank(struct, linear.ordinal());
    }

    public float normEps() {
        return fth_block_shape.norm_eps(struct);
    }

    public float attentionScale() {
        return fth_block_shape.attention_scale(struct);
    }

    /** The shape of a pool for this block. */
    public KvShape kv(long entries) {
        KvShape last = pool;
        if (last != null && last.entryCount == entries) return last;
        return pool = new KvShape(layers(), kvHeads(), headDim(), kvType(), entries);
    }

    /** Whether the block has this part. */
    public boolean has(Part part) {
        return switch (Check.notNull("part", part)) {
            case Q, K, V, O, UP, DOWN -> true;
            case CROSS_Q, CROSS_O -> hasCross;
            case GATE -> glu();
            case ROPE_FREQUENCY -> rotaryDim() > 0;
            case RELATIVE_BIAS -> relativeWidth() > 0;
            default -> {
                int norm = part.ordinal() - Part.ATTENTION_PRE_NORM.ordinal();
                boolean placed = (fth_block_shape.norm_placement(struct) >> norm % 3 & 1) == 1;
                yield placed && (hasCross || norm / 3 != 1);
            }
        };
    }

    /** Elements of a tensor as {@link Context#blockPack} takes it. */
    public long elements(Part part, Kind kind) {
        Check.notNull("kind", kind);
        if (Check.notNull("part", part) == Part.ROPE_FREQUENCY) return rotaryDim() / 2;
        if (part == Part.RELATIVE_BIAS) return (long) heads() * relativeWidth();
        if (!part.isLinear()) return hiddenSize();
        return switch (kind) {
            case WEIGHT -> (long) inputs(part) * outputs(part);
            case BIAS -> outputs(part);
            case LORA_A -> (long) inputs(part) * loraRank(part);
            case LORA_B -> (long) outputs(part) * loraRank(part);
        };
    }

    /** Bytes of the same tensor in {@code type}. */
    long sourceBytes(Part part, Kind kind, DType type) {
        long elements = elements(part, kind);
        if (!part.isLinear() || kind != Kind.WEIGHT) return elements * Check.plainSource(type).bytes();
        return Check.sourceBytes(type, inputs(part), elements);
    }

    private int inputs(Part linear) {
        return switch (linear) {
            case O, CROSS_O -> heads() * headDim();
            case DOWN -> intermediateSize();
            default -> hiddenSize();
        };
    }

    private int outputs(Part linear) {
        return switch (linear) {
            case Q, CROSS_Q -> heads() * headDim();
            case K, V -> kvHeads() * headDim();
            case GATE, UP -> intermediateSize();
            default -> hiddenSize();
        };
    }

    /** Collects the fields of a {@link BlockShape}; {@link #build} checks them. */
    public static final class Builder {
        private final int layers;
        private final int hiddenSize;
        private final int intermediateSize;
        private final int heads;
        private final int[] loraRank = new int[LINEARS];
        private final Set<NormPlacement> normPlacement = EnumSet.of(NormPlacement.PRE);
        private int depths = 1;
        private int kvHeads;
        private int headDim;
        private DType weightType = DType.F32;
        private DType kvType = DType.F32;
        private NormKind norm = NormKind.RMS;
        private boolean normPerDepth;
        private Activation activation = Activation.SILU;
        private boolean glu = true;
        private boolean bias;
        private RopeStyle ropeStyle = RopeStyle.HALF;
        private int rotaryDim = -1;
        private int relativeWidth;
        private int relativeCenter;
        private boolean cross;
        private float normEps = 1e-5f;
        private float attentionScale = Float.NaN;

        private Builder(int layers, int hiddenSize, int intermediateSize, int heads) {
            this.layers = layers;
            this.hiddenSize = hiddenSize;
            this.intermediateSize = intermediateSize;
            this.heads = heads;
            this.kvHeads = heads;
            this.headDim = heads > 0 ? hiddenSize / heads : 0;
        }

        /** Sets of LoRA pairs, and of norm gains with {@link #normPerDepth}. */
        public Builder depths(int depths) {
            this.depths = depths;
            return this;
        }

        public Builder kvHeads(int kvHeads) {
            this.kvHeads = kvHeads;
            return this;
        }

        public Builder headDim(int headDim) {
            this.headDim = headDim;
            return this;
        }

        public Builder weightType(DType weightType) {
            this.weightType = weightType;
            return this;
        }

        public Builder kvType(DType kvType) {
            this.kvType = kvType;
            return this;
        }

        /** Kind and epsilon of all norms. */
        public Builder norm(NormKind norm, float eps) {
            this.norm = norm;
            this.normEps = eps;
            return this;
        }

        /** Exactly these places; none is allowed. */
        public Builder normPlacement(NormPlacement... places) {
            normPlacement.clear();
            normPlacement.addAll(Set.of(places));
            return this;
        }

        /** Every depth has gains of its own. */
        public Builder normPerDepth(boolean normPerDepth) {
            this.normPerDepth = normPerDepth;
            return this;
        }

        /** Of the MLP: {@code act(gate) * up} with glu, else {@code act(up)}. */
        public Builder activation(Activation activation, boolean glu) {
            this.activation = activation;
            this.glu = glu;
            return this;
        }

        /** Every linear has a bias. */
        public Builder bias(boolean bias) {
            this.bias = bias;
            return this;
        }

        /** Rotates whole heads. */
        public Builder rope(RopeStyle style) {
            return rope(style, -1);
        }

        public Builder rope(RopeStyle style, int rotaryDim) {
            this.ropeStyle = style;
            this.rotaryDim = rotaryDim;
            return this;
        }

        /**
         * Self-attention adds a bias by the difference of positions, {@link BiasKind#RELATIVE}, from one table for all
         * layers. It usually goes with {@link RopeStyle#NONE}.
         *
         * @param width  of the table; 0 for none
         * @param center index of difference 0
         */
        public Builder relativeBias(int width, int center) {
            this.relativeWidth = width;
            this.relativeCenter = center;
            return this;
        }

        /** A cross-attention between self-attention and MLP, as in decoders of encoder-decoder models. */
        public Builder cross(boolean cross) {
            this.cross = cross;
            return this;
        }

        public Builder loraRank(Part linear, int rank) {
            if (!Check.notNull("linear", linear).isLinear()) {
                throw new IllegalArgumentException("linear must be one of Q..DOWN, got " + linear);
            }
            loraRank[linear.ordinal()] = rank;
            return this;
        }

        /** {@code 1 / sqrt(headDim)} if not set; 1 for T5. */
        public Builder attentionScale(float attentionScale) {
            this.attentionScale = Check.finite("attentionScale", attentionScale);
            return this;
        }

        public BlockShape build() {
            return new BlockShape(this);
        }
    }
}
