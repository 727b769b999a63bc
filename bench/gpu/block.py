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
        self.heads, self.kv_heads, self.dim = self.sizes = (heads, kv_heads, dim)
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


class Lists:
    """Random K and V of `count` lists of `tokens` tokens, the last of which a row is about to write; depth [count]."""

    def __init__(self, bench, model, count, tokens, depth):
        self.bench, self.model, self.library, self.count, self.tokens = bench, model, bench.library, count, tokens
        layers, kv_heads, dim = model.layers, model.kv_heads, model.dim
        room = (tokens + 63) // 64 * 64
        self.entries = count * room
        self.caches = [tuple(bench.random(count, kv_heads, tokens, dim, dtype=torch.bfloat16) for _ in range(2))
                       for _ in range(layers)]
        kv = f.KvShape(layers, kv_heads, dim, f.BF16, self.entries)
        self.pool = self.library.buffer(self.library.bytes("fth_kv_bytes", kv))
        places = (torch.arange(count)[:, None] * room + torch.arange(tokens)).int()
        writers = self.library.rows(count * tokens, entry=places.view(-1))
        for n, pair in enumerate(self.caches):
            flat = [t.transpose(1, 2).reshape(-1, kv_heads, dim).float().contiguous() for t in pair]
            self.library.call("fth_kv_write", kv, c.c_int32(n), count * tokens, writers, *flat, self.pool)
        self.items, self.last = self.library.host(places.view(-1)), places[:, -1]
        self.depth = depth.long().to(bench.device)
        self.position = torch.full((count,), tokens - 1.0, device=bench.device)
        self.gains = [g[:, self.depth].contiguous() for g in model.gains]
        self.list_bytes = 2 * layers * tokens * kv_heads * dim * 2
        self.row_flops = model.weight_bytes + 4 * layers * tokens * model.heads * dim

    def rows(self, visible):
        return self.library.rows(self.count, list=torch.arange(self.count) * self.tokens, visible=visible,
                                 position=self.tokens - 1, depth=self.depth.cpu().int(), entry=self.last)

    def exact(self, h, lists):
        """The block on rows h of these lists, in float64."""
        h, model = h.double(), self.model
        for n, weights in enumerate(model.joined(torch.float64)):
            k, v = (t[lists].double() for t in self.caches[n])
            h = layer(h, weights, self.gains[n][:, lists].double(), k, v, self.position[lists].double(),
                      model.frequency.double(), model.sizes, exact_attention)
        return h

    def by_torch(self, one_layer, lists=slice(None)):
        """The same in bf16, as a function of h."""
        weights, model = self.model.joined(torch.bfloat16), self.model
        gains, position = [g[:, lists] for g in self.gains], self.position[lists]
        caches = [tuple(t[lists] for t in pair) for pair in self.caches]

        def run(h):
            for n, w in enumerate(weights):
                h = one_layer(h, w, gains[n], *caches[n], position, model.frequency, model.sizes, sdpa)
            return h
        return run

    def layers_of_torch(self):
        return {"eager": layer, **({"compiled": torch.compile(layer, dynamic=False)} if self.bench.cuda else {})}


class Step:
    """One pass, of a row of every list."""

    def __init__(self, bench, model, weights, count, tokens, depth):
        self.lists = lists = Lists(bench, model, count, tokens, depth)
        self.start = bench.random(count, model.hidden)
        self.hidden, self.rows = self.start.clone(), lists.rows(tokens)
        self.some = sorted({0, count - 1})
        # With LoRA times are compared, and the tests have the results.
        self.reference = None if model.rank else lists.exact(self.start[self.some], self.some)
        self.bytes, self.flops = model.weight_bytes + count * lists.list_bytes, count * lists.row_flops
        self.ours = lambda i: bench.library.call(
            "fth_block", model.shape, count, self.rows, None, weights, lists.items, lists.items.numel(), None,
            lists.entries, lists.pool, self.hidden)

    def prepare(self):
        self.hidden.copy_(self.start)

    def check(self, result=None):
        if self.reference is None:
            return 0.0 if bool(torch.isfinite(self.hidden).all()) else math.inf
        return relative_error((self.hidden if result is None else result)[self.some], self.reference)

    def peers(self):
        return {name: lambda i, run=self.lists.by_torch(one): run(self.start)
                for name, one in self.lists.layers_of_torch().items()}


