"""Attention: a token of each of many sequences, over whole lists and over those of a depth; prompts."""
import ctypes as c
import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import fathom as f
from measure import Case, poison, relative_error

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION}


def sdpa(q, k, v, backend, **options):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)


def sdpa_peers(bench, call):
    """call(set, backend) for each backend; on the CPU the one that is there."""
    if not bench.cuda:
        return {"sdpa": lambda i: call(i, SDPBackend.MATH)}
    return {name: lambda i, b=b: call(i, b) for name, b in BACKENDS.items()}


def exact(q, k, v, seen):
    """float64 attention of q [heads, d] to k, v [tokens, kv_heads, d]; seen [tokens] of bool."""
    group = q.shape[0] // k.shape[1]
    k, v = (t[seen].double().repeat_interleave(group, 1) for t in (k, v))
    s = torch.einsum("hd,thd->ht", q.double(), k) / math.sqrt(q.shape[-1])
    return torch.einsum("ht,thd->hd", s.softmax(-1), v)


class Decode:
    """One token of each of `sequences`, K and V of `tokens` in bf16, in as many layers as sets of inputs are needed;
    alive [sequences, tokens] says which tokens a row sees."""

    def __init__(self, bench, sequences, tokens, heads, kv_heads, dim, alive=None):
        self.bench, self.library = bench, bench.library
        self.sequences, self.tokens, self.heads, self.kv_heads, self.dim = sequences, tokens, heads, kv_heads, dim
        self.alive = torch.ones(sequences, tokens, dtype=torch.bool) if alive is None else alive
        self.bytes = int(self.alive.sum()) * kv_heads * dim * 2 * 2
        self.sets = bench.copies(self.bytes)
        self.q = bench.random(sequences, heads, dim)
        # [sequence, token, head, i]
        self.k, self.v = ([bench.random(sequences, tokens, kv_heads, dim, dtype=torch.bfloat16)
                           for _ in range(self.sets)] for _ in range(2))
        self.out = torch.empty_like(self.q)
        self.shape = f.AttentionShape(heads, 0, 0, 0, 1 / math.sqrt(dim), 0)
        self.some = sorted({0, sequences // 2, sequences - 1})  # sequences that are compared
        self.reference = torch.stack([exact(self.q[s], self.k[0][s], self.v[0][s], self.alive[s].to(bench.device))
                                      for s in self.some])
        self.tq = self.q.to(torch.bfloat16).unsqueeze(2)

    def check(self, result=None):
        return relative_error((self.out if result is None else result.reshape(self.out.shape))[self.some],
                              self.reference)

    def prepare(self):
        poison(self.out)

    def lists(self, compact=True):
        """Ours, over lists of the tokens that are alive. Compact: the pool holds these alone, in whole runs; else it
        holds all, and the items of a list are single entries."""
        kept = self.alive if compact else torch.ones_like(self.alive)
        counts, places = self.alive.sum(1), torch.full(self.alive.shape, -1, dtype=torch.int64)
        if compact:  # every list begins on a page of its own
            room = (counts + 63) // 64 * 64
            first = torch.cumsum(room, 0) - room
            places[self.alive] = (torch.cumsum(self.alive, 1) - 1 + first[:, None])[self.alive]
            entries = int(room.sum())
        else:
            places = torch.arange(self.alive.numel()).view_as(self.alive)
            entries = (self.alive.numel() + 63) // 64 * 64
        kv = f.KvShape(self.sets, self.kv_heads, self.dim, f.BF16, entries)
        pool = self.library.buffer(self.library.bytes("fth_kv_bytes", kv))
        writers = self.library.rows(int(kept.sum()), entry=places[kept].int())
        for layer in range(self.sets):
            k, v = (t[layer][kept.to(t[layer].device)].float() for t in (self.k, self.v))
            self.library.call("fth_kv_write", kv, c.c_int32(layer), k.shape[0], writers, k, v, pool)
        items = self.library.host(places[self.alive].int())
        rows = self.library.rows(self.sequences, list=torch.cumsum(counts, 0) - counts, visible=counts.int(),
                                 position=counts.int() - 1)
        self.held = kv, pool, items, rows
        return lambda i: self.library.call("fth_attention", self.shape, kv, c.c_int32(i), self.sequences, rows, self.q,
                                           items, items.numel(), pool, None, None, self.out)

    def masked(self):
        """Ours, over dense K and V with the depth that each token reached: 1 where it is alive, else 0."""
        kv = f.DenseKvShape(self.sequences, self.tokens, self.kv_heads, self.dim, f.BF16, 0,
                            *self.k[0].stride()[:3])
        reach = self.alive.int().to(self.bench.device)
        rows = self.library.rows(self.sequences, depth=1, visible=self.tokens, position=self.tokens - 1,
                                 sequence=torch.arange(self.sequences, dtype=torch.int32))
        self.held = reach, rows
        return lambda i: self.library.call("fth_attention_masked", self.shape, kv, self.sequences, rows, self.q,
                                           self.k[i], self.v[i], reach, None, self.out)

    def by_head(self):
        return [tuple(t.transpose(1, 2).contiguous() for t in pair) for pair in zip(self.k, self.v)]

    def torch_peers(self):
        kv = self.by_head()
        return sdpa_peers(self.bench, lambda i, backend: sdpa(self.tq, *kv[i], backend))

    def flex(self, with_mask):
        """flex_attention, compiled; the block mask is made beforehand."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        kv, mask = self.by_head(), None
        if with_mask:
            alive = self.alive.to(self.bench.device)
            mask = create_block_mask(lambda b, h, q, t: alive[b, t], self.sequences, None, 1, self.tokens,
                                     device=self.bench.device)
        compiled = torch.compile(flex_attention, dynamic=False) if self.bench.cuda else flex_attention
        return lambda i: compiled(self.tq, *kv[i], block_mask=mask, enable_gqa=True)


def decode(bench, sizes, remark=""):
    for sequences, tokens, heads, kv_heads, dim, targets in sizes:
        name = f"decode, {sequences} of {tokens}, {heads}/{kv_heads} heads of {dim}{remark}"
        if not bench.wants("attention", name):
            continue
        with bench.trying("attention", name):
            d = Decode(bench, sequences, tokens, heads, kv_heads, dim)
            ours, peers = d.lists(), {} if remark else d.torch_peers()
            if not remark and (d.bytes >= 256e6 or bench.smoke):
                peers["flex"] = d.flex(False)
            bench.run(Case("attention", name, d.bytes, **targets), ours, peers, d.check, d.prepare)


def masks(bench, sequences, tokens, heads, kv_heads, dim):
    """Half of the tokens reached the rows' depth: here and there, or in whole pages."""
    torch.manual_seed(3)
    half = torch.rand(sequences, tokens) < 0.5
    pages = (torch.rand(sequences, tokens // 64) < 0.5).repeat_interleave(64, 1)
    half[:, 0] = pages[:, 0] = True
    what = f"{sequences} of {tokens}, {heads}/{kv_heads} heads of {dim}"
    cases = {"lists of a depth, half alive": (half, lambda d: d.lists(), {"flex": 1.5}),
             "lists of single entries, half alive": (half, lambda d: d.lists(compact=False), {"flex": 1.5}),
             "mask form, all alive": (None, lambda d: d.masked(), {"floor": 0.81}),
             "mask form, half of the pages alive": (pages, lambda d: d.masked(), {"flex": 1.5}),
             "mask form, half of the tokens alive": (half, lambda d: d.masked(), {})}
    for name, (alive, ours, targets) in cases.items():
        if not bench.wants("attention", name):
            continue
        with bench.trying("attention", name):
            d = Decode(bench, sequences, tokens, heads, kv_heads, dim, alive)
            case = Case("attention", f"{name}, {what}", d.bytes, **targets)
            bench.run(case, ours(d), {"flex": d.flex(alive is not None)}, d.check, d.prepare)
            plain = f"decode, {sequences} of {tokens // 2}, {heads}/{kv_heads} heads of {dim}"  # as many bytes
            for line in bench.lines:
                if line["case"] == plain and alive is half:
                    bench.against(case.line, line, "the plain kernel", 1.05)


def prefill(bench, sizes):
    """All rows of one prompt, each sees those before it."""
    for tokens, heads, kv_heads, dim, targets in sizes:
        name = f"prefill, {tokens} causal, {heads}/{kv_heads} heads of {dim}"
        if not bench.wants("attention", name):
            continue
        with bench.trying("attention", name):
            library = bench.library
            q = bench.random(tokens, heads, dim)
            k, v = (bench.random(tokens, kv_heads, dim, dtype=torch.bfloat16) for _ in range(2))
            out = torch.empty_like(q)
            entries = (tokens + 63) // 64 * 64
            kv = f.KvShape(1, kv_heads, dim, f.BF16, entries)
            pool = library.buffer(library.bytes("fth_kv_bytes", kv))
            order = torch.arange(tokens, dtype=torch.int32)
            library.call("fth_kv_write", kv, c.c_int32(0), tokens, library.rows(tokens, entry=order), k.float(),
                         v.float(), pool)
            rows, items = library.rows(tokens, visible=order + 1, position=order), library.host(order)
            shape = f.AttentionShape(heads, 0, 0, 0, 1 / math.sqrt(dim), 0)
            some = sorted({0, tokens // 3, tokens - 1})
            seen = torch.arange(tokens, device=bench.device)
            reference = torch.stack([exact(q[t], k, v, seen <= t) for t in some])
            tq, tk, tv = (t.to(torch.bfloat16).transpose(0, 1).unsqueeze(0).contiguous() for t in (q, k, v))
            bench.run(Case("attention", name, (2 * k.numel() + q.numel() + out.numel()) * 2,
                           2 * heads * dim * tokens * (tokens + 1), **targets),
                      lambda i: library.call("fth_attention", shape, kv, c.c_int32(0), tokens, rows, q, items, tokens,
                                             pool, None, None, out),
                      sdpa_peers(bench, lambda i, backend: sdpa(tq, tk, tv, backend, is_causal=True)),
                      lambda result=None: relative_error(
                          (out if result is None else result[0].transpose(0, 1))[some], reference),
                      lambda: poison(out), warm=True)


def run(bench):
    if bench.smoke:
        decode(bench, [(3, 200, 6, 2, 64, {}), (2, 130, 4, 1, 128, {}), (3, 128, 4, 2, 64, {})])
        masks(bench, 3, 256, 4, 2, 64)
        prefill(bench, [(70, 4, 2, 64, {})])
        return
    plain = {"best": 1.0, "flex": 1.2}
    decode(bench, [(64, 4096, 15, 5, 64, {"floor": 0.85, **plain}), (32, 4096, 32, 8, 128, {"floor": 0.85, **plain}),
                   (64, 4096, 8, 1, 256, {"floor": 0.85, **plain}), (256, 2048, 32, 8, 128, {"floor": 0.85, **plain}),
                   (8, 4096, 32, 8, 128, {"floor": 0.65, "best": 1.1}), (1, 4096, 32, 8, 128, {})])
    bench.library.pinned = True
    decode(bench, [(32, 4096, 32, 8, 128, {})], ", rows and lists in pinned memory")
    bench.library.pinned = False
    masks(bench, 32, 8192, 32, 8, 128)
    prefill(bench, [(8192, 32, 8, 128, {"best": 0.75}), (8192, 15, 5, 64, {"best": 0.7}),
                    (8192, 8, 1, 256, {"best": 0.7})])
