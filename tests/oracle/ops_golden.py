# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/ops/<operation>.{safetensors,json}: inputs and expected outputs of every kernel.

Each expectation is the formula in the C header, in float64, on inputs that are exact in their stored type. Numbers in
the json have the names and values of the C header's structs and enums. python ops_golden.py. Deterministic.
"""
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from relative import relative_shape, relative_table

OUT = Path(__file__).resolve().parent.parent / "golden" / "ops"
F32, BF16, F16 = 0, 1, 2
TYPES = {F32: torch.float32, BF16: torch.bfloat16, F16: torch.float16}
IDENTITY, RELU, GELU, GELU_TANH, SILU = range(5)
ACTIVATIONS = (lambda x: x, F.relu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu)
RMS, LAYER = 0, 1
ROPE_NONE, ROPE_HALF, ROPE_INTERLEAVED = range(3)
BIAS_NONE, BIAS_RELATIVE, BIAS_DENSE = range(3)
PRE, BRANCH, POST = 1, 2, 4
ALL_SEEN = -1  # `tree` with all 64 bits set, as a signed integer


class Book:
    """Collects the cases of one operation. Random inputs come from the case's own name, so cases are independent."""

    def __init__(self, operation):
        self.operation, self.cases, self.tensors = operation, [], {}

    def case(self, name, **numbers):
        self.name, self.g = name, torch.Generator().manual_seed(zlib.crc32(f"{self.operation}/{name}".encode()))
        self.cases.append(dict(name=name, **numbers))

    def note(self, **numbers):
        self.cases[-1].update(numbers)

    def put(self, argument, values, dtype=torch.float32):
        stored = torch.as_tensor(values).to(dtype).contiguous()
        self.tensors[f"{self.name}.{argument}"] = stored
        return stored.double() if stored.is_floating_point() else stored.long()

    def random(self, argument, *shape, scale=1.0, shift=0.0, dtype=torch.float32):
        return self.put(argument, torch.randn(*shape, generator=self.g) * scale + shift, dtype)

    def integers(self, argument, low, high, *shape):
        return self.put(argument, torch.randint(low, high, shape, generator=self.g), torch.int32)

    def int32(self, argument, values):
        return self.put(argument, torch.as_tensor(values, dtype=torch.int64), torch.int32)

    def int64(self, argument, values):
        return self.put(argument, torch.tensor(values, dtype=torch.int64), torch.int64)

    def save(self):
        OUT.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, OUT / f"{self.operation}.safetensors")
        lines = ",\n".join(json.dumps(c) for c in self.cases)
        (OUT / f"{self.operation}.json").write_text(f'{{"cases":[\n{lines}\n]}}\n')
        print(f"{self.operation:18s} {len(self.cases):3d} cases {(OUT / f'{self.operation}.safetensors').stat().st_size // 1024:5d} KiB")


def seen_by(weight_type):
    """What the product sees of its input: bf16 weights round x to bf16 first."""
    return (lambda x: x.bfloat16().double()) if weight_type == BF16 else (lambda x: x)


def norm(x, kind, eps, gain=None, bias=None):
    if kind == LAYER:
        x = x - x.mean(-1, keepdim=True)
    y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    y = y if gain is None else y * gain
    return y if bias is None else y + bias


def rope(x, position, frequency, style):
    """x [count, heads, head_dim]; position [count]."""
    if style == ROPE_NONE:
        return x
    n = len(frequency)
    angle = (position.double()[:, None] * frequency)[:, None]  # [count, 1, n]
    half = style == ROPE_HALF
    first, second = (slice(0, n), slice(n, 2 * n)) if half else (slice(0, 2 * n, 2), slice(1, 2 * n, 2))
    y = x.clone()
    y[..., first] = x[..., first] * angle.cos() - x[..., second] * angle.sin()
    y[..., second] = x[..., second] * angle.cos() + x[..., first] * angle.sin()
    return y


def frequencies(rotary_dim):
    return 10000.0 ** (-torch.arange(0, rotary_dim, 2).double() / max(rotary_dim, 1))


