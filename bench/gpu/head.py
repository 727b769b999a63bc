"""Statistics of an LM head's logits, none of which is stored."""
import math

import torch
import torch.nn.functional as F

import fathom as f
from measure import Case, relative_error

EPS = 1e-5


def statistics(logits):
    """[rows, 4]: largest, second, log sum exp, entropy."""
    top = logits.topk(2, -1).values
    lse = logits.logsumexp(-1)
    p = (logits - lse.unsqueeze(-1)).exp()
    return torch.stack([top[:, 0], top[:, 1], lse, lse - (p * logits).sum(-1)], 1)


def by_torch(h, gain, w):
    x = F.rms_norm(h, (h.shape[-1],), gain, EPS).to(torch.bfloat16)
    logits = F.linear(x, w).float()
    top, lse = logits.topk(2, -1).values, logits.logsumexp(-1)
    p = logits.softmax(-1)
    return torch.stack([top[:, 0], top[:, 1], lse, lse - (p * logits).sum(-1)], 1)


def run(bench):
    sizes = [(64, 300, (1, 5))] if bench.smoke else [(960, 49152, (1, 16, 64)), (2048, 128256, (1, 16, 64, 256))]
    for width, words, counts in sizes:
        name = f"statistics, {width} to {words}"
        if not bench.wants("head", name):
            continue
        with bench.trying("head", name):
            w = [bench.random(words, width, scale=3 / math.sqrt(width), dtype=torch.bfloat16)
                 for _ in range(bench.copies(words * width * 2))]
            gain = 1 + bench.random(width, scale=0.1)
            packed = [bench.library.linear(f.LinearShape(width, words, f.BF16), m) for m in w]
            shape = f.HeadShape(width, words, f.BF16, f.RMS_NORM, EPS, 1, 0, 0)
            compiled = torch.compile(by_torch, dynamic=False) if bench.cuda else by_torch
            for count in counts:
                h = bench.random(count, width)
                stats = torch.empty(count, 6, dtype=torch.int32, device=bench.device)
                x = F.rms_norm(h, (width,), gain, EPS).to(torch.bfloat16)
                logits = x.double() @ w[0].double().t()
                reference, best = statistics(logits), logits.argmax(-1)

                def check(result=None):
                    if result is not None:
                        return relative_error(result, reference)
                    numbers = relative_error(stats.view(torch.float32)[:, 2:], reference)
                    # Another argmax is right only where its logit is as large, but for rounding.
                    chosen = stats[:, 0].long().clamp(0, words - 1)
                    apart = float((logits.gather(1, best[:, None]) - logits.gather(1, chosen[:, None])).max())
                    return max(numbers, apart / 10)

                bench.run(Case("head", f"{name}, {count} rows", words * width * 2,
                               2 * count * words * width, **({"floor": 0.85, "best": 1.3} if count <= 64 else {})),
                          lambda i: bench.library.call("fth_head", shape, count, h, gain, None, packed[i % len(packed)],
                                                       None, stats, None, None),
                          {"eager": lambda i: by_torch(h, gain, w[i % len(w)]),
                           "compiled": lambda i: compiled(h, gain, w[i % len(w)])},
                          check, lambda: stats.fill_(-1))
