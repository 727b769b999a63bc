/* Fathom: kernels for transformers whose depth adapts to each token.
 *
 * This is the whole C interface. Rules that hold for every function:
 *
 *  - The caller owns all memory. Sizes are asked for (`..._bytes`), buffers are passed in. Only the context is
 *    allocated by the library.
 *  - Whatever can fail returns an fth_status and leaves a sentence in fth_context_message(). All arguments are checked
 *    before anything of the caller's is written, so a call that fails changes nothing but the context: its message, and
 *    the size of its scratch where indices must differ (they are compared there, last of all). Lengths of buffers
 *    cannot be checked here: the Java API checks them, C callers must.
 *  - Shapes hold numbers only. Buffers are direct arguments: inputs const, outputs last, row-major, elements aligned
 *    to their size (64 bytes recommended). Buffers must not overlap unless stated. `null` is allowed where stated.
 *  - A CUDA context computes on its device: calls enqueue kernels on the context's stream and return. What kernels read
 *    and write must be memory that the device reaches (fth_memory_map); `rows` and all arrays of integers that name
 *    things (lists, entries, indices, ids) are in host memory, checked and copied before the call returns. While the
 *    stream is being captured they must be pinned, and every replay reads them anew, unchecked. Structs and sizes that
 *    are written to the host (`..._bytes`, fth_info) are complete on return; everything else after fth_synchronize.
 *  - One call at a time per context (a second one returns FTH_BUSY); contexts are independent of one another.
 *  - Worker threads do not follow into a child process of fork(). There a context runs its calls on the calling thread
 *    alone, with the same results, and stays FTH_BUSY if another thread was in a call at the time: better destroy it
 *    and create one in the child.
 *  - Results do not depend on the number of workers, on the other rows of a call or on their order: a row's bits are a
 *    function of its own inputs and the instruction set. Accumulation is fp32.
 *
 * Words: a *row* is one token at one depth in this call; an *entry* is one token's K and V for the layers of one block
 * at one depth, stored in a pool; a *list* is the entries that a (sequence, depth) can see, in position order.
 */
#ifndef FATHOM_H
#define FATHOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FTH_API __attribute__((visibility("default")))
#else
#define FTH_API
#endif

/* Bumped by any change to a struct or signature; bindings and library must agree. */
#define FTH_ABI 4

typedef int32_t fth_status;
enum {
  FTH_OK = 0,
  FTH_INVALID_ARGUMENT = 1, /* an argument is out of its documented range */
  FTH_UNSUPPORTED = 2,      /* legal, but this build or machine cannot do it */
  FTH_OUT_OF_MEMORY = 3,    /* scratch or context memory could not be had */
  FTH_DEVICE_ERROR = 4,     /* a device failed */
  FTH_BUSY = 5              /* another call is running on this context; the message is not touched */
};

/* Element types. F16 is a source type for packing only. I8 is made by the library: weights have one fp32 scale per
 * output feature. So have weights of F8_E4M3, which is FP8 without infinities (OCP; 0x7f and 0xff are NaN): as a source
 * type a row of W is its scale, then one byte per input, and rows follow one another without gaps. Q8_0 and Q4_0 are
 * blocks of 32 neighbouring inputs with one fp16 scale d, as in GGUF files: as a source type a block is d, then 32 int8
 * q (value d * q), or d, then 16 bytes whose low nibbles are q of 0 .. 15 and high nibbles of 16 .. 31 (value
 * d * (q - 8)). */
enum { FTH_F32 = 0, FTH_BF16 = 1, FTH_F16 = 2, FTH_I8 = 3, FTH_Q8_0 = 4, FTH_Q4_0 = 5, FTH_F8_E4M3 = 6 };

enum { FTH_CPU = 0, FTH_CUDA = 1 };

/* Instruction sets of the CPU back end, in rising order. AUTO reads the environment variable FATHOM_ISA
 * (scalar | avx2 | avx512; anything else is an error) and takes the best the machine has if it is unset or empty. */
enum { FTH_ISA_AUTO = -1, FTH_ISA_SCALAR = 0, FTH_ISA_AVX2 = 1, FTH_ISA_AVX512 = 2 };

/* ---- context ------------------------------------------------------------------------------------------------- */

typedef struct fth_context fth_context;

typedef struct fth_info {
  int32_t backend;    /* FTH_CPU or FTH_CUDA */
  int32_t isa;        /* FTH_ISA_*: what this context runs */
  int32_t best_isa;   /* what the machine offers */
  int32_t bf16_dot;   /* 1 if bf16 products use the AVX512-BF16 dot instruction here */
  int32_t workers;    /* threads that run a call, the caller's included */
  int32_t int8_dot;   /* 1 if products with 8- and 4-bit weights use a VNNI dot instruction here */
  int64_t l2_bytes;   /* per core, or of the device; 0 if unknown */
  int64_t l3_bytes;   /* shared, 0 if unknown */
  int32_t device;     /* CUDA device ordinal; -1 on the CPU */
  int32_t multiprocessors;
  int32_t compute_capability; /* 90: 9.0 */
  int32_t reserved;
  int64_t device_bytes; /* memory of the device */
} fth_info;

