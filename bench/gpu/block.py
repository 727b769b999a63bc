"""One step of a recursive block: rows of many sequences, at one depth or several, beside the same block in torch,
compiled and captured."""
import ctypes as c
import math

import torch
import torch.nn.functional as F

import fathom as f
from backfill import rotated
from measure import Case, relative_error

EPS, THETA = 1e-5, 10000.0


class Model:
    """Weights of a Llama block, bf16, with gains by depth."""

    def __init__(self, bench, layers, hidden, inner, heads, kv_heads, dim, depths=3, rank=0):
        self.layers, self.hidden, self.inner, self.depths, self.rank = layers, hidden, inner, depths, rank
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        sizes = {f.Q: (heads * dim, hidden), f.K: (kv_heads * dim, hidden), f.V: (kv_heads * dim, hidden),
                 f.O: (hidden, heads * dim), f.GATE: (inner, hidden), f.UP: (inner, hidden), f.DOWN: (hidden, inner)}
        self.parts = [{part: bench.random(*size, scale=1 / math.sqrt(size[1]), dtype=torch.bfloat16)
                       for part, size in sizes.items()} for _ in range(layers)]
        self.gains = 1 + bench.random(layers, 2, depths, hidden, scale=0.1)
        self.frequency = THETA ** (-torch.arange(dim // 2, device=bench.device) / (dim // 2))
        self.weight_bytes = sum(w.numel() * 2 for layer in self.parts for w in layer.values())
        ranks = (c.c_int32 * 9)(*[rank if part in sizes else 0 for part in range(9)])
        self.shape = f.BlockShape(layers, depths, hidden, inner, heads, kv_heads, dim, f.BF16, f.BF16, f.RMS_NORM,
                                  f.NORM_PRE, 1, f.SILU, 1, 0, f.ROPE_HALF, dim, 0, 0, 0, ranks, EPS,
                                  1 / math.sqrt(dim))
        self.pairs = {(layer, depth, part): (bench.random(rank, size[1], scale=1 / math.sqrt(size[1])),
                                             bench.random(size[0], rank, scale=0.1))
                      for layer in range(layers) for depth in range(depths) for part, size in sizes.items() if rank}

    def packed(self, library):
        weights = library.buffer(library.bytes("fth_block_bytes", self.shape))

        def pack(layer, depth, part, kind, tensor):
            library.call("fth_block_pack", self.shape, *map(c.c_int32, (layer, depth, part, kind)), c.c_float(1),
                         f.code(tensor), tensor, weights)

        for layer, parts in enumerate(self.parts):
            for part, w in parts.items():
                pack(layer, 0, part, f.WEIGHT, w)
            for depth in range(self.depths):
                for n, part in enumerate((f.ATTENTION_PRE_NORM, f.MLP_PRE_NORM)):
                    pack(layer, depth, part, f.WEIGHT, self.gains[layer, n, depth].contiguous())
        for (layer, depth, part), (a, b) in self.pairs.items():
            pack(layer, depth, part, f.LORA_A, a)
            pack(layer, depth, part, f.LORA_B, b)
        pack(0, 0, f.ROPE_FREQUENCY, f.WEIGHT, self.frequency)
        return weights

    def joined(self, dtype):
        """Of each layer what torch's block reads: q,k,v in one, o, gate,up in one, down."""
        join = lambda p, *names: torch.cat([p[n] for n in names]).to(dtype)
        return [(join(p, f.Q, f.K, f.V), p[f.O].to(dtype), join(p, f.GATE, f.UP), p[f.DOWN].to(dtype))
                for p in self.parts]


def layer(h, weights, gains, k_cache, v_cache, position, frequency, sizes, attend):
    """One layer on one token per sequence: h [rows, hidden]; the caches [rows, kv_heads, tokens, d] end with the token
    itself. Returns the new h; the products are computed in the type of the weights."""
    heads, kv_heads, dim = sizes
    qkv, o, gate_up, down = weights
    x = (F.rms_norm(h, (h.shape[-1],), None, EPS) * gains[0]).to(qkv.dtype)
    q, k, v = F.linear(x, qkv).view(h.shape[0], -1, dim).split([heads, kv_heads, kv_heads], 1)
    q, k = (rotated(t.to(h.dtype), position, frequency).to(qkv.dtype) for t in (q, k))
    k_cache[:, :, -1] = k
    v_cache[:, :, -1] = v
    h = h + F.linear(attend(q.unsqueeze(2), k_cache, v_cache).reshape(h.shape[0], -1), o)
    x = (F.rms_norm(h, (h.shape[-1],), None, EPS) * gains[1]).to(qkv.dtype)
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return h + F.linear(F.silu(gate) * up, down)


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def exact_attention(q, k, v):
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    return ((q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])).softmax(-1) @ v


class Step:
    """`count` sequences of `tokens`, whose last token is the row of this step; depth [count]."""

    def __init__(self, bench, model, weights, count, tokens, depth):
        self.bench, self.model, library = bench, model, bench.library
        layers, kv_heads, dim = model.layers, model.kv_heads, model.dim
        room = (tokens + 63) // 64 * 64
        self.kv = f.KvShape(layers, kv_heads, dim, f.BF16, count * room)
        self.caches = [tuple(bench.random(count, kv_heads, tokens, dim, dtype=torch.bfloat16) for _ in range(2))
                       for _ in range(layers)]
        pool = library.buffer(library.bytes("fth_kv_bytes", self.kv))
        places = (torch.arange(count)[:, None] * room + torch.arange(tokens)).int()
        writers = library.rows(count * tokens, entry=places.view(-1))
        for n, (k, v) in enumerate(self.caches):
            flat = [t.transpose(1, 2).reshape(-1, kv_heads, dim).float().contiguous() for t in (k, v)]
            library.call("fth_kv_write", self.kv, c.c_int32(n), count * tokens, writers, *flat, pool)
        self.items = library.host(places.view(-1))
        self.rows = library.rows(count, list=torch.arange(count) * tokens, visible=tokens, position=tokens - 1,
                                 depth=depth, entry=places[:, -1])
        self.start = bench.random(count, model.hidden)
        self.hidden = self.start.clone()
        self.depth = depth.long().to(bench.device)
        self.position = torch.full((count,), tokens - 1.0, device=bench.device)
        self.sizes = (model.heads, model.kv_heads, model.dim)
        self.some = sorted({0, count - 1})
        self.reference = None if model.rank else self.forward(torch.float64, layer, exact_attention, self.some)
        self.bytes = model.weight_bytes + 2 * layers * count * tokens * kv_heads * dim * 2
        self.flops = count * (model.weight_bytes + 4 * layers * tokens * model.heads * dim)
        self.ours = lambda i: library.call("fth_block", model.shape, count, self.rows, None, weights, self.items,
                                           count * tokens, None, count * room, pool, self.hidden)

    def forward(self, dtype, one_layer, attend, some=slice(None)):
        model, exact = self.model, dtype is torch.float64
        h = self.start[some].double() if exact else self.start
        position, frequency = self.position[some], model.frequency
        if exact:
            position, frequency = position.double(), frequency.double()
        for n, weights in enumerate(model.joined(dtype)):
            gains = model.gains[n][:, self.depth[some]].to(h.dtype)
            k, v = (t[some].to(dtype).clone() for t in self.caches[n])
            h = one_layer(h, weights, gains, k, v, position, frequency, self.sizes, attend)
        return h

    def prepare(self):
        self.hidden.copy_(self.start)

    def check(self, result=None):
        if self.reference is None:
            return 0.0 if bool(torch.isfinite(self.hidden).all()) else math.inf
        return relative_error((self.hidden if result is None else result)[self.some], self.reference)

    def peers(self):
        if not self.bench.cuda:
            return {"eager": lambda i: self.forward(torch.bfloat16, layer, sdpa)}
        weights = self.model.joined(torch.bfloat16)
        gains = [g[:, self.depth].contiguous() for g in self.model.gains]
        compiled = torch.compile(layer, dynamic=False)

        def by_torch(one_layer):
            def run(i):
                h = self.start
                for n, w in enumerate(weights):
                    h = one_layer(h, w, gains[n], *self.caches[n], self.position, self.model.frequency, self.sizes,
                                  sdpa)
                return h
            return run

        return {"eager": by_torch(layer), "compiled": by_torch(compiled)}


def steps(bench, name, model, tokens, counts, bars, warm=False):
    weights = None
    for count in counts:
        case_name = f"{name}, {count} rows, {tokens} tokens"
        if not bench.wants("block", case_name):
            continue
        with bench.trying("block", case_name):
            weights = weights if weights is not None else model.packed(bench.library)
            depth = torch.arange(count, dtype=torch.int32) * model.depths // count
            step = Step(bench, model, weights, count, tokens, depth)
            bench.run(Case("block", case_name, step.bytes, step.flops, **bars.get(count, {})), step.ours, step.peers(),
                      step.check, step.prepare, warm=warm)


def mixed(bench, name, model, tokens, count):
    """The same rows at three depths and at one."""
    case_name = f"{name}, mixed"
    if not bench.wants("block", case_name):
        return
    with bench.trying("block", case_name):
        weights, lines = model.packed(bench.library), []
        for what, depth in (("one depth", torch.zeros(count)), ("three depths", torch.arange(count) % 3)):
            step = Step(bench, model, weights, count, tokens, depth.int())
            case = Case("block", f"{name}, mixed: {count} rows at {what}", step.bytes, step.flops)
            bench.run(case, step.ours, {}, step.check, step.prepare)
            lines.append(case.line)
        bench.against(lines[1], lines[0], "one depth", 1.10)


def run(bench):
    if bench.smoke:
        small = (2, 64, 96, 4, 2, 16)
        steps(bench, "small", Model(bench, *small), 70, (1, 5), {})
        mixed(bench, "small with LoRA", Model(bench, *small, rank=4), 70, 6)
        return
    shape = (10, 960, 2560, 15, 5, 64)  # what Mixture-of-Recursions shares of its 360M model
    bars = {1: {"floor": 0.60, "compiled": 1.4}, 8: {"floor": 0.60, "compiled": 1.3},
            64: {"floor": 0.70, "compiled": 1.15}, 256: {"floor": 0.65, "compiled": 1.0}}
    steps(bench, "MoR 360M", Model(bench, *shape), 2048, (1, 8, 64, 256), bars)
    mixed(bench, "MoR 360M", Model(bench, *shape), 2048, 64)
    mixed(bench, "MoR 360M, LoRA of rank 16", Model(bench, *shape, rank=16), 2048, 64)
    steps(bench, "one layer of 25 MB", Model(bench, 1, 1024, 2816, 16, 4, 64), 256, (1, 8),
          {n: {"compiled": 2.5} for n in (1, 8)}, warm=True)