class Recursion:
    """Up to `depths` passes of `count` rows, each with a list per depth, as their routers say."""

    def __init__(self, bench, model, weights, count, tokens):
        library, depths = bench.library, model.depths
        self.lists = lists = Lists(bench, model, depths * count, tokens, torch.arange(depths).repeat_interleave(count))
        self.depths, self.count = depths, count
        self.start = bench.random(count, model.hidden)
        self.hidden, self.rows = self.start.clone(), lists.rows(tokens - 1)
        self.passes = torch.zeros(count, dtype=torch.int32, device=bench.device)
        shape = f.RecursionShape(depths, 0, 1, 0)
        gate = f.GateShape(model.hidden, 0, 1, depths, 0, 1, 1, 1, 0, f.IDENTITY, 0)
        self.routers = bench.random(depths, model.hidden, scale=1 / math.sqrt(model.hidden))
        packed = library.buffer(library.bytes("fth_gate_bytes", gate))
        for d in range(depths):
            library.call("fth_gate_pack", gate, *map(c.c_int32, (d, 0, f.F32)), self.routers[d], packed)
        self.ours = lambda i: library.call(
            "fth_recursion", shape, model.shape, gate, count, self.rows, weights, packed, lists.items,
            lists.items.numel(), None, lists.entries, lists.pool, self.hidden, self.passes)
        self.reference, self.taken, clear = self.run([lambda h, d=d: lists.exact(h, self.of(d)) for d in range(depths)])
        self.clear = clear.nonzero().view(-1)  # rows that rounding does not send another way
        passes = int(self.taken.sum())
        self.bytes = int(self.taken.max()) * model.weight_bytes + passes * lists.list_bytes
        self.flops = passes * lists.row_flops

    def of(self, depth):
        return slice(depth * self.count, (depth + 1) * self.count)

    def run(self, passes):
        """States, passes taken, and whether no router was near its threshold; the rows that are done are masked."""
        h = self.start
        going = torch.ones(self.count, dtype=torch.bool, device=h.device)
        taken, clear = torch.zeros(self.count, device=h.device), going
        for d, one in enumerate(passes):
            if d > 0:
                z = h.to(self.routers.dtype) @ self.routers[d]
                clear = clear & (~going | (z.abs() > 0.1))
                going = going & (z >= 0)
            h = torch.where(going[:, None], one(h), h)
            taken = taken + going
        return h, taken, clear

    def prepare(self):
        self.hidden.copy_(self.start)
        self.passes.fill_(-1)

    def check(self, result=None):
        if result is None and not torch.equal(self.passes[self.clear].float(), self.taken[self.clear]):
            return math.inf
        return relative_error((self.hidden if result is None else result)[self.clear], self.reference[self.clear])

    def peers(self):
        """A captured graph takes all passes whatever the routers say; rows that are done are masked."""
        passes = {name: [self.lists.by_torch(one, self.of(d)) for d in range(self.depths)]
                  for name, one in self.lists.layers_of_torch().items()}
        return {name: lambda i, each=each: self.run(each)[0] for name, each in passes.items()}


def sweep(bench, name, model, tokens, counts, bars, make, warm=False):
    """A case for each count of rows, of what make(weights, count) measures."""
    weights = None
    for count in counts:
        case_name = f"{name.format(count)}, {tokens} tokens"
        if not bench.wants("block", case_name):
            continue
        with bench.trying("block", case_name):
            weights = weights if weights is not None else model.packed(bench.library)
            of = make(weights, count)
            case = Case("block", case_name, of.bytes, of.flops, **bars.get(count, {}))
            bench.run(case, of.ours, of.peers(), of.check, of.prepare, warm=warm)


def steps(bench, name, model, tokens, counts, bars, warm=False):
    def make(weights, count):
        depth = torch.arange(count, dtype=torch.int32) * model.depths // count
        return Step(bench, model, weights, count, tokens, depth)
    sweep(bench, name + ", {} rows", model, tokens, counts, bars, make, warm)


def recursions(bench, name, model, tokens, counts, bars):
    sweep(bench, name + ", recursion of {} rows", model, tokens, counts, bars,
          lambda weights, count: Recursion(bench, model, weights, count, tokens))


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


def sides(bench, name, model, tokens):
    """The most rows that are one launch, and one row more, which is many."""
    if not bench.wants("block", f"{name}, one launch"):
        return
    with bench.trying("block", f"{name}, one launch"):
        weights, lines = model.packed(bench.library), []
        for count, what in ((16, "one launch"), (17, "launches")):
            step = Step(bench, model, weights, count, tokens, torch.arange(count, dtype=torch.int32) % model.depths)
            case = Case("block", f"{name}, one launch: {count} rows, {what}", step.bytes, step.flops)
            bench.run(case, step.ours, {}, step.check, step.prepare)
            lines.append(case.line)
        bench.against(lines[0], lines[1], "17 rows", 0.9)


def run(bench):
    if bench.smoke:
        small = (2, 64, 96, 4, 2, 16)
        steps(bench, "small", Model(bench, *small), 70, (1, 5), {})
        recursions(bench, "small", Model(bench, *small), 70, (1, 9), {})
        mixed(bench, "small with LoRA", Model(bench, *small, rank=4), 70, 6)
        sides(bench, "small", Model(bench, *small), 70)
        return
    shape = (10, 960, 2560, 15, 5, 64)  # what Mixture-of-Recursions shares of its 360M model
    bars = {1: {"floor": 0.60, "compiled": 1.4}, 8: {"floor": 0.60, "compiled": 1.3},
            64: {"floor": 0.70, "compiled": 1.15}, 256: {"floor": 0.65, "compiled": 1.0}}
    model = Model(bench, *shape)
    steps(bench, "MoR 360M", model, 2048, (1, 8, 64, 256), bars)
    sides(bench, "MoR 360M", model, 2048)
    mixed(bench, "MoR 360M", model, 2048, 64)
    recursions(bench, "MoR 360M", model, 2048, (1, 8, 64), {n: {"floor": bar["floor"]} for n, bar in bars.items()})
    mixed(bench, "MoR 360M, LoRA of rank 16", Model(bench, *shape, rank=16), 2048, 64)
    steps(bench, "one layer of 25 MB", Model(bench, 1, 1024, 2816, 16, 4, 64), 256, (1, 8),
          {n: {"compiled": 2.5} for n in (1, 8)}, warm=True)