/* FTH_ABI of the loaded library. */
FTH_API int32_t fth_abi(void);
/* The best FTH_ISA_* of this machine. */
FTH_API int32_t fth_isa_best(void);
/* "scalar", "avx2", "avx512"; "unknown" otherwise. */
FTH_API const char* fth_isa_name(int32_t isa);
/* Number of CUDA devices this library could use; 0 without CUDA, driver or device. */
FTH_API int32_t fth_cuda_device_count(void);

/* Creates a context. `workers_or_device`: CPU: threads per call, 0 = one per core this process may use; CUDA: device
 * ordinal. `isa` caps the CPU instruction set (an unavailable one is lowered to the best available).
 * On failure *out is null and `message` (of message_bytes, may be null) gets a sentence. */
FTH_API fth_status fth_context_create(int32_t backend, int32_t workers_or_device, int32_t isa, char* message,
                                      int64_t message_bytes, fth_context** out);
/* Ends the workers and frees the context; null is allowed. No call may be running. */
FTH_API void fth_context_destroy(fth_context* ctx);
/* The sentence of the last failed call on this context; "" if none. Valid until the next call. */
FTH_API const char* fth_context_message(const fth_context* ctx);
FTH_API fth_status fth_context_info(fth_context* ctx, fth_info* out);
/* Waits until everything enqueued on the context is done. Returns at once on the CPU. */
FTH_API fth_status fth_synchronize(fth_context* ctx);
/* CUDA: later calls enqueue on this stream of the context's device, after everything enqueued before. `stream` is a
 * cudaStream_t (0 or 1: the legacy default stream, 2: the thread's, as DLPack counts). It must outlive its use here. */
FTH_API fth_status fth_use_stream(fth_context* ctx, void* stream);
/* Makes room for at least `bytes` of scratch where kernels run, so that no later call has to that needs no more: before
 * a stream is captured, say. */
FTH_API fth_status fth_reserve(fth_context* ctx, int64_t bytes);
/* Does nothing: the price of the boundary itself, for benchmarks. */
FTH_API fth_status fth_nop(fth_context* ctx, const void* shape, const void* a, const void* b, const void* c, void* d);

/* HOST: from the operating system, 2 MiB aligned and advised for huge pages. PINNED: host memory that CUDA devices reach
 * at the same address. DEVICE: memory of a CUDA device, which the host does not reach. */
enum { FTH_MEMORY_HOST = 0, FTH_MEMORY_PINNED = 1, FTH_MEMORY_DEVICE = 2 };
/* Zeroed memory, `bytes` > 0; `device` is not read for HOST. No context is needed. FTH_UNSUPPORTED without the device. */
FTH_API fth_status fth_memory_map(int32_t kind, int32_t device, int64_t bytes, void** out);
FTH_API void fth_memory_unmap(int32_t kind, int32_t device, void* memory, int64_t bytes);
/* Copies after all that was enqueued before, whatever the kinds. If either side is host memory the call waits until the
 * copy is done, else it is enqueued. */
FTH_API fth_status fth_copy(fth_context* ctx, int64_t bytes, const void* from, void* to);
/* Sets `bytes` bytes to zero, as enqueued work. */
FTH_API fth_status fth_clear(fth_context* ctx, int64_t bytes, void* memory);

/* ---- rows ---------------------------------------------------------------------------------------------------- */

/* One row of a call. Each operation reads the fields it names and ignores the rest. */
typedef struct fth_row {
  int64_t list;     /* index in `entries` where the row's list begins */
  uint64_t tree;    /* bit b: the row sees list item visible-1-b (b < 64); all further back are seen. Usually ~0 */
  int32_t visible;  /* the row sees the first `visible` items of its list; 0 gives a zero output */
  int32_t start;    /* ... from this item on (sliding window); usually 0 */
  int32_t position; /* true position in the sequence: RoPE, relative bias */
  int32_t depth;    /* 0-based pass through the block: selects norm gains, LoRA, router; compared with `reach` */
  int32_t entry;    /* entry that receives the row's K and V; -1: the row writes none */
  int32_t sequence; /* mask form: which of the dense sequences the row reads */
} fth_row; /* 40 bytes */

/* ---- linear -------------------------------------------------------------------------------------------------- */

/* Pointwise functions, in fp32. */
enum { FTH_IDENTITY = 0, FTH_RELU = 1, FTH_GELU = 2 /* erf */, FTH_GELU_TANH = 3, FTH_SILU = 4 };
enum { FTH_RESIDUAL_NONE = 0, FTH_RESIDUAL_ADD = 1, FTH_RESIDUAL_GATED = 2 };

