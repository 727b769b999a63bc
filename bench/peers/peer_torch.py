"""PyTorch beside Fathom in one process: F.linear and scaled_dot_product_attention, f32 and bf16.

python bench/peers/peer_torch.py [--library build/native/libfathom.so] [--only WORD]... [--workers N]... [--seconds S]
"""
import argparse
import ctypes as c
import json
import math
import os
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("PyTorch is left out: this Python has no torch.")

MODELS = {  # hidden, heads, kv_heads, head_dim, inner
    "SmolLM-135M": (576, 9, 3, 64, 1536), "SmolLM-360M": (960, 15, 5, 64, 2560),
    "SmolLM-1.7B": (2048, 32, 32, 64, 8192), "TinyLlama": (2048, 32, 4, 64, 5632),
    "Gemma-2B": (2048, 8, 1, 256, 16384)}
ROWS = (1, 4, 16, 128, 512)
TYPES = {"f32": (0, torch.float32, 1e-5), "bf16": (1, torch.bfloat16, 5e-3)}  # FTH_ code, torch's, most difference
STREAM = 300 << 20
ROW = [("list", c.c_int64), ("tree", c.c_uint64)] + [
    (name, c.c_int32) for name in ("visible", "start", "position", "depth", "entry", "sequence")]


class Row(c.Structure):
    _fields_ = ROW


class KvShape(c.Structure):
    _fields_ = [(name, c.c_int32) for name in ("layers", "kv_heads", "head_dim", "type")] + [("entries", c.c_int64)]


class AttentionShape(c.Structure):
    _fields_ = [(name, c.c_int32) for name in ("heads", "bias_kind", "bias_width", "bias_center")] + [
        ("scale", c.c_float), ("reserved", c.c_int32)]


class Fathom:
    """A context with so many workers."""

    def __init__(self, path, workers):
        self.lib = c.CDLL(path)
        self.lib.fth_context_message.restype = c.c_char_p
        self.context = c.c_void_p()
        if self.lib.fth_context_create(0, workers, -1, None, c.c_int64(0), c.byref(self.context)) != 0:
            sys.exit("Fathom made no context")

    def call(self, name, *arguments):
        status = getattr(self.lib, name)(self.context, *arguments)
        if status != 0:
            sys.exit(f"{name}: {self.lib.fth_context_message(self.context).decode()}")

    def memory(self, size):
        out = c.c_void_p()
        if self.lib.fth_memory_map(c.c_int32(0), c.c_int32(0), c.c_int64(size), c.byref(out)) != 0:
            sys.exit(f"no memory for {size} bytes")
        return out.value


def count(n, thing):
    return f"{n} {thing}{'s' * (n > 1)}"


def pointer(tensor):
    return c.c_void_p(tensor.data_ptr())


def settle():
    """Until no other thread runs; the caller does not sleep, since a core that has slept is slow for a while."""
    others = lambda: time.process_time() - time.thread_time()
    give_up = time.perf_counter() + 0.1
    while time.perf_counter() < give_up:
        cpu, start = others(), time.perf_counter()
        while time.perf_counter() - start < 50e-6:
            pass
        if others() - cpu < 10e-6:
            return


def sample(call, calls, state):
    settle()
    until = time.perf_counter() + 5e-3
    for _ in range(2):
        if time.perf_counter() < until:
            call(next(state))
    start = time.perf_counter()
    for _ in range(calls):
        call(next(state))
    return (time.perf_counter() - start) / calls


def turns(copies):
    i = 0
    while True:
        yield i % copies
        i += 1


def compare(seconds, copies, ours, theirs):
    """Medians of both and of the ratios of neighbouring samples, theirs / ours."""
    sides = [(call, turns(copies)) for call in (ours, theirs)]
    calls = []
    for call, state in sides:
        sample(call, 1, state)
        calls.append(max(1, int(200e-6 / sample(call, 1, state)) + 1))
    pairs, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(pairs) < 5:
        pair = [0, 0]
        for k in (0, 1) if len(pairs) % 2 == 0 else (1, 0):
            pair[k] = sample(sides[k][0], calls[k], sides[k][1])
        pairs.append(pair)
    return (statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs),
            statistics.median(p[1] / p[0] for p in pairs), len(pairs))


class Report:
    def __init__(self):
        self.lines, self.groups = [], {}

    def add(self, operation, case, group, workers, result):
        ours, theirs, ratio, samples = result
        print(f"{case:<70} {ratio:6.2f}", flush=True)
        self.groups.setdefault(group, []).append(ratio)
        self.lines.append({"operation": operation, "case": case, "workers": workers, "median_seconds": ours,
                           "peer_seconds": theirs, "ratio": ratio, "samples": samples})

    def right(self, case, theirs, ours, most):
        difference = float((theirs.float() - ours).norm() / ours.norm())
        if difference <= most:
            return True
        print(f"{case:<70} WRONG: differs from Fathom by {difference:.2g}, at most {most:.2g} expected")
        self.lines.append({"case": case, "wrong": difference})
        return False

    def end(self, path):
        print("\ngeometric means (least)")
        for group, ratios in self.groups.items():
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"{group:<70} {mean:6.2f} ({min(ratios):.2f}) of {len(ratios)}")
        if path:
            with open(path, "w") as out:
                json.dump({"peer": f"PyTorch {torch.__version__}", "lines": self.lines}, out, indent=1)


