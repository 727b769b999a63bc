"""K and V of all layers that tokens skipped, from the states with which they left: norm, one product, RoPE, stores."""
import ctypes as c
import math

import torch
import torch.nn.functional as F

import fathom as f
from measure import Case, relative_error

EPS, THETA = 1e-5, 10000.0


def rotated(k, position, frequency):
    """RoPE of k [rows, ..., heads, d], halves paired."""
    angle = (position[:, None] * frequency).view(-1, *[1] * (k.dim() - 2), frequency.numel())
    cos, sin = angle.cos(), angle.sin()
    a, b = k.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def keys_values(h, wkv, position, frequency, heads, dim):
    """[layers, rows, heads, d] twice; wkv [layers * 2 * heads * d, hidden] with gains folded in, each layer K, V."""
    x = F.rms_norm(h, (h.shape[-1],), None, EPS).to(wkv.dtype)
    kv = F.linear(x, wkv).view(h.shape[0], -1, 2, heads, dim)
    k = rotated(kv[:, :, 0].to(frequency.dtype), position, frequency)
    return k.to(wkv.dtype).transpose(0, 1), kv[:, :, 1].transpose(0, 1)


def run(bench):
    layers, hidden, heads, dim = (3, 96, 2, 64) if bench.smoke else (10, 960, 5, 64)
    library = bench.library
    for count in (70,) if bench.smoke else (64, 4096):
        name = f"{count} rows, {layers} layers, {hidden} to {heads} heads of {dim}"
        if not bench.wants("backfill", name):
            continue
        with bench.trying("backfill", name):
            entries = (2 * count + 63) // 64 * 64
            shape = f.BackfillShape(hidden, 1, f.BF16, f.RMS_NORM, f.ROPE_HALF, dim, EPS, 0)
            kv = f.KvShape(layers, heads, dim, f.BF16, entries)
            w = bench.random(layers, 2, heads * dim, hidden, scale=1 / math.sqrt(hidden), dtype=torch.bfloat16)
            gain = 1 + bench.random(layers, hidden, scale=0.1)
            folded = (w.float() * gain[:, None, None, :]).to(torch.bfloat16).view(-1, hidden)
            packed = library.buffer(library.bytes("fth_backfill_bytes", shape, kv))
            for layer in range(layers):
                library.call("fth_backfill_pack", shape, kv, c.c_int32(0), c.c_int32(layer), c.c_int32(f.BF16),
                             w[layer, 0], w[layer, 1], None, None, gain[layer], None, packed)
            frequency = THETA ** (-torch.arange(dim // 2, device=bench.device) / (dim // 2))
            position = torch.randint(0, 2000, (count,), dtype=torch.int32)
            entry = torch.randperm(entries, dtype=torch.int32)[:count]
            h = bench.random(count, hidden)
            rows, staged = library.rows(count, position=position), library.host(entry)
            pool = library.buffer(library.bytes("fth_kv_bytes", kv))
            there, place = position.to(bench.device).float(), entry.long().to(bench.device)
            exact = [t.float() for t in keys_values(h.double(), folded.double(), there.double(), frequency.double(),
                                                    heads, dim)]
            caches = torch.zeros(2, layers, entries, heads, dim, dtype=torch.bfloat16, device=bench.device)
            back = [torch.empty(count, heads, dim, device=bench.device) for _ in range(2)]
            some = sorted({0, layers - 1})

            def read(layer):
                library.call("fth_kv_read", kv, c.c_int32(layer), count, staged, pool, *back)
                return torch.stack(back)

            def check(result=None):
                found = result[:, some][:, :, place] if result is not None else torch.stack(
                    [read(layer) for layer in some], 1)
                return relative_error(found, torch.stack([torch.stack([t[layer] for layer in some]) for t in exact]))

            def by_torch(cache):
                k, v = keys_values(h, folded, there, frequency, heads, dim)
                cache[0].index_copy_(1, place, k)
                cache[1].index_copy_(1, place, v)
                return cache

            compiled = torch.compile(by_torch, dynamic=False) if bench.cuda else by_torch
            stored = 2 * layers * count * heads * dim * 2
            case = Case("backfill", name, folded.numel() * 2 + h.numel() * 4 + stored, 2 * folded.numel() * count,
                        **({"floor": 0.75, "best": 2.0} if count >= 4096 else {}))
            bench.run(case, lambda i: library.call("fth_backfill", shape, kv, count, rows, h, packed, frequency, staged,
                                                   pool),
                      {"eager": lambda i: by_torch(caches), "compiled": lambda i: compiled(caches)}, check,
                      lambda: pool.fill_(255), warm=True)