def linear():
    book, number = Book("linear"), 0
    sizes = ((1, 1, 1), (7, 5, 3), (64, 48, 1), (24, 66, 17), (33, 31, 5), (16, 130, 2), (100, 16, 4), (24, 40, 8))
    for weight_type in (F32, BF16):
        for activation in range(5):
            for glu in (0, 1):
                for residual in range(3):
                    i, o, count = sizes[number % len(sizes)]
                    rank = (0, 4, 0, 1, 19)[(number + number // 30) % 5]  # 30: not the same for both weight types
                    # f16 is a source type only: it is packed as f32
                    source = F16 if weight_type == F32 and number % 7 == 3 else weight_type
                    linear_case(book, f"c{number:03d}", i, o, count, weight_type, source, activation, glu, residual, rank, number // 2 % 2)
                    number += 1
    for weight_type in (F32, BF16):  # long reductions, many rows, several panels
        linear_case(book, f"c{number:03d}", 387, 67, 17, weight_type, weight_type, IDENTITY, 0, 2, 8, 1)
        linear_case(book, f"c{number + 1:03d}", 32, 36, 70, weight_type, weight_type, SILU, 1, 0, 0, 0)
        number += 2
        # a rank of more than one panel; six depths of which one has no row
        linear_case(book, f"wide_rank_{weight_type}", 24, 34, 29, weight_type, weight_type, SILU, 1, 2, 70, 1, depths=6, absent=3)
    book.save()


def linear_case(book, name, i, o, count, weight_type, source, activation, glu, residual, rank, with_bias, depths=3, absent=None):
    depths, rows_of_w = (depths if rank else 0), o * (1 + glu)
    book.case(name, in_features=i, out_features=o, weight_type=weight_type, source_type=source, activation=activation, glu=glu,
              residual=residual, lora_rank=rank, lora_depths=depths, count=count, lora_scale=2.0 if rank else 0.0)
    dtype, see = TYPES[source], seen_by(weight_type)
    x = see(book.random("x", count, i))
    z = x @ book.random("weight", rows_of_w, i, scale=i ** -0.5, dtype=dtype).T
    if with_bias:
        z = z + book.random("bias", rows_of_w)
    if rank:
        depth = book.integers("depth", 0, depths, count)
        if absent is not None:
            depth = book.int32("depth", torch.where(depth == absent, 0, depth))
        a = book.random("lora_a", depths, rank, i, scale=i ** -0.5, dtype=dtype)
        b = book.random("lora_b", depths, rows_of_w, rank, scale=rank ** -0.5, dtype=dtype)
        z = z + 2.0 * torch.einsum("nor,nri,ni->no", b[depth], a[depth], x)
    act = ACTIVATIONS[activation]
    y = act(z[:, :o]) * z[:, o:] if glu else act(z)
    if residual == 2:
        y = y * book.random("gate", count)[:, None]
    if residual:
        y = y + book.random("residual", count, o)
    book.put("y", y)


def norms():
    book, number = Book("norm"), 0
    for kind in (RMS, LAYER):
        for width, count, depths in ((1, 1, 1), (7, 3, 1), (64, 1, 2), (100, 17, 3), (257, 5, 1), (16, 40, 2)):
            for gain in (True, False):
                bias = kind == LAYER and number % 3 != 0
                book.case(f"c{number:03d}", kind=kind, width=width, depths=depths, eps=(1e-5, 1e-6, 0.1)[number % 3], count=count)
                number += 1
                x = book.random("x", count, width, scale=3.0, shift=1.0)
                depth = book.integers("depth", 0, depths, count)
                per_row = lambda name, shift: book.random(name, depths, width, shift=shift)[depth]
                y = norm(x, kind, book.cases[-1]["eps"], per_row("gain", 1.0) if gain else None, per_row("bias", 0.0) if bias else None)
                book.put("y", y)
    book.case("tiny", kind=RMS, width=24, depths=1, eps=1e-5, count=2)  # mean square far below eps, and a zero row
    x = torch.randn(2, 24, generator=book.g) * 1e-6
    x[1] = 0
    book.put("y", norm(book.put("x", x), RMS, 1e-5, book.random("gain", 1, 24)))
    book.save()


def ropes():
    book, number = Book("rope"), 0
    for style in (ROPE_HALF, ROPE_INTERLEAVED):
        for heads, head_dim, rotary, count, far in ((1, 16, 16, 1, 1), (3, 64, 64, 5, 512), (2, 24, 24, 7, 2048), (4, 16, 6, 3, 100),
                                                   (2, 128, 128, 2, 2048), (1, 40, 2, 9, 50), (2, 80, 32, 3, 300), (5, 8, 0, 2, 9)):
            book.case(f"c{number:03d}", style=style, heads=heads, head_dim=head_dim, rotary_dim=rotary, count=count)
            number += 1
            position = torch.randint(0, far, (count,), generator=book.g)
            position[-1] = far - 1
            f = book.put("frequency", frequencies(rotary))
            x = book.random("x", count, heads, head_dim)
            book.put("y", rope(x, book.int32("position", position), f, style))
    book.save()


def kv():
    book, number = Book("kv"), 0
    for type_ in (F32, BF16):
        for layers, heads, d, entries, count in ((1, 1, 16, 64, 1), (2, 3, 24, 128, 11), (3, 2, 64, 64, 9), (1, 1, 256, 64, 2)):
            book.case(f"c{number:03d}", layers=layers, kv_heads=heads, head_dim=d, type=type_, entries=entries, writes=3)
            number += 1
            held = torch.zeros(layers, entries, 2, heads, d, dtype=torch.float64)  # a fresh pool is zeroed
            for w in range(3):
                layer = (0, layers - 1, 0)[w]
                book.note(**{f"write{w}.layer": layer, f"write{w}.count": count})
                entry = torch.randperm(entries, generator=book.g)[:count]
                entry[torch.rand(count, generator=book.g) < 0.2] = -1
                entry = book.int32(f"write{w}.entry", entry)
                k, v = (book.random(f"write{w}.{n}", count, heads, d) for n in "kv")
                on = entry >= 0
                held[layer, entry[on]] = torch.stack([k, v], 1)[on].to(TYPES[type_]).double()
            touched = sorted({int(e) for w in range(3) for e in book.tensors[f"{book.name}.write{w}.entry"] if e >= 0})
            touched = touched[::-1][:12] + [t for t in range(entries) if t not in touched][:1]  # and one never written
            book.int32("read.entry", touched)
            book.put("read.k", held[:, touched, 0])  # [layers, n, heads, d]
            book.put("read.v", held[:, touched, 1])
    book.save()


def visible_items(row_visible, row_start, row_tree):
    """The list items a row sees: start <= item < visible; of the last 64 only those whose tree bit is set."""
    return [i for i in range(max(row_start, 0), row_visible)
            if row_visible - 1 - i >= 64 or (row_tree >> (row_visible - 1 - i)) & 1]


def attend(q, k, v, scale, bias=None):
    """q [heads, d]; k, v [n, kv_heads, d]; bias [heads, n] or None -> [heads, d]; zeros for n = 0."""
    if k.shape[0] == 0:
        return torch.zeros_like(q)
    group = q.shape[0] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = scale * torch.einsum("hd,nhd->hn", q, k)
    return torch.einsum("hn,nhd->hd", (s if bias is None else s + bias).softmax(-1), v)


def tree_bits(book, probability=0.5):
    bits = (torch.rand(64, generator=book.g) < probability).tolist()
    value = sum(1 << b for b, on in enumerate(bits) if on)
    return value - (1 << 64) if value >> 63 else value


def speculation_tree(book, nodes):
    """Parents of a draft's tokens, level by level: -1 is the context, every token has one to four alternatives after it."""
    parents, level = [-1, -1], [0, 1]
    while len(parents) < nodes:
        following = []
        for node in level:
            for _ in range(int(torch.randint(1, 5, (), generator=book.g))):
                if len(parents) < nodes:
                    following.append(len(parents))
                    parents.append(node)
        level = following
    return parents


def depth_in(parents, node):
    return 0 if parents[node] < 0 else 1 + depth_in(parents, parents[node])


def ancestor_bits(parents, node):
    """`tree` of a row whose own item is the list's item of `node`: itself, its ancestors and the whole context."""
    line, at = set(), node
    while at >= 0:
        line.add(at)
        at = parents[at]
    value = sum(1 << b for b in range(64) if b > node or node - b in line)
    return value - (1 << 64) if value >> 63 else value


def scale_of(d):
    return d ** -0.5


def attention():
    """List form. Every case: several lists (shuffled entries, or whole pages in order) and rows that read them."""
    book, number = Book("attention"), 0
    #         heads kv  d   type  bias         list lengths     what
    table = ((1, 1, 16, F32, BIAS_NONE, (1,), "plain"), (2, 1, 16, F32, BIAS_NONE, (15, 0, 17), "plain"),
             (4, 2, 24, F32, BIAS_NONE, (64, 65, 63), "plain"), (3, 1, 16, F32, BIAS_NONE, (128, 70), "pages"),
             (8, 1, 48, F32, BIAS_NONE, (40,), "prefill"), (4, 2, 16, F32, BIAS_NONE, (150,), "window"),
             (2, 1, 32, F32, BIAS_NONE, (100, 20, 64), "tree"), (6, 3, 16, F32, BIAS_RELATIVE, (33, 90), "plain"),
             (2, 1, 16, F32, BIAS_RELATIVE, (20, 7), "positions"), (2, 2, 40, F32, BIAS_DENSE, (21, 66), "plain"),
             (4, 1, 128, BF16, BIAS_NONE, (18,), "plain"), (1, 1, 256, BF16, BIAS_NONE, (5,), "plain"),
             (4, 2, 32, BF16, BIAS_NONE, (65, 16), "plain"), (2, 2, 16, BF16, BIAS_NONE, (128, 31), "pages"),
             (3, 1, 24, BF16, BIAS_RELATIVE, (50, 3), "positions"), (16, 2, 16, BF16, BIAS_NONE, (30,), "prefill"),
             (2, 1, 16, BF16, BIAS_DENSE, (90,), "tree"), (5, 1, 16, F32, BIAS_NONE, (260,), "prefill"),
             (2, 1, 16, F32, BIAS_NONE, (40, 40), "shared"), (4, 4, 16, F32, BIAS_NONE, (30, 9), "large"),
             # an encoder, cross-attention, LongT5's window, with T5's bias or none; speculation trees after a context
             (3, 3, 24, F32, BIAS_RELATIVE, (37, 70), "encoder"), (4, 2, 32, BF16, BIAS_RELATIVE, (130,), "encoder"),
             (6, 2, 40, F32, BIAS_NONE, (45,), "encoder"), (4, 4, 32, F32, BIAS_NONE, (90, 1, 17), "cross"),
             (8, 2, 64, BF16, BIAS_NONE, (140, 9), "cross"), (2, 2, 16, F32, BIAS_RELATIVE, (150,), "both_sides"),
             (5, 1, 72, BF16, BIAS_RELATIVE, (40,), "both_sides"), (3, 1, 16, F32, BIAS_DENSE, (150,), "window"),
             (2, 1, 48, F32, BIAS_NONE, (160, 29), "speculation"), (4, 2, 16, BF16, BIAS_NONE, (100, 64), "speculation"),
             (3, 3, 16, F32, BIAS_RELATIVE, (120, 33), "speculation"), (2, 2, 24, F32, BIAS_DENSE, (75,), "speculation"))
    for heads, kv_heads, d, type_, bias_kind, lengths, what in table:
        entries = -(-max(64, sum(lengths)) // 64) * 64
        book.case(f"c{number:03d}_{what}", heads=heads, bias_kind=bias_kind, bias_width=0, bias_center=0, scale=scale_of(d), layers=1,
                  layer=0, kv_heads=kv_heads, head_dim=d, type=type_, entries=entries)
        number += 1
        dtype = TYPES[type_]
        k, v = book.random("k", entries, kv_heads, d, dtype=dtype), book.random("v", entries, kv_heads, d, dtype=dtype)
        order = torch.arange(entries) if what == "pages" else torch.randperm(entries, generator=book.g)
        lists, begin = [], []
        for n in lengths:  # "pages" lists begin on page boundaries of the pool, which `entries` was sized for
            at = -(-sum(map(len, lists)) // 64) * 64 if what == "pages" else sum(map(len, lists))
            begin.append(sum(map(len, lists)))
            lists.append(order[at:at + n].tolist())
        if what == "shared":  # aliasing: the second list repeats entries of the first
            lists[1] = lists[0][:20] + lists[1][20:]
        rows, trees = [], {}  # (which list, visible, start, tree, position)
        for l, items in enumerate(lists):
            n = len(items)
            if what == "prefill":
                some = [(j, 0, ALL_SEEN) for j in range(max(1, n - 24), n + 1)]
            elif what == "window":
                some = [(n, n - 17, ALL_SEEN), (n - 3, 64, ALL_SEEN), (5, 5, ALL_SEEN), (80, 79, ALL_SEEN)]
            elif what == "tree":
                some = [(n, 0, tree_bits(book)), (n, 0, tree_bits(book, 0.1) | 1), (n, 0, 0), (n, n // 2, tree_bits(book))]
            elif what == "encoder":
                some = [(n, 0, ALL_SEEN, j) for j in range(n)]
            elif what == "cross":
                some = [(n, 0, ALL_SEEN)] * 4 + [(n // 2, 0, ALL_SEEN), (n, n // 3, ALL_SEEN)]
            elif what == "both_sides":
                some = [(min(n, j + 12), max(0, j - 11), ALL_SEEN, j) for j in range(0, n, 3)]
            elif what == "speculation":
                tree = trees[l] = speculation_tree(book, min(n - 4, 61))
                context = n - len(tree)  # a token's position is its depth in the tree, after the context
                some = [(context + j + 1, 0, ancestor_bits(tree, j), context + depth_in(tree, j)) for j in range(len(tree))]
            else:
                some = [(j, 0, ALL_SEEN) for j in sorted({0, n // 2, n})]
            rows += [(l, *r, *(() if len(r) == 4 else (max(0, r[0] - 1) + (3 if what == "positions" else 0),))) for r in some]
        count = len(rows)
        book.note(count=count)
        book.int64("list", [begin[r[0]] for r in rows])
        book.int32("visible", [r[1] for r in rows])
        book.int32("start", [r[2] for r in rows])
        book.int64("tree", [r[3] for r in rows])
        position = book.int32("position", [r[4] for r in rows])
        book.int32("entries", [e for items in lists for e in items] or [0])
        # bf16 K,V: q is exact in bf16 as well, so a kernel may round it
        q = book.random("q", count, heads, d, scale=30.0 if what == "large" else 1.0, dtype=dtype)
        book.put("q", q)
        entry_position = None
        if what == "positions":  # gaps in the positions of a list: tokens that never came this deep
            entry_position = torch.zeros(entries, dtype=torch.long)
            for items in lists:
                at = 0
                for e in items:
                    at += int(torch.randint(1, 3, (), generator=book.g))
                    entry_position[e] = at
            book.int32("entry_position", entry_position)
        if what == "speculation":
            entry_position = torch.zeros(entries, dtype=torch.long)
            for l, tree in trees.items():
                context = lengths[l] - len(tree)
                entry_position[lists[l][:context]] = torch.arange(context)
            for l, visible, _, _, p in rows:
                entry_position[lists[l][visible - 1]] = p
            book.int32("entry_position", entry_position)
        bias, width, center = None, 21, 15
        if bias_kind == BIAS_RELATIVE:
            t5 = what in ("encoder", "both_sides", "speculation")
            if t5:
                width, center = relative_shape(what != "speculation").values()
            book.note(bias_width=width, bias_center=center)
            bias = book.put("bias", relative_table(torch.randn(32, heads, generator=book.g), what != "speculation")) if t5 else (
                book.random("bias", heads, width))
        elif bias_kind == BIAS_DENSE:
            book.note(bias_width=max(lengths))
            bias = book.random("bias", count, heads, max(lengths))
        out = torch.zeros(count, heads, d, dtype=torch.float64)
        for i, (l, visible, start, tree, _) in enumerate(rows):
            items = visible_items(visible, start, tree)
            at = [lists[l][j] for j in items]
            added = None
            if bias_kind == BIAS_RELATIVE:
                key = torch.tensor(items, dtype=torch.long) if entry_position is None else entry_position[at]
                added = bias[:, (key - position[i] + center).clamp(0, width - 1)]
            elif bias_kind == BIAS_DENSE:
                added = bias[i][:, items]
            out[i] = attend(q[i], k[at], v[at], scale_of(d), added)
        book.put("out", out)
    book.save()


def attention_masked():
    """Mask form: dense K,V; a key counts iff reach >= the row's depth, besides visible, start and tree."""
    book, number = Book("attention_masked"), 0
    table = ((1, 1, 16, F32, BIAS_NONE, 1, 1, "plain"), (4, 2, 24, F32, BIAS_NONE, 2, 65, "plain"), (3, 3, 16, F32, BIAS_RELATIVE, 3, 33, "plain"),
             (2, 1, 64, F32, BIAS_DENSE, 1, 40, "plain"), (4, 2, 32, BF16, BIAS_NONE, 2, 70, "plain"), (2, 2, 16, F32, BIAS_NONE, 2, 90, "tree"),
             (8, 2, 16, F32, BIAS_NONE, 1, 140, "window"), (2, 1, 16, BF16, BIAS_RELATIVE, 2, 20, "tree"))
    for heads, kv_heads, d, type_, bias_kind, sequences, tokens, what in table:
        width, center = {BIAS_NONE: (0, 0), BIAS_RELATIVE: (21, 15), BIAS_DENSE: (tokens, 0)}[bias_kind]
        book.case(f"c{number:03d}_{what}", heads=heads, bias_kind=bias_kind, bias_width=width, bias_center=center, scale=scale_of(d),
                  sequences=sequences, tokens=tokens, kv_heads=kv_heads, head_dim=d, type=type_)
        number += 1
        dtype = TYPES[type_]
        k, v = (book.random(n, sequences, tokens, kv_heads, d, dtype=dtype) for n in "kv")
        reach = book.integers("reach", -1, 3, sequences, tokens)
        rows = []  # (sequence, depth, visible, start, tree)
        for s in range(sequences):
            for depth in range(4):  # depth 3: nobody has reached it, zeros
                n = int(torch.randint(0, tokens + 1, (), generator=book.g)) if depth else tokens
                start = max(0, n - 70) if what == "window" else 0
                rows.append((s, depth, n, start, tree_bits(book) if what == "tree" else ALL_SEEN))
        count = len(rows)
        book.note(count=count)
        for i, name in enumerate(("sequence", "depth", "visible", "start")):
            book.int32(name, [r[i] for r in rows])
        book.int64("tree", [r[4] for r in rows])
        position = book.int32("position", [max(0, r[2] - 1) for r in rows])
        q = book.put("q", book.random("q", count, heads, d, dtype=dtype))
        bias = {BIAS_NONE: (), BIAS_RELATIVE: (heads, width), BIAS_DENSE: (count, heads, width)}[bias_kind]
        bias = book.random("bias", *bias) if bias else None
        out = torch.zeros(count, heads, d, dtype=torch.float64)
        for i, (s, depth, visible, start, tree) in enumerate(rows):
            at = [t for t in visible_items(visible, start, tree) if reach[s, t] >= depth]
            added = None
            if bias_kind == BIAS_RELATIVE:
                added = bias[:, (torch.tensor(at, dtype=torch.long) - position[i] + center).clamp(0, width - 1)]
            elif bias_kind == BIAS_DENSE:
                added = bias[i][:, at]
            out[i] = attend(q[i], k[s, at], v[s, at], scale_of(d), added)
        book.put("out", out)
    book.save()


def backfill():
    """K,V of skipped layers from the exit state. bf16: the gain is folded into the weight before it is rounded."""
    book, number = Book("backfill"), 0
    for hidden, layers, depths, heads, d, count, weight_type, kind, style, kv_type, *biased in (
            (48, 1, 1, 1, 16, 1, F32, RMS, ROPE_HALF, F32), (33, 2, 3, 2, 24, 5, F32, RMS, ROPE_HALF, F32),
            (40, 3, 2, 1, 64, 6, F32, LAYER, ROPE_INTERLEAVED, F32), (40, 2, 1, 3, 16, 17, F32, LAYER, ROPE_NONE, F32),
            (64, 2, 2, 2, 16, 4, BF16, RMS, ROPE_HALF, F32), (48, 1, 2, 1, 32, 3, BF16, LAYER, ROPE_HALF, BF16),
            # cross-attention of a decoder's layers from the encoder's output, without norm; biases, also beside a norm's
            (32, 4, 1, 2, 16, 19, F32, -1, ROPE_NONE, F32), (40, 3, 1, 2, 24, 5, BF16, -1, ROPE_NONE, BF16, True),
            (33, 2, 1, 2, 16, 4, F32, RMS, ROPE_HALF, F32, True), (24, 1, 2, 1, 32, 6, F32, LAYER, ROPE_INTERLEAVED, F32, True)):
        rotary, eps, width = (0 if style == ROPE_NONE else d - d % 16), 1e-5, heads * d
        book.case(f"c{number:03d}", hidden_size=hidden, depths=depths, weight_type=weight_type, norm=kind, rope_style=style, rotary_dim=rotary,
                  norm_eps=eps, layers=layers, kv_heads=heads, head_dim=d, type=kv_type, entries=64, count=count)
        number += 1
        see = seen_by(weight_type)
        h = book.random("h", count, hidden, scale=2.0)
        position = book.integers("position", 0, 500, count)
        f = book.put("frequency", frequencies(rotary)) if rotary else torch.zeros(0)
        entry = torch.randperm(64, generator=book.g)[:count * depths].view(count, depths)
        entry[(torch.rand(count, depths, generator=book.g) < 0.2) & (torch.arange(count) > 0)[:, None]] = -1
        entry = book.int32("entry", entry)
        wk, wv = (book.random(n, depths, layers, width, hidden, scale=hidden ** -0.5, dtype=TYPES[weight_type]) for n in ("wk", "wv"))
        gain = book.random("gain", depths, layers, hidden, scale=0.2, shift=1.0) if kind >= 0 else torch.ones(depths, layers, hidden).double()
        shift = book.random("norm_bias", depths, layers, hidden) if kind == LAYER else torch.zeros_like(gain)
        x = see(norm(h, kind, eps) if kind >= 0 else h)
        expected = {}
        for name, w in (("k", wk), ("v", wv)):
            y = torch.einsum("ni,dloi->ndlo", x, see(w * gain[:, :, None])) + torch.einsum("dli,dloi->dlo", shift, w)
            if biased:
                y = y + book.random(f"b{name}", depths, layers, width, dtype=TYPES[weight_type])
            y = y.reshape(count, depths * layers * heads, d)
            y = rope(y, position, f, style) if name == "k" else y
            y = y.reshape(count, depths, layers, heads, d) * (entry >= 0)[:, :, None, None, None]
            expected[name] = y.to(TYPES[kv_type]).double()
        book.put("k", expected["k"])  # [count, depths, layers, kv_heads, head_dim]; zeros where entry is -1
        book.put("v", expected["v"])
    book.save()


LINEARS = ("q", "k", "v", "o", "cross_q", "cross_o", "gate", "up", "down")


def block():
    """A whole block over rows of mixed depths and sequences: writes K,V, attends by list, MLP, any norm placement."""
    book = Book("block")
    base = dict(layers=1, depths=1, hidden_size=24, intermediate_size=40, heads=3, kv_heads=1, head_dim=16, weight_type=F32, kv_type=F32,
                norm=RMS, norm_placement=PRE, norm_per_depth=0, activation=SILU, glu=1, bias=0, rope_style=ROPE_HALF, rotary_dim=16,
                relative_width=0, relative_center=0, cross=0, lora_rank=[0] * 9, norm_eps=1e-5, lora_scale=1.0)
    all_ranks = lambda rank, cross=0: [rank] * 4 + [cross] * 2 + [rank] * 3
    # T5's decoder (1.1) and encoder: heads * head_dim is not hidden_size, no rotation, scale 1
    t5 = dict(layers=2, hidden_size=40, intermediate_size=56, kv_heads=3, activation=GELU_TANH, rope_style=ROPE_NONE, rotary_dim=0,
              norm_eps=1e-6, attention_scale=1.0, relative=False)
    decoder, encoder = dict(t5, cross=1, rows="decoder"), dict(t5, relative=True, rows="encoder")
    variants = dict(
        llama={}, one_row=dict(rows="one"), prefill=dict(rows="prefill", layers=2, heads=4, kv_heads=2),
        depths=dict(depths=3, layers=2), gains_per_depth=dict(depths=3, norm_per_depth=1),
        lora=dict(depths=3, lora_rank=all_ranks(4), lora_scale=2.0),
        lora_qv=dict(depths=2, lora_rank=[3, 0, 5, 0, 0, 0, 0, 0, 0], norm_per_depth=1),
        lora_ranks=dict(depths=4, layers=2, lora_rank=[1, 2, 3, 5, 0, 0, 8, 4, 7], lora_scale=0.5),
        lora_gate=dict(depths=2, lora_rank=[0, 0, 0, 0, 0, 0, 6, 0, 0]),
        lora_no_glu=dict(depths=3, glu=0, bias=1, lora_rank=[2, 1, 2, 1, 0, 0, 0, 66, 3]),
        lora_shared_kv=dict(depths=3, rows="shared", lora_rank=[3, 2, 2, 0, 0, 0, 0, 1, 5]),
        bf16_lora_ranks=dict(weight_type=BF16, depths=3, lora_rank=[7, 0, 1, 2, 0, 0, 0, 3, 8], norm_per_depth=1),
        shared_kv=dict(depths=3, layers=2, rows="shared"), rope_interleaved=dict(rope_style=ROPE_INTERLEAVED, rotary_dim=8),
        no_rope_bias_gelu=dict(rope_style=ROPE_NONE, rotary_dim=0, bias=1, activation=GELU, glu=0, norm=LAYER),
        post_norm=dict(norm=LAYER, norm_placement=POST, bias=1, glu=0, activation=RELU),
        sandwich=dict(norm_placement=PRE | BRANCH, activation=GELU_TANH, layers=2),
        all_norms=dict(norm_placement=PRE | BRANCH | POST, depths=2, norm_per_depth=1), branch_only=dict(norm_placement=BRANCH),
        bare=dict(norm_placement=0), odd=dict(hidden_size=33, intermediate_size=45, heads=2, kv_heads=2, head_dim=24, rotary_dim=24),
        bf16=dict(weight_type=BF16, depths=2, layers=2), bf16_kv=dict(kv_type=BF16, depths=2),
        bf16_lora=dict(weight_type=BF16, kv_type=BF16, depths=2, lora_rank=all_ranks(2)),
        t5_decoder=decoder, t5_decoder_holes=dict(decoder, rows="holes"), t5_decoder_relu=dict(decoder, glu=0, activation=RELU),
        t5_decoder_bf16=dict(decoder, weight_type=BF16, kv_type=BF16), t5_encoder=encoder, t5_encoder_bf16=dict(encoder, weight_type=BF16),
        t5_encoder_relu=dict(encoder, glu=0, activation=RELU), longt5_encoder=dict(encoder, rows="window"),
        relative_depths=dict(depths=3, relative=False, rows="gaps"),  # a decoder with depths and both kinds of position
        cross_post_norm=dict(cross=1, rows="decoder", norm=LAYER, norm_placement=POST, bias=1, glu=0, activation=RELU, rope_style=ROPE_NONE,
                             rotary_dim=0),
        cross_all_norms=dict(cross=1, rows="decoder", norm_placement=PRE | BRANCH | POST),
        cross_lora=dict(cross=1, rows="decoder", depths=2, norm_per_depth=1, lora_rank=all_ranks(3, 5), lora_scale=0.5))
    for name, changed in variants.items():
        numbers = {**base, "attention_scale": scale_of(changed.get("head_dim", 16)), **changed}
        rows, relative = numbers.pop("rows", "mixed"), numbers.pop("relative", None)
        if relative is not None:
            numbers.update(relative_shape(relative))
        book.case(name, **numbers, entries=128)
        block_case(book, numbers, rows, relative)
    book.save()


@dataclass
class Row:
    list: int
    visible: int
    position: int
    depth: int
    entry: int
    start: int = 0
    cross: tuple = None  # list, visible, start


def block_rows(book, depths, kind):
    """Lists, the rows of this call, entries that are in the pool already, and each entry's position.

    One list per (sequence, depth); for decoders one more per sequence, of its encoder's tokens."""
    fresh = iter(torch.randperm(128, generator=book.g).tolist())
    lists, rows, old, where = [], [], [], {}
    encoder = kind in ("encoder", "window")
    if kind == "prefill":
        plan = [(0, 0, 19)]  # (depth, older items, new rows)
    elif kind == "one":
        plan = [(0, 0, 1)]
    elif kind == "shared":  # depth 0 writes; deeper rows have no entry and read the first list
        plan = [(0, 5, 4)]
    elif kind in ("decoder", "holes"):  # n + 1 rows of each sequence at once, after a past of its own
        plan = [(0, 7, 3), (depths - 1, 18, 1), (0, 0, 5), (depths - 1, 25, 2)]
    elif encoder:
        plan = [(0, 0, 21), (0, 0, 1), (0, 0, 34)]
    else:
        plan = [(d, (7, 18, 0)[(d + s) % 3], (2, 1, 3)[(d + s) % 3]) for s in range(3) for d in range(depths)]
    gaps = 1 if kind == "decoder" or encoder else 3 if kind != "holes" else 20
    for depth, older, new in plan:
        items = [next(fresh) for _ in range(older + new)]
        old += items[:older]
        position = 0
        for j in range(older + new):
            position += int(torch.randint(1, gaps, (), generator=book.g)) if j and gaps > 1 else int(j > 0)  # deeper lists have gaps
            where[items[j]] = position
            if j >= older:
                row = Row(len(lists), j + 1, position, depth, items[j])
                if encoder:
                    row.visible = older + new
                if kind == "window":
                    row.start, row.visible = max(0, j - 5), min(older + new, j + 6)
                rows.append(row)
        lists.append(items)
    if kind == "shared":
        rows += [Row(0, r.visible, r.position, d, -1) for d in range(1, depths) for r in list(rows) if r.depth == 0]
    if kind in ("decoder", "holes"):
        sequences = len(lists)
        for n in (9, 30, 1, 16):
            items = [next(fresh) for _ in range(n)]
            old += items
            lists.append(items)
        for i, row in enumerate(rows):  # all of its encoder; one row without any, one through a window
            n = len(lists[sequences + row.list])
            row.cross = (sequences + row.list, 0 if i == 1 else n, 3 if i == 2 else 0)
    order = torch.randperm(len(rows), generator=book.g).tolist() if kind in ("mixed", "gaps") else range(len(rows))
    return lists, [rows[i] for i in order], old, where


def block_case(book, c, kind, bidirectional):
    heads, kv_heads, d, hidden, f = c["heads"], c["kv_heads"], c["head_dim"], c["hidden_size"], c["intermediate_size"]
    out_in = dict(q=(heads * d, hidden), k=(kv_heads * d, hidden), v=(kv_heads * d, hidden), o=(hidden, heads * d),
                  cross_q=(heads * d, hidden), cross_o=(hidden, heads * d), gate=(f, hidden), up=(f, hidden), down=(hidden, f))
    used = [n for n in LINEARS if (n != "gate" or c["glu"]) and (n[:5] != "cross" or c["cross"])]
    dtype, see, kv_round = TYPES[c["weight_type"]], seen_by(c["weight_type"]), lambda x: x.to(TYPES[c["kv_type"]]).double()
    lists, rows, old, where = block_rows(book, c["depths"], kind)
    count = len(rows)
    begin = [sum(map(len, lists[:i])) for i in range(len(lists))]
    book.note(count=count)
    book.int64("list", [begin[r.list] for r in rows])
    for name in ("visible", "start", "position", "depth", "entry"):
        book.int32(name, [getattr(r, name) for r in rows])
    if c["cross"]:
        book.int64("cross_list", [begin[r.cross[0]] for r in rows])
        book.int32("cross_visible", [r.cross[1] for r in rows])
        book.int32("cross_start", [r.cross[2] for r in rows])
    position, depth = torch.tensor([r.position for r in rows]), torch.tensor([r.depth for r in rows])
    book.int32("entries", [e for items in lists for e in items])
    freq = book.put("frequency", frequencies(c["rotary_dim"])) if c["rotary_dim"] else torch.zeros(0)
    relative = None
    if bidirectional is not None:
        buckets = book.random("bucket_bias", 32, heads, scale=1.5)
        relative = book.put("relative_bias", relative_table(buckets, bidirectional))
    if kind in ("holes", "gaps"):  # else an item's index in its list is its position
        book.int32("entry_position", [where.get(e, 0) for e in range(128)])
    pool = torch.zeros(c["layers"], 2, 128, kv_heads, d, dtype=torch.float64)
    if old:  # K,V of the older entries, to be written first: [layers, n, kv_heads, head_dim]
        book.int32("pool_entry", old)
        for i, name in enumerate(("pool_k", "pool_v")):
            pool[:, i, old] = book.random(name, c["layers"], len(old), kv_heads, d, dtype=TYPES[c["kv_type"]])
            book.put(name, pool[:, i, old])
    h = book.random("hidden", count, hidden)
    norm_sets = c["depths"] if c["norm_per_depth"] else 1
    written = torch.zeros(c["layers"], 2, count, kv_heads, d, dtype=torch.float64)
    places = [(bit, word) for bit, word in ((PRE, "pre"), (BRANCH, "branch"), (POST, "post")) if c["norm_placement"] & bit]
    # Without a scale in attention the queries are small, as T5's are.
    spread = {n: out_in[n][1] ** -0.5 * (scale_of(d) / c["attention_scale"] if n in ("q", "cross_q") else 1.0) for n in used}
    for l in range(c["layers"]):
        p = f"layer{l}."
        weight = {n: book.random(f"{p}{n}.weight", *out_in[n], scale=spread[n], dtype=dtype) for n in used}
        bias = {n: book.random(f"{p}{n}.bias", out_in[n][0], scale=0.3) for n in used if c["bias"]}
        lora = {n: (book.random(f"{p}{n}.lora_a", c["depths"], r, out_in[n][1], scale=out_in[n][1] ** -0.5, dtype=dtype),
                    book.random(f"{p}{n}.lora_b", c["depths"], out_in[n][0], r, scale=0.3, dtype=dtype))
                for n, r in zip(LINEARS, c["lora_rank"]) if r and n in used}
        gains, shifts = {}, {}
        for part in ("attention", "cross", "mlp") if c["cross"] else ("attention", "mlp"):
            for _, word in places:
                name = f"{part}_{word}"
                gains[name] = book.random(f"{p}{name}_norm.weight", norm_sets, hidden, scale=0.2, shift=1.0)
                if c["norm"] == LAYER:
                    shifts[name] = book.random(f"{p}{name}_norm.bias", norm_sets, hidden, scale=0.2)

        def apply_norm(x, name):
            which = depth if norm_sets > 1 else torch.zeros_like(depth)
            shift = shifts[name][which] if name in shifts else None
            return norm(x, c["norm"], c["norm_eps"], gains[name][which], shift) if name in gains else x

        def project(x, name):
            x = see(x)
            y = x @ weight[name].T + (bias[name] if name in bias else 0)
            if name in lora:
                a, b = lora[name]
                y = y + c["lora_scale"] * torch.einsum("nor,nri,ni->no", b[depth], a[depth], x)
            return y

        def attend_rows(x):
            q = rope(project(x, "q").view(count, heads, d), position, freq, c["rope_style"])
            k = kv_round(rope(project(x, "k").view(count, kv_heads, d), position, freq, c["rope_style"]))
            v = kv_round(project(x, "v").view(count, kv_heads, d))
            for i, row in enumerate(rows):  # all rows store first, then all attend
                if row.entry >= 0:
                    pool[l, 0, row.entry], pool[l, 1, row.entry] = k[i], v[i]
                    written[l, 0, i], written[l, 1, i] = k[i], v[i]
            y = torch.zeros(count, heads, d, dtype=torch.float64)
            for i, row in enumerate(rows):
                items = range(row.start, row.visible)
                at = [lists[row.list][j] for j in items]
                added = None
                if relative is not None:
                    key = torch.tensor([where[e] if kind in ("holes", "gaps") else j for e, j in zip(at, items)])
                    added = relative[:, (key - row.position + c["relative_center"]).clamp(0, c["relative_width"] - 1)]
                y[i] = attend(q[i], pool[l, 0, at], pool[l, 1, at], c["attention_scale"], added)
            return project(y.reshape(count, -1), "o")

        def cross_attend_rows(x):
            q = project(x, "cross_q").view(count, heads, d)
            y = torch.zeros(count, heads, d, dtype=torch.float64)
            for i, row in enumerate(rows):
                at = lists[row.cross[0]][row.cross[2]:row.cross[1]]
                y[i] = attend(q[i], pool[l, 0, at], pool[l, 1, at], c["attention_scale"])
            return project(y.reshape(count, -1), "cross_o")

        def mlp(x):
            act = ACTIVATIONS[c["activation"]]
            return project(act(project(x, "gate")) * project(x, "up") if c["glu"] else act(project(x, "up")), "down")

        sub_layers = (("attention", attend_rows), ("cross", cross_attend_rows), ("mlp", mlp))
        for part, sub_layer in sub_layers if c["cross"] else (sub_layers[0], sub_layers[2]):
            h = h + apply_norm(sub_layer(apply_norm(h, part + "_pre")), part + "_branch")
            h = apply_norm(h, part + "_post")
    book.put("hidden_out", h)
    book.put("written_k", written[:, 0])  # [layers, count, kv_heads, head_dim]; zeros where entry is -1
    book.put("written_v", written[:, 1])


def head():
    book, number = Book("head"), 0
    for hidden, vocab, count, weight_type, kind, scale, cap, chosen, what in (
            (16, 1, 2, F32, RMS, 1.0, 0.0, 1, ""), (7, 2, 3, F32, -1, 1.0, 0.0, 0, ""), (48, 255, 5, F32, RMS, 1.0, 0.0, 2, ""),
            (33, 300, 17, F32, LAYER, 0.25, 0.0, 1, ""), (64, 256, 1, F32, RMS, 1.0, 30.0, 4, ""), (24, 130, 4, F32, RMS, 1.0, 0.0, 1, "ties"),
            (16, 65, 3, F32, -1, 200.0, 0.0, 1, "large"), (64, 256, 9, BF16, RMS, 1.0, 0.0, 1, ""), (40, 515, 2, BF16, LAYER, 1.0, 20.0, 3, ""),
            (48, 64, 33, BF16, -1, 1.0, 0.0, 0, "ties")):
        book.case(f"c{number:03d}", hidden_size=hidden, vocab_size=vocab, weight_type=weight_type, norm=kind, norm_eps=1e-5,
                  logit_scale=scale, softcap=cap, chosen=chosen, count=count)
        number += 1
        w = torch.randn(vocab, hidden, generator=book.g) * 1.5 * hidden ** -0.5
        if what == "ties":  # every row of W twice, so the largest logit occurs twice
            w[vocab // 2:vocab // 2 * 2] = w[:vocab // 2]
        w = book.put("weight", w, TYPES[weight_type])
        h = book.random("h", count, hidden, scale=2.0 if kind >= 0 else 1.0)
        gain = book.random("gain", hidden, shift=1.0, scale=0.2) if kind >= 0 else None
        bias = book.random("norm_bias", hidden, scale=0.2) if kind == LAYER else None
        x = norm(h, kind, 1e-5, gain, bias) if kind >= 0 else h
        z = scale * (seen_by(weight_type)(x) @ w.T)
        z = cap * torch.tanh(z / cap) if cap else z
        book.put("logits", z)
        first = z.argmax(-1)
        rest = z.scatter(1, first[:, None], -math.inf)
        book.int32("argmax", first)
        book.int32("second", rest.argmax(-1) if vocab > 1 else -torch.ones_like(first))
        book.put("top1", z.amax(-1))
        book.put("top2", rest.amax(-1))
        book.put("lse", z.logsumexp(-1))
        p = z.softmax(-1)
        book.put("entropy", -(p * z.log_softmax(-1)).sum(-1))
        if chosen:
            ids = book.integers("chosen_id", 0, vocab, count, chosen)
            book.put("chosen_logit", z.gather(1, ids))
    book.save()


def gate():
    """Routers and exit heads. Decisions are kept away from ties by 1e-3 (except where ties are the point), so they are exact."""
    book, number = Book("gate"), 0
    functions = (lambda z: z, torch.sigmoid, torch.tanh, lambda z: z.softmax(-1))
    for hidden, inner, outputs, depths, count, function, temp, alpha, threshold, source, what, *head in (
            (1, 0, 1, 1, 1, 1, 1.0, 0.1, 0.0, F32, ""), (48, 0, 1, 3, 17, 1, 1.0, 0.1, 0.0, F32, ""), (100, 0, 1, 2, 5, 2, 2.0, 0.5, 0.3, F32, ""),
            (257, 0, 1, 1, 3, 0, 0.5, 1.0, -0.2, BF16, ""), (48, 96, 1, 3, 9, 1, 1.0, 0.1, 0.0, F32, ""), (33, 45, 1, 1, 4, 2, 1.0, 0.1, 0.0, F32, ""),
            (64, 0, 3, 1, 20, 3, 1.0, 1.0, 0.0, F32, ""), (64, 0, 3, 1, 7, 1, 1.0, 0.1, 0.0, F32, "bias"), (40, 80, 4, 1, 6, 3, 1.5, 1.0, 0.0, F32, "bias"),
            (31, 0, 17, 2, 5, 2, 1.0, 1.0, 0.0, F16, ""), (24, 0, 4, 1, 3, 1, 1.0, 0.1, 0.0, F32, "ties"), (24, 0, 2, 1, 8, 0, 1.0, 1.0, 0.0, F32, ""),
            # heads with biases: linear (CALM), halting gate (Ouro), two classes (FREE), 12 features (SpecEE), three classes (Dr.LLM)
            (64, 0, 2, 1, 9, 3, 1.0, 1.0, 0.0, F32, "", IDENTITY, 1), (48, 0, 1, 1, 11, 1, 1.0, 1.0, 0.0, BF16, "", IDENTITY, 1),
            (40, 40, 2, 2, 8, 3, 1.0, 1.0, 0.0, F32, "", RELU, 1), (12, 512, 1, 3, 9, 1, 1.0, 1.0, 0.0, F32, "", RELU, 1),
            (36, 128, 3, 1, 6, 0, 1.0, 1.0, 0.0, F16, "", GELU_TANH, 1), (33, 45, 3, 2, 5, 2, 1.7, 0.5, 0.0, F32, "bias", SILU, 1),
            (8, 16, 1, 1, 4, 1, 1.0, 1.0, 0.4, F32, "", IDENTITY, 0)):
        activation, bias = head or (GELU if inner else IDENTITY, 0)
        for attempt in range(100):
            start = len(book.cases)
            book.case(f"c{number:03d}", hidden_size=hidden, inner_size=inner, outputs=outputs, depths=depths, router=int(inner > 0), function=function,
                      temperature=temp, alpha=alpha, threshold=threshold, activation=activation, bias=bias, source_type=source, count=count)
            book.g.manual_seed(book.g.initial_seed() + attempt)
            x = book.random("x", count, hidden)
            depth = book.integers("depth", 0, depths, count)
            if inner:
                w1 = book.random("w1", depths, inner, hidden, scale=hidden ** -0.5, dtype=TYPES[source])
                w2 = book.random("w2", depths, outputs, inner, scale=2 * inner ** -0.5, dtype=TYPES[source])
                b1 = book.random("b1", depths, inner, dtype=TYPES[source])[depth] if bias else 0
                z = torch.einsum("noi,ni->no", w2[depth], ACTIVATIONS[activation](torch.einsum("nmi,ni->nm", w1[depth], x / temp) + b1))
            else:
                w = torch.randn(depths, outputs, hidden, generator=book.g) * 1.5 * hidden ** -0.5
                if what == "ties":
                    w[:, outputs // 2:] = w[:, :outputs // 2]
                w = book.put("w1", w, TYPES[source])
                z = torch.einsum("noi,ni->no", w[depth], x / temp)
            if bias:
                z = z + book.random("b2" if inner else "b1", depths, outputs, scale=0.5, dtype=TYPES[source])[depth]
            p = alpha * functions[function](z)
            if outputs == 1:
                choice, value, margin = (z[:, 0] >= threshold).long(), p[:, 0], (z - threshold).abs().min()
            else:
                score = p + book.random("choice_bias", outputs, scale=0.1) if what == "bias" else p
                choice = score.argmax(-1)
                value, top = p.gather(1, choice[:, None])[:, 0], score.topk(2, -1).values
                margin = (top[:, 0] - top[:, 1]).min()
            if margin > 1e-3 or what == "ties":
                break
            book.cases = book.cases[:start]
        else:
            raise SystemExit(f"gate {number}: always near a tie")
        number += 1
        book.put("logits", z)
        book.put("p", p)
        book.put("gate", value)
        book.int32("choice", choice)
    book.save()


def state_delta():
    book, number = Book("state_delta"), 0
    for width, count, second in ((1, 1, 1), (7, 5, 1), (16, 3, 0), (64, 17, 1), (100, 4, 1), (257, 2, 0), (768, 3, 1)):
        book.case(f"c{number:03d}", width=width, count=count)
        number += 1
        before = book.random("before", count, width, scale=3.0)
        move = torch.randn(count, width, generator=book.g) * torch.logspace(-3, 1, count)[:, None]  # small and large steps
        now = book.put("now", before + move)
        step = now - before
        for name, a, b in (("dot", now, before), ("now_squared", now, now), ("before_squared", before, before), ("step_squared", step, step)):
            book.put(name, (a * b).sum(-1))
        book.put("cosine", F.cosine_similarity(now, before, dim=-1))
        book.put("relative_step", step.norm(dim=-1) / now.norm(dim=-1))
        if second:
            second_difference = step - (before - book.random("before2", count, width, scale=3.0))
            book.put("acceleration_squared", second_difference.square().sum(-1))
            book.put("relative_acceleration", second_difference.norm(dim=-1) / now.norm(dim=-1))
    book.save()


def top_k():
    """The k[s] largest of each segment by a full sort: lowest position first among equal values, NaN last. Places that the call leaves alone are -1."""
    book, number = Book("top_k"), 0
    mor = lambda length: [(length, max(1, int(capacity * length))) for capacity in (1.0, 2 / 3, 1 / 3)]
    for what, segments in (("", [(1, 1)]), ("", [(17, 5), (0, 0), (64, 32), (3, 3), (40, 0)]), ("", mor(96) + mor(1)), ("ties", [(33, 7), (100, 50)]),
                           ("odd", [(50, k) for k in (1, 20, 30, 45, 50)]), ("", [(2048, 682)])):
        begin = torch.tensor([0] + [size for size, _ in segments]).cumsum(0)
        count = int(begin[-1])
        book.case(f"c{number:03d}", count=count, segments=len(segments))
        number += 1
        values = torch.randn(count, generator=book.g)
        if what == "ties":
            values = (2 * values).round()
        if what == "odd":
            odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 1.0])
            values = odd[torch.randint(0, len(odd), (count,), generator=book.g)]
        stored = book.put("values", values).tolist()
        book.int32("begin", begin)
        book.int32("k", [k for _, k in segments])
        index = torch.full((count,), -1)
        for first, (size, k) in zip(begin.tolist(), segments):
            order = sorted(range(first, first + size), key=lambda i: (math.isnan(stored[i]), -stored[i] if stored[i] == stored[i] else 0))
            index[first:first + k] = torch.tensor(sorted(order[:k]), dtype=torch.long)
        book.int32("index", index)
    book.save()


def compact():
    book, number = Book("compact"), 0
    for width, source_count, count, gated in ((1, 1, 1, 1), (7, 9, 4, 0), (64, 20, 20, 1), (100, 33, 5, 1), (257, 12, 7, 0), (16, 70, 65, 1)):
        book.case(f"c{number:03d}", width=width, source_count=source_count, count=count)
        number += 1
        x = book.random("x", source_count, width)
        repeated = book.integers("gather_index", 0, source_count, count)  # gather may repeat an index
        book.put("gathered", x[repeated])
        index = book.int32("scatter_index", torch.randperm(source_count, generator=book.g)[:count])
        y = book.random("y", count, width)
        g = book.random("gate", count)[:, None] if gated else 1.0
        book.put("scattered", x.index_add(0, index, g * y))
    book.save()


def embed():
    book, number = Book("embed"), 0
    for vocab, hidden, type_, count, scale in ((1, 1, F32, 1, 1.0), (256, 48, F32, 17, 1.0), (65, 33, F32, 5, 5.75), (130, 64, BF16, 9, 1.0), (70, 40, BF16, 3, 8.0)):
        book.case(f"c{number:03d}", vocab_size=vocab, hidden_size=hidden, type=type_, scale=scale, count=count)
        number += 1
        table = book.random("table", vocab, hidden, dtype=TYPES[type_])
        book.put("out", scale * table[book.integers("id", 0, vocab, count)])
    book.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for make in (linear, norms, ropes, kv, attention, attention_masked, backfill, block, head, gate, state_delta, top_k, compact, embed):
        make()
