"""Products with weights that stream from memory, at few rows; with many rows; with a LoRA pair for every depth."""
import math

import torch
import torch.nn.functional as F

import fathom as f
from measure import Case, poison, relative_error

TYPES = {"bf16": (f.BF16, 2), "f8": (f.F8_E4M3, 1), "int8": (f.I8, 1), "q8_0": (f.Q8_0, 34 / 32),
         "q4_0": (f.Q4_0, 18 / 32)}
MOST_ERROR = {"f8": 0.1, "int8": 2e-2, "q8_0": 2e-2, "q4_0": 0.2}  # of the weights' own rounding


def weights(bench, out, width):
    """As many equal-sized random matrices as are needed to find each in memory; bf16."""
    return [bench.random(out, width, scale=1 / math.sqrt(width), dtype=torch.bfloat16)
            for _ in range(bench.copies(out * width * 2))]


def product(bench, name, shape, packed, rows, x, bytes, reference, peers, **options):
    y = x.new_empty(x.shape[0], shape.out_features)
    targets = options.pop("targets", {})
    lora = options.pop("lora", None)
    case = Case("linear", name, bytes + x.numel() * 4 + y.numel() * 4, 2 * y.numel() * shape.in_features, **targets)
    bench.run(case, lambda i: bench.library.call("fth_linear", shape, x.shape[0], rows, x, packed[i % len(packed)],
                                                 None, lora, None, None, y),
              peers, lambda result=None: relative_error(y if result is None else result, reference), lambda: poison(y),
              **options)
    return case.line


def few_rows(bench, sizes, counts, types):
    for width, out, judged in sizes:
        w = None
        for type_name in types:
            code, bytes_each = TYPES[type_name]
            shape, packed = f.LinearShape(width, out, code), None
            for count in counts:
                name = f"{width} to {out}, {type_name}, {count} rows"
                if not bench.wants("linear", name) or type_name != "bf16" and count not in (counts[0], counts[-2]):
                    continue
                with bench.trying("linear", name):
                    w = w or weights(bench, out, width)
                    packed = packed or [bench.library.linear(shape, m) for m in w]
                    x = bench.random(count, width)
                    tx = x.to(torch.bfloat16)
                    bar = {"floor": 0.80, "linear": 1.15 if count <= 16 else 1.0} if judged else {}
                    product(bench, name, shape, packed, None, x, int(out * width * bytes_each),
                            (tx.double() @ w[0].double().t()),
                            {"linear": lambda i, tx=tx: F.linear(tx, w[i % len(w)])}, targets=bar,
                            most_error=MOST_ERROR.get(type_name))


def many_rows(bench, sizes):
    for count, width, out, least in sizes:
        name = f"{width} to {out}, bf16, {count} rows"
        if not bench.wants("linear", name):
            continue
        with bench.trying("linear", name):
            w, x = weights(bench, out, width)[:1], bench.random(count, width)
            shape, tx = f.LinearShape(width, out, f.BF16), x.to(torch.bfloat16)
            packed = [bench.library.linear(shape, w[0])]
            reference = tx[:64].double() @ w[0].double().t()
            y = x.new_empty(count, out)
            bench.run(Case("linear", name, w[0].numel() * 2 + x.numel() * 4 + y.numel() * 4, 2 * count * width * out,
                           linear=least),
                      lambda i: bench.library.call("fth_linear", shape, count, None, x, packed[0], None, None, None,
                                                   None, y),
                      {"linear": lambda i: F.linear(tx, w[0])},
                      lambda result=None: relative_error((y if result is None else result)[:64], reference),
                      lambda: poison(y), warm=True)


def lora(bench, width, out, counts, ranks, depths=3):
    """Each row has the pair of its depth; beside the same product without."""
    for count in counts:
        name = f"{width} to {out}, LoRA, {count} rows"
        if not bench.wants("linear", name):
            continue
        with bench.trying("linear", name):
            w, x = weights(bench, out, width), bench.random(count, width)
            base = f.LinearShape(width, out, f.BF16)
            packed = [bench.library.linear(base, m) for m in w]
            tx = x.to(torch.bfloat16)
            depth = torch.arange(count, dtype=torch.int32) * depths // count
            there = depth.long().to(bench.device)
            exact = tx.double() @ w[0].double().t()
            plain = product(bench, f"{width} to {out}, no LoRA, {count} rows", base, packed, None, x, out * width * 2,
                            exact, {})
            for rank, most in ranks:
                shape = f.LinearShape(width, out, f.BF16, f.IDENTITY, 0, f.RESIDUAL_NONE, rank, depths)
                pairs = [(bench.random(rank, width, scale=1 / math.sqrt(width), dtype=torch.bfloat16),
                          bench.random(out, rank, scale=1 / math.sqrt(rank), dtype=torch.bfloat16))
                         for _ in range(depths)]
                both = bench.library.lora(shape, pairs)
                a, b = (torch.stack(t) for t in zip(*pairs))
                u = torch.einsum("nrk,nk->nr", a[there].double(), tx.double())
                reference = exact + torch.einsum("nor,nr->no", b[there].double(), u)

                def gathered(i):
                    y = F.linear(tx, w[i % len(w)])
                    return y + torch.bmm(b[there], torch.bmm(a[there], tx.unsqueeze(2))).squeeze(2)

                def by_depth(i):
                    y = F.linear(tx, w[i % len(w)])
                    for d in range(depths):  # rows are sorted by depth
                        part = slice(-(-count * d // depths), -(-count * (d + 1) // depths))
                        y[part] += F.linear(F.linear(tx[part], a[d]), b[d])
                    return y

                line = product(bench, f"{width} to {out}, LoRA of rank {rank}, {depths} depths, {count} rows", shape,
                               packed, bench.library.rows(count, depth=depth), x,
                               out * width * 2 + depths * rank * (width + out) * 2, reference,
                               {"bmm": gathered, "loop": by_depth}, lora=both, targets={"best": 3.0})
                bench.against(line, plain, "without LoRA", most)


def run(bench):
    if bench.smoke:
        few_rows(bench, [(160, 200, False)], (1, 5, 9), TYPES)
        many_rows(bench, [(70, 96, 136, 0)])
        lora(bench, 128, 192, (7,), ((4, 1), (16, 1)))
        return
    few_rows(bench, [(4096, 14336, True), (4096, 4096, True)], (1, 4, 8, 16, 32, 64), ("bf16",))
    few_rows(bench, [(4096, 14336, False)], (1, 16, 64), ("f8", "int8", "q8_0", "q4_0"))
    many_rows(bench, [(8192, 8192, 8192, 0.93), (2048, 4096, 14336, 0.88), (512, 4096, 4096, 0.88)])
    lora(bench, 4096, 4096, (8, 64), ((16, 1.08), (64, 1.15)))