/* y[row] = r[row] + g[row] * act(z[row]),   z = W x + bias + B_d (A_d x),  d = rows[row].depth
 * (r, g absent without residual; g = 1 with FTH_RESIDUAL_ADD).
 * glu = 1: W has 2*out_features rows, first the gate's, then the values', and act(z) becomes act(z_gate) * z_value.
 * With bf16 weights x, and A_d x, is rounded to bf16 before the product. With F8_E4M3 weights too: W x is what bf16
 * weights of the same numbers without their scales give, times the features' scales. With quantised weights (I8, Q8_0,
 * Q4_0) every 128 neighbouring elements of a row of x, with I8 every 512, become 8-bit integers with one fp32 scale,
 * max|x| / 127, rounded to nearest even; the integers are multiplied exactly and the scales applied in fp32, to sums of
 * 32 products (I8: 512, on CUDA 128), so that all instruction sets give the same z. LoRA pairs are fp32 with fp32
 * weights and else bf16. */
typedef struct fth_linear_shape {
  int32_t in_features;
  int32_t out_features;
  int32_t weight_type; /* FTH_F32, FTH_BF16, FTH_I8, FTH_Q8_0, FTH_Q4_0 or FTH_F8_E4M3 */
  int32_t activation;  /* FTH_IDENTITY ... FTH_SILU */
  int32_t glu;         /* 0 or 1 */
  int32_t residual;    /* FTH_RESIDUAL_* */
  int32_t lora_rank;   /* 0: no LoRA */
  int32_t lora_depths; /* number of (A, B) pairs; 0 without LoRA */
} fth_linear_shape;

/* Bytes of the packed weights, whose inner layout is the library's own; on CUDA they are aligned to 16 bytes, as LoRA
 * pairs are, and blocks, heads and routers that hold such weights. */
FTH_API fth_status fth_linear_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes);
/* Packs `count` rows of W, [count, in_features] of source_type, starting at W's row `first`. Every row must be packed
 * once before use; several calls may fill one weight (q, k and v, say). A Q8_0 or Q4_0 source needs in_features to be a
 * multiple of 32; it and an F8_E4M3 source keep their codes in a weight of their own type. Rounding: I8 d = max|w| / 127
 * and F8_E4M3 d = max|w| / 448 per feature, halves to even; Q8_0 and Q4_0 by the rules of GGUF files (d = max|w| / 127,
 * and the w of largest magnitude / -8). A feature with a weight that is NaN or infinite has the scale NaN. */
FTH_API fth_status fth_linear_pack(fth_context* ctx, const fth_linear_shape* shape, int64_t first, int64_t count,
                                   int32_t source_type, const void* source, void* packed);
/* LoRA pairs of all depths in one buffer. */
FTH_API fth_status fth_lora_bytes(fth_context* ctx, const fth_linear_shape* shape, int64_t* bytes);
/* a [rank, in_features], b [W's rows, rank]; `scale` (alpha / rank) is folded into b. */
FTH_API fth_status fth_lora_pack(fth_context* ctx, const fth_linear_shape* shape, int32_t depth, float scale,
                                 int32_t source_type, const void* a, const void* b, void* packed);
/* x [count, in_features]; rows (depth): needed with LoRA, else may be null; bias [W's rows] or null; lora or null;
 * residual [count, out_features] and gate [count] as the shape says, else null; y [count, out_features].
 * residual may be y itself. */
FTH_API fth_status fth_linear(fth_context* ctx, const fth_linear_shape* shape, int64_t count, const fth_row* rows,
                              const float* x, const void* packed, const float* bias, const void* lora,
                              const float* residual, const float* gate, float* y);

/* ---- norm, rope ---------------------------------------------------------------------------------------------- */

enum { FTH_RMS_NORM = 0, FTH_LAYER_NORM = 1 };

/* RMS: y = x / sqrt(mean(x^2) + eps) * gain.  Layer: y = (x - mean) / sqrt(var + eps) * gain + bias. */
typedef struct fth_norm_shape {
  int32_t kind;
  int32_t width;
  int32_t depths; /* gain and bias hold this many vectors; rows[i].depth selects one. 1: one for all rows */
  float eps;
} fth_norm_shape;

/* x, y [count, width]; gain, bias [depths, width] or null; rows (depth): not read if depths is 1, may be null then.
 * y may be x. */
FTH_API fth_status fth_norm(fth_context* ctx, const fth_norm_shape* shape, int64_t count, const fth_row* rows,
                            const float* x, const float* gain, const float* bias, float* y);

enum { FTH_ROPE_NONE = 0, FTH_ROPE_HALF = 1, FTH_ROPE_INTERLEAVED = 2 };