def linears(options, wants, fathom, report):
    for model, (hidden, heads, kv_heads, head_dim, inner) in MODELS.items():
        products = {"q,k,v": (hidden, (heads + 2 * kv_heads) * head_dim), "o": (heads * head_dim, hidden),
                    "gate,up": (hidden, 2 * inner), "down": (inner, hidden)}
        for name, (width, out) in products.items():
            for type_name, (code, dtype, most) in TYPES.items():
                cases = [(f"{model} {name} {type_name}, {count(n, 'worker')}, {where}, {count(rows, 'row')}", n, where,
                          rows)
                         for n in options.workers for where in ("resident", "streamed") for rows in ROWS]
                cases = [case for case in cases if wants(case[0])]
                if not cases:
                    continue
                w = torch.randn(out, width) / math.sqrt(width)
                all_x = torch.randn(ROWS[-1], width)
                one = fathom[cases[0][1]]
                shape, size = (c.c_int32 * 8)(width, out, code, 0, 0, 0, 0, 0), c.c_int64()
                one.call("fth_linear_bytes", shape, c.byref(size))
                copies = STREAM // size.value + 2
                packed = one.memory(copies * size.value)
                one.call("fth_linear_pack", shape, c.c_int64(0), c.c_int64(out), 0, pointer(w), c.c_void_p(packed))
                for i in range(1, copies):
                    c.memmove(packed + i * size.value, packed, size.value)
                weights = [w.to(dtype).clone() for _ in range(copies)]
                for case, workers, where, rows in cases:
                    torch.set_num_threads(workers)
                    x, y = all_x[:rows].contiguous(), torch.empty(rows, out)
                    cast = x.to(dtype)
                    ours = lambda i: fathom[workers].call(
                        "fth_linear", shape, c.c_int64(rows), None, pointer(x), c.c_void_p(packed + i * size.value),
                        None, None, None, None, pointer(y))
                    theirs = lambda i: F.linear(cast, weights[i])
                    ours(0)
                    if report.right(case, theirs(0), y, most):
                        group = f"linear {type_name}, {count(workers, 'worker')}, {where}, {count(rows, 'row')}"
                        report.add("linear", case, group, workers,
                                   compare(options.seconds, copies if where == "streamed" else 1, ours, theirs))
                one.lib.fth_memory_unmap(c.c_int32(0), c.c_int32(0), c.c_void_p(packed), c.c_int64(copies * size.value))


def attentions(options, wants, fathom, report):
    for model, (_, heads, kv_heads, width, _) in MODELS.items():
        for type_name, (code, dtype, most) in TYPES.items():
            for workers in options.workers:
                for rows, context in ((1, 512), (1, 4096), (512, 512), (512, 2048)):
                    case = f"{model} attention {type_name}, {count(workers, 'worker')}, {rows} of {context}"
                    if not wants(case):
                        continue
                    torch.set_num_threads(workers)
                    one = fathom[workers]
                    q, k, v = torch.randn(rows, heads, width), *torch.randn(2, context, kv_heads, width)
                    layers = STREAM // (2 * k.numel() * 4) + 2 if rows == 1 else 2
                    kv, size = KvShape(layers, kv_heads, width, code, context), c.c_int64()
                    one.call("fth_kv_bytes", c.byref(kv), c.byref(size))
                    pool = one.memory(size.value)
                    entries = torch.arange(context, dtype=torch.int32)
                    writers = (Row * context)(*[Row(entry=i) for i in range(context)])
                    for layer in range(layers):
                        one.call("fth_kv_write", c.byref(kv), layer, c.c_int64(context), writers, pointer(k),
                                 pointer(v), c.c_void_p(pool))
                    readers = (Row * rows)(*[Row(tree=2**64 - 1, visible=context - rows + i + 1,
                                                 position=context - rows + i, entry=-1) for i in range(rows)])
                    shape = AttentionShape(heads, 0, 0, 0, 1 / math.sqrt(width), 0)
                    out = torch.empty(rows, heads, width)
                    ours = lambda i: one.call(
                        "fth_attention", c.byref(shape), c.byref(kv), i, c.c_int64(rows), readers, pointer(q),
                        pointer(entries), c.c_int64(context), c.c_void_p(pool), None, None, pointer(out))
                    # Its own layout: [1, heads, tokens, width]; a mask only where is_causal cannot say it.
                    as_heads = lambda t: t.to(dtype).transpose(0, 1).unsqueeze(0).contiguous()
                    tq = as_heads(q)
                    kvs = [(as_heads(k), as_heads(v)) for _ in range(layers)]
                    whole = torch.ones(rows, context, dtype=torch.bool)
                    mask = None if rows in (1, context) else whole.tril(context - rows)
                    theirs = lambda i: F.scaled_dot_product_attention(
                        tq, *kvs[i], attn_mask=mask, is_causal=rows == context and rows > 1, enable_gqa=True)
                    ours(0)
                    if report.right(case, theirs(0)[0].transpose(0, 1), out, max(most, 1e-3) * 4):
                        group = f"attention {type_name}, {count(workers, 'worker')}, {rows} of {context}"
                        report.add("attention", case, group, workers,
                                   compare(options.seconds, layers, ours, theirs))
                    one.lib.fth_memory_unmap(c.c_int32(0), c.c_int32(0), c.c_void_p(pool), size)


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default=os.path.join(root, "build", "native", "libfathom.so"))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--workers", action="append", type=int)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--json")
    options = parser.parse_args()
    options.workers = options.workers or sorted({1, os.cpu_count()})
    torch.manual_seed(1)
    fathom = {workers: Fathom(options.library, workers) for workers in options.workers}
    report = Report()
    print(f"PyTorch {torch.__version__}: its time over Fathom's")
    wants = lambda case: all(word in case for word in options.only)
    with torch.inference_mode():
        linears(options, wants, fathom, report)
        attentions(options, wants, fathom, report)
    report.end(options.json)


if __name__ == "__main__":
    main()
