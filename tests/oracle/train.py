# SPDX-License-Identifier: Apache-2.0
"""What every recipe shares: text, batches, schedule, evaluation, checkpoints; and training from scratch:

python train.py vanilla recursive mor ... [--steps N] [--out DIR]. Resumable: a checkpoint every 50 steps, batches and
dropout depend only on (seed, step). Text: the first 90 % trains, the rest is held out.
"""
import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from model import Config, Model

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEXT = HERE.parent / "data" / "tinyshakespeare.txt"
MOR = Config("mor", "mor")
CONFIGS = {c.name: c for c in (
    Config("vanilla", "vanilla"), Config("recursive", "recursive"), MOR, replace(MOR, name="mor_expert"),
    replace(MOR, name="mor_shared", shared_kv=True), replace(MOR, name="mor_token", router="token"),
    replace(MOR, name="mor_token_shared", router="token", shared_kv=True))}
TRAIN = ROOT / "build" / "train"
BATCH, STRIDE, DECAY, CLIP = 8, 256, 0.1, 1.0


@dataclass(frozen=True)
class Recipe:
    """Steps of BATCH x context bytes; rate: short warm-up, constant, linear to zero over the last `cool` of them."""
    steps: int
    peak: float = 2e-3
    warm: int = 50
    cool: float = 0.30
    seed: int = 1

    def rate(self, step):
        return self.peak * min(1.0, (step + 1) / self.warm, (self.steps - step) / (self.cool * self.steps))


def corpus():
    data = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()
    cut = int(len(data) * 0.9)
    return data[:cut], data[cut:]


def batch(data, context, seed, step):
    g = torch.Generator().manual_seed(seed * 1_000_003 + step)
    at = torch.randint(0, len(data) - context - 1, (BATCH,), generator=g)
    rows = torch.stack([data[i:i + context + 1] for i in at])
    return rows[:, :-1], rows[:, 1:]


def token_loss(logits, targets):
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def standard(model, ids, targets):
    """Per-token values of a model without exits, for evaluate()."""
    out = model(ids, causal_rule=True)
    return dict(nats_per_byte=token_loss(out.logits, targets), mean_depth=out.depth)


THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def with_exits(model, ids, targets):
    """Per-token values of a model with exits: answered always at one exit (`exit_<layers>`), or at the first whose
    signal is above a threshold (`<signal>_<threshold>_...`). Decoding does so if K, V of skipped layers are exact.
    """
    c, out = model.config, model(ids)
    logits = [model.head(out.states[e]) for e in c.exits] + [out.logits]
    losses = torch.stack([token_loss(l, targets) for l in logits])
    layers = torch.tensor([*c.exits, c.effective_layers])
    top = [l.float().softmax(-1).topk(2).values for l in logits[:-1]]
    signals = dict(margin=[t[..., 0] - t[..., 1] for t in top])
    if c.exit_mlps:
        normed = [model.norm(out.states[e]) for e in c.exits]
        signals["mlp"] = [mlp(z).softmax(-1)[..., 1] for mlp, z in zip(model.exit_mlps, normed)]
    values = dict(nats_per_byte=losses[-1], mean_depth=out.depth)
    for e, loss, l in zip(c.exits, losses, logits):
        values |= {f"exit_{e}_nats_per_byte": loss, f"exit_{e}_agreement": l.argmax(-1) == out.logits.argmax(-1)}
    for signal, confidence in signals.items():
        for threshold in THRESHOLDS:
            leaves = [*(s > threshold for s in confidence), confidence[0] >= 0]  # at the end, all
            at = torch.stack(leaves).int().argmax(0)
            values[f"{signal}_{threshold}_nats_per_byte"] = losses.gather(0, at[None])[0]
            values[f"{signal}_{threshold}_layers"] = layers[at]
    return values