/* Rotates the first rotary_dim elements of every head by position * frequency[i], i < rotary_dim / 2.
 * HALF pairs (i, i + rotary_dim/2), INTERLEAVED pairs (2i, 2i + 1). */
typedef struct fth_rope_shape {
  int32_t style;
  int32_t heads;
  int32_t head_dim;
  int32_t rotary_dim; /* even, at most head_dim */
} fth_rope_shape;

/* rows (position); frequency [rotary_dim / 2]; x [count, heads, head_dim], in place. */
FTH_API fth_status fth_rope(fth_context* ctx, const fth_rope_shape* shape, int64_t count, const fth_row* rows,
                            const float* frequency, float* x);

/* ---- K,V pool ------------------------------------------------------------------------------------------------ */

/* `entries` is a multiple of 64: entries 64p .. 64p+63 form page p. The inner layout is the library's own; on CUDA a
 * pool is aligned to 16 bytes. On the CPU a list whose items 64i .. 64i+63 are one whole page in order is read without
 * copying. FTH_I8: the head_dim elements x of one entry, layer, head and side (K or V) are stored as one fp32
 * unit = max|x| / 127 and int8 n = x * (127 / max|x|), rounded to nearest; they are read as unit * n. A side below 2^-100
 * is 0, one with a number that is not finite is not-a-number.
 * With FTH_BF16 and FTH_I8 attention computes, units of bf16 being 1,
 *   s = k_unit * sum(r(scale * q) * k) + bias, w = exp(s - max s), out = sum(r(w * v_unit) * v) / sum(w).
 * r() rounds to bf16, and sums are fp32; with FTH_I8 on the CPU r() rounds to 16 bits, 32767 being the largest element of
 * scale * q or the largest v_unit of 64 items, and sums of products are exact. */
typedef struct fth_kv_shape {
  int32_t layers;
  int32_t kv_heads;
  int32_t head_dim; /* multiple of 8, 16 .. 256 */
  int32_t type;     /* FTH_F32, FTH_BF16 or FTH_I8 */
  int64_t entries;
} fth_kv_shape;

FTH_API fth_status fth_kv_bytes(fth_context* ctx, const fth_kv_shape* shape, int64_t* bytes);
/* Stores k, v [count, kv_heads, head_dim] of `layer` into rows[i].entry (rows with entry -1 are skipped; no entry may
 * occur twice). K is stored as given: rotate it first. */
FTH_API fth_status fth_kv_write(fth_context* ctx, const fth_kv_shape* shape, int32_t layer, int64_t count,
                                const fth_row* rows, const float* k, const float* v, void* pool);
/* Reads entries back as fp32; the inverse of fth_kv_write up to the pool's type. entry [count]. */
FTH_API fth_status fth_kv_read(fth_context* ctx, const fth_kv_shape* shape, int32_t layer, int64_t count,
                               const int32_t* entry, const void* pool, float* k, float* v);

/* ---- attention ----------------------------------------------------------------------------------------------- */

enum {
  FTH_BIAS_NONE = 0,
  /* bias [heads, bias_width]: added is bias[h][clamp(key position - row position + bias_center)] */
  FTH_BIAS_RELATIVE = 1,
  FTH_BIAS_DENSE = 2 /* bias [count, heads, bias_width]: added is bias[row][h][list item] */
};

/* out = sum_k softmax_k(scale * q.k + bias) v over the items the row sees (start <= item < visible, tree). Head h reads
 * K,V head h / (heads / kv_heads). No visible item: zeros. */
typedef struct fth_attention_shape {
  int32_t heads; /* multiple of kv_heads */
  int32_t bias_kind;
  int32_t bias_width;  /* 0 without bias */
  int32_t bias_center; /* FTH_BIAS_RELATIVE: index of difference 0 */
  float scale;         /* usually 1 / sqrt(head_dim); 1 for T5 */
  int32_t reserved;    /* 0 */
} fth_attention_shape;

/* List form. rows (list, tree, visible, start, position); q, out [count, heads, head_dim]; entries [entry_count] holds
 * the lists; entry_position [kv->entries] gives keys' positions for FTH_BIAS_RELATIVE (null: an item's index in its
 * list is its position). bias as the shape says, else null. Rows of one list that follow one another are read
 * together. */
FTH_API fth_status fth_attention(fth_context* ctx, const fth_attention_shape* shape, const fth_kv_shape* kv,
                                 int32_t layer, int64_t count, const fth_row* rows, const float* q,
                                 const int32_t* entries, int64_t entry_count, const void* pool,
                                 const int32_t* entry_position, const float* bias, float* out);

/* Dense K,V that an engine keeps itself. Element (sequence s, position t, head h, i) lies at
 * s*sequence_stride + t*token_stride + h*head_stride + i. */
