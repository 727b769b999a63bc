# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and exports the byte-level models: python train.py mor recursive vanilla [--out DIR].

Resumable: a checkpoint every 100 steps, batches depend only on (seed, step). Text: first 90 % trains, the rest is held out.
"""
import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from model import Config, Model

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEXT = HERE.parent / "data" / "tinyshakespeare.txt"
CONFIGS = {c.name: c for c in (Config("mor", "mor"), Config("recursive", "recursive"), Config("vanilla", "vanilla"))}
BATCH, STRIDE = 8, 256
PEAK, WARM, COOL, DECAY, CLIP, SEED = 2e-3, 50, 0.30, 0.1, 1.0, 1


def corpus():
    data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()
    cut = int(len(data) * 0.9)
    return data[:cut], data[cut:]


def rate(step, steps):
    """Trapezoid: short warm-up, constant, then linear to zero over the last COOL of the steps."""
    return PEAK * min(1.0, (step + 1) / WARM, (steps - step) / (COOL * steps))


def batch(data, context, step):
    g = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    at = torch.randint(0, len(data) - context - 1, (BATCH,), generator=g)
    rows = torch.stack([data[i:i + context + 1] for i in at])
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def evaluate(model, data, every=1, causal_rule=True):
    """Mean nats per byte and mean depth over windows of `context` with stride 256 (of which each `every`-th is taken):
    the first window scores all its bytes, later ones only those that no earlier window scored. Depth is counted
    over the same positions."""
    model.eval()
    context, total, count, deep = model.config.context, 0.0, 0, 0.0
    starts = list(range(0, max(1, len(data) - 1 - (context - STRIDE)), STRIDE))[::every]
    for first in range(0, len(starts), BATCH):
        group = starts[first:first + BATCH]
        lengths = [min(context, len(data) - 1 - s) for s in group]
        width = max(lengths)
        rows = torch.stack([F.pad(data[s:s + n + 1], (0, width - n)) for s, n in zip(group, lengths)])
        logits, _, depth = model(rows[:, :-1], causal_rule)
        nll = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(group), -1)
        for i, (s, n) in enumerate(zip(group, lengths)):
            skip = 0 if s == 0 else context - STRIDE
            total += nll[i, skip:n].double().sum().item()
            deep += depth[i, skip:n].double().sum().item()
            count += n - skip
    model.train()
    return total / count, deep / count, count


def train(config, steps, out):
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    model, (text, held) = Model(config), corpus()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=PEAK, betas=(0.9, 0.95), fused=True)
    step, spent, best = 0, 0.0, math.inf
    if (out / "last.pt").exists():
        saved = torch.load(out / "last.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent, best = saved["step"], saved["seconds"], saved["best"]
    log = open(out / "log.jsonl", "a", buffering=1)
    model.train()
    running, tick = 0.0, time.time()
    while step < steps:
        torch.manual_seed(SEED * 7919 + step)  # dropout masks, too, depend on the step only
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        ids, targets = batch(text, config.context, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits, aux, _ = model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        (loss + aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        running += loss.item()
        step += 1
        if step % 20 == 0:
            spent, tick = spent + time.time() - tick, time.time()
            entry = dict(step=step, seconds=round(spent, 1), train=round(running / 20, 4))
            running = 0.0
            if step % 200 == 0 or step == steps:
                with torch.autocast("cpu", torch.bfloat16):
                    val, depth, _ = evaluate(model, held, every=16)  # a fixed sixteenth of the windows
                entry.update(val=round(val, 4), depth=round(depth, 3))
                if val < best:
                    best = val
                    torch.save(model.state_dict(), out / "best.pt")
            log.write(json.dumps(entry) + "\n")
            if step % 100 == 0 or step == steps:
                state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, seconds=spent, best=best)
                torch.save(state, out / "last.tmp")
                os.replace(out / "last.tmp", out / "last.pt")
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", choices=CONFIGS)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "train")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    for name in arguments.models:
        train(CONFIGS[name], arguments.steps, arguments.out / name)


if __name__ == "__main__":
    main()