@torch.no_grad()
def evaluate(model, data, every=1, measure=standard):
    """Means of what measure(model, ids, targets) -> {name: [B,T]} says, over windows of `context` with stride 256 (of
    which each `every`-th is taken): the first window counts all its bytes, later ones those not yet counted."""
    model.eval()
    context, totals, count = model.config.context, {}, 0
    starts = list(range(0, max(1, len(data) - 1 - (context - STRIDE)), STRIDE))[::every]
    for first in range(0, len(starts), BATCH):
        group = starts[first:first + BATCH]
        lengths = [min(context, len(data) - 1 - s) for s in group]
        width = max(lengths)
        rows = torch.stack([F.pad(data[s:s + n + 1], (0, width - n)) for s, n in zip(group, lengths)])
        values = measure(model, rows[:, :-1], rows[:, 1:])
        for i, (s, n) in enumerate(zip(group, lengths)):
            skip = 0 if s == 0 else context - STRIDE
            count += n - skip
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value[i, skip:n].double().sum().item()
    model.train()
    return {name: total / count for name, total in totals.items()} | dict(bytes_scored=count)


def language_loss(model, ids, targets):
    """The plain objective. Returns the loss and what to log of it."""
    out = model(ids)
    loss = token_loss(out.logits, targets).mean()
    return loss + out.aux, dict(train=loss)


def fit(model, recipe, out, loss=language_loss, measure=standard, learns=lambda name: True):
    """Trains the parameters of `model` whose name `learns`, by loss(model, ids, targets); goes on from out/last.pt."""
    out.mkdir(parents=True, exist_ok=True)
    text, held = corpus()
    for n, p in model.named_parameters():
        p.requires_grad_(learns(n))
    named = [(n, p) for n, p in model.named_parameters() if learns(n)]
    decays = lambda n, p: p.dim() == 2 and not n.startswith("routers")
    optimizer = torch.optim.AdamW([{"params": [p for n, p in named if decays(n, p)], "weight_decay": DECAY},
                                   {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0}],
                                  lr=recipe.peak, betas=(0.9, 0.95), fused=True)
    step, spent = 0, 0.0
    if (out / "last.pt").exists():
        saved = torch.load(out / "last.pt")
        if saved["recipe"] != asdict(recipe):
            raise SystemExit(f"{out} was begun with {saved['recipe']}, not {asdict(recipe)}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["seconds"]
    log = open(out / "log.jsonl", "a", buffering=1)
    model.train()
    terms, tick = {}, time.time()
    while step < recipe.steps:
        torch.manual_seed(recipe.seed * 7919 + step)  # dropout masks, too, depend on the step only
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        ids, targets = batch(text, model.config.context, recipe.seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            total, parts = loss(model, ids, targets)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], CLIP)
        optimizer.step()
        step += 1
        for name, value in parts.items():
            terms.setdefault(name, []).append(value.item())
        if step % 20 == 0 or step == recipe.steps:
            spent, tick = spent + time.time() - tick, time.time()
            entry = dict(step=step, seconds=round(spent, 1), **{n: round(sum(v) / len(v), 4) for n, v in terms.items()})
            terms = {}
            if step % 200 == 0 or step == recipe.steps:
                with torch.autocast("cpu", torch.bfloat16):
                    held_out = evaluate(model, held, every=16, measure=measure)  # a fixed sixteenth of the windows
                entry.update({f"held_out_{n}": round(v, 4) for n, v in held_out.items() if n != "bytes_scored"})
            log.write(json.dumps(entry) + "\n")
        if step % 50 == 0 or step == recipe.steps:
            save(model, recipe, out, optimizer=optimizer.state_dict(), step=step, seconds=spent)
    return model


def save(model, recipe, out, **more):
    torch.save(dict(model=model.state_dict(), recipe=asdict(recipe), **more), out / "last.tmp")
    os.replace(out / "last.tmp", out / "last.pt")


def trained(directory):
    """The weights of a finished run."""
    saved = torch.load(directory / "last.pt")
    steps = saved.get("recipe", {}).get("steps", saved["step"])
    if saved["step"] < steps:
        raise SystemExit(f"{directory} is at step {saved['step']} of {steps}")
    return saved["model"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", choices=CONFIGS)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--out", type=Path, default=TRAIN)
    a = parser.parse_args()
    for name in a.models:
        recipe = Recipe(a.steps)
        torch.manual_seed(recipe.seed)
        fit(Model(CONFIGS[name]), recipe, a.out / name)


if __name__ == "__main__":
    main()