typedef struct fth_dense_kv_shape {
  int32_t sequences;
  int32_t tokens; /* positions per sequence */
  int32_t kv_heads;
  int32_t head_dim;
  int32_t type;     /* FTH_F32 or FTH_BF16 */
  int32_t reserved; /* 0 */
  int64_t sequence_stride;
  int64_t token_stride;
  int64_t head_stride;
} fth_dense_kv_shape;

/* Mask form: the identity list of rows[i].sequence, and a key counts iff reach[sequence][position] >= rows[i].depth
 * (reach: the deepest depth at which the token has K,V; -1 for none). rows (sequence, depth, visible, start, tree,
 * position); k, v dense; reach [sequences, tokens]. */
FTH_API fth_status fth_attention_masked(fth_context* ctx, const fth_attention_shape* shape,
                                        const fth_dense_kv_shape* kv, int64_t count, const fth_row* rows,
                                        const float* q, const void* k, const void* v, const int32_t* reach,
                                        const float* bias, float* out);

/* ---- K,V backfill -------------------------------------------------------------------------------------------- */

/* State propagation: K and V of every layer a token skipped, from its exit state h. One norm, one product for all
 * layers of all `depths`, RoPE on K, scatter. Each layer's norm gain (and bias) is folded into its weights. Without
 * norm and RoPE: K and V of the cross-attention of every decoder layer, from an encoder's output h.
 * With shared weights, tied norms and no LoRA the K,V of all remaining depths are equal: use depths = 1 and append the
 * one entry to several lists. */
typedef struct fth_backfill_shape {
  int32_t hidden_size;
  int32_t depths;      /* sets of weights, each for all kv->layers */
  int32_t weight_type;
  int32_t norm;        /* FTH_RMS_NORM, FTH_LAYER_NORM or -1 */
  int32_t rope_style;
  int32_t rotary_dim;
  float norm_eps;
  int32_t reserved;    /* 0 */
} fth_backfill_shape;

FTH_API fth_status fth_backfill_bytes(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv,
                                      int64_t* bytes);
/* wk, wv [kv_heads*head_dim, hidden_size] and their biases bk, bv [kv_heads*head_dim] or null, of source_type; gain,
 * norm_bias [hidden_size] fp32 or null (1, 0; null without norm). What is packed is for this shape and this kv alone,
 * but with any kv.entries. */
FTH_API fth_status fth_backfill_pack(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv,
                                     int32_t depth, int32_t layer, int32_t source_type, const void* wk, const void* wv,
                                     const void* bk, const void* bv, const float* gain, const float* norm_bias,
                                     void* packed);
/* rows (position) and frequency [rotary_dim / 2]: needed with RoPE, else may be null; h [count, hidden_size]; entry
 * [count, depths], -1 skips. */
FTH_API fth_status fth_backfill(fth_context* ctx, const fth_backfill_shape* shape, const fth_kv_shape* kv,
                                int64_t count, const fth_row* rows, const float* h, const void* packed,
                                const float* frequency, const int32_t* entry, void* pool);

/* ---- block --------------------------------------------------------------------------------------------------- */

/* Where norms stand around a sub-layer f (attention, cross-attention if there is one, MLP), any combination:
 * x = PRE ? norm(h) : h;  y = f(x);  if BRANCH y = norm(y);  h = h + y;  if POST h = norm(h). */
enum { FTH_NORM_PRE = 1, FTH_NORM_BRANCH = 2, FTH_NORM_POST = 4 };

/* The linears of a layer, and its norms, in the order of their places in the layer; then what a block has one of (layer
 * 0, depth 0). */
enum {
  FTH_Q = 0, FTH_K = 1, FTH_V = 2, FTH_O = 3, FTH_CROSS_Q = 4, FTH_CROSS_O = 5, FTH_GATE = 6, FTH_UP = 7, FTH_DOWN = 8,
  FTH_ATTENTION_PRE_NORM = 9, FTH_ATTENTION_BRANCH_NORM = 10, FTH_ATTENTION_POST_NORM = 11,
  FTH_CROSS_PRE_NORM = 12, FTH_CROSS_BRANCH_NORM = 13, FTH_CROSS_POST_NORM = 14,
  FTH_MLP_PRE_NORM = 15, FTH_MLP_BRANCH_NORM = 16, FTH_MLP_POST_NORM = 17,
  FTH_ROPE_FREQUENCY = 18, /* [rotary_dim / 2] */
  FTH_RELATIVE_BIAS = 19   /* [heads, relative_width] */
};
/* What of a part is packed. Norm gains are WEIGHT; weights and biases of linears are the same at all depths. */
enum { FTH_WEIGHT = 0, FTH_BIAS = 1, FTH_LORA_A = 2, FTH_LORA_B = 3 };

/* A stack of `layers` transformer layers, run as a whole on rows of any depth. */
typedef struct fth_block_shape {
  int32_t layers;
  int32_t depths; /* sets of norm gains (if norm_per_depth) and LoRA pairs; every row's depth is below it */
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t weight_type;
  int32_t kv_type;         /* of fth_kv_shape */
  int32_t norm;            /* FTH_RMS_NORM or FTH_LAYER_NORM */
  int32_t norm_placement;  /* FTH_NORM_* bits */
  int32_t norm_per_depth;  /* 0 or 1 */
  int32_t activation;      /* of the MLP */
  int32_t glu;             /* 1: act(gate) * up; 0: act(up), no gate weight */
  int32_t bias;            /* 1: every linear has a bias (zero where none is packed) */
  int32_t rope_style;      /* of self-attention */
  int32_t rotary_dim;
  int32_t relative_width;  /* self-attention has an FTH_BIAS_RELATIVE table this wide, one for all layers; 0: none */
  int32_t relative_center; /* index of difference 0 in it */
  int32_t cross;           /* 1: a cross-attention between self-attention and MLP */
  int32_t lora_rank[9];    /* of Q .. DOWN; 0: none */
  float norm_eps;
  float attention_scale;   /* of both attentions; usually 1 / sqrt(head_dim), 1 for T5 */
} fth_block_shape; /* 124 bytes */

/* Bytes of one buffer with all weights of the block. It must be zeroed before packing. */
FTH_API fth_status fth_block_bytes(fth_context* ctx, const fth_block_shape* shape, int64_t* bytes);
/* Packs one tensor: `part` FTH_Q ..., `kind` FTH_WEIGHT ... as in a checkpoint: linears [out, in], biases [out],
 * LoRA A [rank, in], B [out, rank], gains [hidden_size]. Q8_0 and Q4_0 sources for weights of linears only. The source
 * is multiplied by `scale` (1, or a LoRA's alpha / rank on its B). Norm gains that are not packed are 0: pack every one
 * that the placement uses. */
FTH_API fth_status fth_block_pack(fth_context* ctx, const fth_block_shape* shape, int32_t layer, int32_t depth,
                                  int32_t part, int32_t kind, float scale, int32_t source_type, const void* source,
                                  void* weights);
/* Bytes of scratch that a new context holds after a step of `count` rows: what the step needs, half as much again, in
 * whole huge pages. Smaller steps leave it as it is; nothing else is allocated. */
FTH_API fth_status fth_block_scratch_bytes(fth_context* ctx, const fth_block_shape* shape, int64_t count,
                                           int64_t* bytes);
/* One pass: hidden [count, hidden_size] in place, rows of any depths and sequences. In every layer each row with
 * entry >= 0 first stores its K,V there, then rows attend: a row sees the entries other rows write in this call if its
 * list names them, be they before it (a decoder) or behind it (an encoder). Rows without entry (recursive sharing)
 * compute no K,V. pool_entries: entries of the pool, whose shape is (layers, kv_heads, head_dim, kv_type) of the block.
 *
 * Cross-attention is attention over other lists of the same `entries` and pool, without bias and rotation: cross_rows
 * [count] (list, tree, visible, start) says what each row sees, null without shape.cross. An encoder's token is an
 * entry whose K,V of layer j are those that the cross-attention of layer j reads: fth_backfill stores them, from the
 * encoder's output. entry_position [pool_entries] gives the keys' positions for the relative bias (null: an item's
 * index in its list is its position). */
FTH_API fth_status fth_block(fth_context* ctx, const fth_block_shape* shape, int64_t count, const fth_row* rows,
                             const fth_row* cross_rows, const void* weights, const int32_t* entries,
                             int64_t entry_count, const int32_t* entry_position, int64_t pool_entries, void* pool,
                             float* hidden);

/* ---- head statistics ----------------------------------------------------------------------------------------- */

/* norm (unless kind is -1) + LM head: z = softcap(logit_scale * W norm(h)), softcap(z) = c * tanh(z / c) if c > 0. */
typedef struct fth_head_shape {
  int32_t hidden_size;
  int32_t vocab_size;
  int32_t weight_type;
  int32_t norm; /* FTH_RMS_NORM, FTH_LAYER_NORM or -1 */
  float norm_eps;
  float logit_scale; /* usually 1; 1/sqrt(d) for tied T5 */
  float softcap;     /* 0: none */
  int32_t chosen;    /* how many chosen logits per row; 0: none */
} fth_head_shape;

/* One pass over the logits of a row; ties go to the lowest id. The difference of equal infinities counts as 0. A NaN
 * logit makes argmax 0, second -1 and the rest NaN. */
typedef struct fth_head_stats {
  int32_t argmax;
  int32_t second; /* id of the second largest; -1 if vocab_size is 1 */
  float top1;     /* largest logit */
  float top2;     /* second largest; -inf if vocab_size is 1 */
  float lse;      /* log sum exp z */
  float entropy;  /* of softmax(z), in nats */
} fth_head_stats; /* max probability = exp(top1 - lse); margin = that - exp(top2 - lse) */

/* W is packed with fth_linear_pack under {hidden_size, vocab_size, weight_type}. h [count, hidden_size]; gain,
 * norm_bias [hidden_size] or null; chosen_id [count, chosen] or null; stats [count]; chosen_logit [count, chosen] or
 * null; logits [count, vocab_size] or null (null: no logits are stored). With chosen logits and without `logits`, stats
 * may be null: then only the chosen ones are computed, to the same bits. */
FTH_API fth_status fth_head(fth_context* ctx, const fth_head_shape* shape, int64_t count, const float* h,
                            const float* gain, const float* norm_bias, const void* packed, const int32_t* chosen_id,
                            fth_head_stats* stats, float* chosen_logit, float* logits);

/* ---- gate (routers and exit heads) --------------------------------------------------------------------------- */

enum { FTH_ROUTER_LINEAR = 0, FTH_ROUTER_MLP = 1 };
enum { FTH_GATE_NONE = 0, FTH_GATE_SIGMOID = 1, FTH_GATE_TANH = 2, FTH_GATE_SOFTMAX = 3 };
/* What is packed. LINEAR has layer 1 alone. */
enum { FTH_GATE_W1 = 0, FTH_GATE_B1 = 1, FTH_GATE_W2 = 2, FTH_GATE_B2 = 3 };

/* z = router_d(x / temperature), d = rows[i].depth.  LINEAR: W1 x + b1.  MLP: W2 act(W1 x + b1) + b2.
 * p_j = alpha * f(z_j), softmax over the outputs.
 * outputs = 1: choice = (z >= threshold), gate = p   (f = identity for FTH_GATE_NONE).
 * outputs > 1: choice = argmax_j p_j + choice_bias_j (lowest j on ties), gate = p_choice.
 * A NaN logit makes choice 0.
 * Heads that say whether to exit: with one logit FTH_GATE_SIGMOID makes the gate their confidence; with two classes
 * (stay, exit) FTH_GATE_SOFTMAX makes it p_1. (alpha = 1.) */
typedef struct fth_gate_shape {
  int32_t hidden_size;
  int32_t inner_size; /* MLP only, else 0 */
  int32_t outputs;
  int32_t depths; /* routers; rows[i].depth selects one. 1: one for all rows */
  int32_t router;
  int32_t function;
  float temperature;
  float alpha;
  float threshold;    /* on z; usually 0 */
  int32_t activation; /* MLP only, else FTH_IDENTITY: after its first layer */
  int32_t bias;       /* 1: every layer has one */
} fth_gate_shape;

FTH_API fth_status fth_gate_bytes(fth_context* ctx, const fth_gate_shape* shape, int64_t* bytes);
/* Packs a part of one depth's router; every part that the shape has must be packed before use. Weights are [out, in],
 * biases [out]: LINEAR has W1 [outputs, hidden_size]; MLP has W1 [inner_size, hidden_size] and W2
 * [outputs, inner_size]. Stored in fp32.
 * A LINEAR router without bias is W1 as it is, padded to 64 bytes. So rows of an LM head that fth_embed gathers,
 * `outputs` for each row of x, are these rows' own routers (SpecEE's candidates) if outputs * hidden_size is a multiple
 * of 16: depths = count, rows[i].depth = i. */
FTH_API fth_status fth_gate_pack(fth_context* ctx, const fth_gate_shape* shape, int32_t depth, int32_t part,
                                 int32_t source_type, const void* source, void* packed);
/* rows (depth): not read if depths is 1, may be null then; x [count, hidden_size]; choice_bias [outputs] or null;
 * logits (z) and p [count, outputs], each may be null; gate [count]; choice [count]. */
FTH_API fth_status fth_gate(fth_context* ctx, const fth_gate_shape* shape, int64_t count, const fth_row* rows,
                            const float* x, const void* packed, const float* choice_bias, float* logits, float* p,
                            float* gate, int32_t* choice);

/* ---- recursion ----------------------------------------------------------------------------------------------- */

/* What a pass does to a row's state h, f being the block: h = f(h); h = h + f(h); h = h + gate * f(h). */
enum { FTH_UPDATE_REPLACE = 0, FTH_UPDATE_ADD = 1, FTH_UPDATE_ADD_GATED = 2 };

/* Passes through one block, as many for each row as its routers say. Pass 0 takes every row. Before each later pass d a
 * row's router d looks at its state, and the row goes on if the choice is `going`; else it is done. A router with
 * z >= threshold as its choice goes on with 1; a head that says whether to exit, with 0. Gates of FTH_UPDATE_ADD_GATED
 * are those of router d, of router 0 for pass 0. */
typedef struct fth_recursion_shape {
  int32_t depths;   /* passes at most: 1 .. depths of the block and, if there is one, of the router */
  int32_t update;   /* FTH_UPDATE_* */
  int32_t going;    /* the choice with which a row takes another pass */
  int32_t reserved; /* 0 */
} fth_recursion_shape;

/* On a CUDA context nothing waits for the host between the passes: who goes on, the lists and the end are the device's.
 *
 * rows [depths, count]: row i of pass d as it is if the row gets there. rows[d][i].list and visible describe the list as
 * it is before the call; a row with an entry appends it to its list (list item `visible`, for the first such row that
 * gets there; the ones behind it in order), stores K and V there and sees all items up to its own. Rows that append to
 * one list follow one another, and each list has room in `entries` for all of them. A row without entry sees `visible`
 * items; of a list that this call appends to at an earlier pass these may include the appended ones, if all rows got
 * there. `depth` is not read. The lists themselves are not changed: the caller appends the entries of the passes that a
 * row took, in the same order. No entry may occur twice.
 *
 * gate null: every row takes all passes; with FTH_UPDATE_ADD_GATED it is needed. block_weights, gate_weights: as for
 * fth_block, without cross-attention, and fth_gate. hidden [count, hidden_size] in place; passes [count]: how many each
 * row took, 1 .. depths. */
FTH_API fth_status fth_recursion(fth_context* ctx, const fth_recursion_shape* shape, const fth_block_shape* block,
                                 const fth_gate_shape* gate, int64_t count, const fth_row* rows,
                                 const void* block_weights, const void* gate_weights, const int32_t* entries,
                                 int64_t entry_count, const int32_t* entry_position, int64_t pool_entries, void* pool,
                                 float* hidden, int32_t* passes);

/* ---- state delta --------------------------------------------------------------------------------------------- */

/* How far a hidden state moved. Cosine of successive states = dot / sqrt(now * before); relative step =
 * sqrt(step / now); relative second difference = sqrt(acceleration / now). */
typedef struct fth_delta_stats {
  float dot;          /* now . before */
  float now;          /* |now|^2 */
  float before;       /* |before|^2 */
  float step;         /* |now - before|^2 */
  float acceleration; /* |(now - before) - (before - before2)|^2; NaN without before2 */
} fth_delta_stats;

/* The sums of each row, in one pass. before2 (may be null), before, now [count, width]: the states after three passes
 * in a row; out [count]. The inputs may overlap one another. For one number per tensor, the tensor is one row. */
FTH_API fth_status fth_state_delta(fth_context* ctx, int32_t width, int64_t count, const float* before2,
                                   const float* before, const float* now, fth_delta_stats* out);

/* ---- top k --------------------------------------------------------------------------------------------------- */

/* The k[s] largest values of each segment s, values[begin[s]] .. values[begin[s + 1] - 1]: writes their positions in
 * `values`, in ascending order, to index[begin[s]] .. index[begin[s] + k[s] - 1], and nothing else. Of equal values the
 * lowest positions are taken; -0 equals +0; NaN is less than any number. values [count]; begin [segments + 1],
 * ascending, in 0 .. count; k [segments], 0 .. the segment's size; index [count]. */
FTH_API fth_status fth_top_k(fth_context* ctx, int64_t count, const float* values, int64_t segments,
                             const int32_t* begin, const int32_t* k, int32_t* index);

/* ---- compact, embed ------------------------------------------------------------------------------------------ */

/* y[i] = x[index[i]]; x [source_count, width]; index [count]; y [count, width]. */
FTH_API fth_status fth_gather(fth_context* ctx, int32_t width, int64_t source_count, int64_t count,
                              const int32_t* index, const float* x, float* y);
/* x[index[i]] = y[i]; indices must differ. Other rows of x are not touched. */
FTH_API fth_status fth_scatter(fth_context* ctx, int32_t width, int64_t target_count, int64_t count,
                               const int32_t* index, const float* y, float* x);
/* x[index[i]] += gate[i] * y[i]; indices must differ; gate [count] or null (1). Other rows of x are not touched. */
FTH_API fth_status fth_scatter_add(fth_context* ctx, int32_t width, int64_t target_count, int64_t count,
                                   const int32_t* index, const float* gate, const float* y, float* x);

/* out[i] = scale * table[id[i]]. */
typedef struct fth_embed_shape {
  int32_t vocab_size;
  int32_t hidden_size;
  int32_t type;   /* of the table: FTH_F32 or FTH_BF16 */
  int32_t packed; /* 1: the table is the packed LM head (tied embeddings stored once); 0: [vocab_size, hidden_size] */
  float scale;
  int32_t reserved; /* 0 */
} fth_embed_shape;

FTH_API fth_status fth_embed(fth_context* ctx, const fth_embed_shape* shape, int64_t count, const int32_t* id,
                             const void* table, float* out);

#ifdef __cplusplus
}
#endif
#endif /* FATHOM_H */
