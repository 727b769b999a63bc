# SPDX-License-Identifier: Apache-2.0
"""Relaxed Recursive Transformers (arXiv 2410.20672): the trained vanilla model, folded into a loop and trained further.

python recursive.py NAME ... [--steps N] [--train DIR]. Needs DIR/vanilla (train.py). Names:
  rrt_start, rrt_r8_start, rrt_r32_start      the conversion as it is
  rrt_ce_S, rrt_kd_S                          uptrained with seed S by cross-entropy, or by that and the teacher
  rrt_r8_ce, rrt_r8_kd, rrt_r32_ce, ..._kd    relaxed by LoRA pairs of that rank, seed 1
  rrt_exits                                   rrt_kd_1, taught to answer after its first loop
"""
import argparse
from dataclasses import replace
from pathlib import Path

import torch

from model import LINEARS, Config, Model
from train import CONFIGS, TRAIN, Recipe, batch, corpus, fit, save, token_loss, trained, with_exits

BASE = Config("rrt", "recursive", sharing="cycle", block_layers=4, recursions=2)
UPTRAIN, POST = Recipe(200, peak=1e-3, warm=20, cool=1.0), Recipe(150, peak=3e-4, warm=20, cool=1.0)
EXIT_WEIGHT = 0.1  # a_b of the exits before the last, whose own is 1
RANKS = {"": 0, "_r8": 8, "_r32": 32}
CONFIGS |= {c.name: c for c in (
    *(replace(BASE, name=f"rrt{r}_start", rank=rank) for r, rank in RANKS.items()),
    *(replace(BASE, name=f"rrt_{loss}_{seed}") for loss in ("ce", "kd") for seed in (1, 2, 3)),
    *(replace(BASE, name=f"rrt{r}_{loss}", rank=rank) for loss in ("ce", "kd") for r, rank in RANKS.items() if rank),
    replace(BASE, name="rrt_exits", exits=(BASE.block_layers,)))}


def convert(teacher, config):
    """Without LoRA, stepwise: the block's layers are K teacher layers at even steps from the first to the last, norms
    with them. With LoRA, average: each is the mean of the layers tied to it, norms stay per depth, and the pairs of
    depth l are the best approximation of rank r to W_l - W: B = U S, A = V^T of its singular value decomposition."""
    model, total, k = Model(config), config.effective_layers, config.block_layers
    model.embed.load_state_dict(teacher.embed.state_dict())
    model.norm.load_state_dict(teacher.norm.state_dict())
    if not config.rank:
        for i, layer in enumerate(model.layers):
            layer.load_state_dict(teacher.layers[round(i * (total - 1) / (k - 1))].state_dict())
        return model
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            for name in LINEARS:
                tied = torch.stack([teacher.layers[l].weight(name) for l in range(i, total, k)])
                layer.weight(name).copy_(tied.mean(0))
        for l, relaxed in enumerate(model.relaxed):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                getattr(relaxed, norm).load_state_dict(getattr(teacher.layers[l], norm).state_dict())
            for name in LINEARS:
                key = name.replace(".", "_")
                rest = teacher.layers[l].weight(name) - model.layers[l % k].weight(name)
                u, s, v = torch.linalg.svd(rest, full_matrices=False)
                a, b = relaxed.lora_A[key], relaxed.lora_B[key]
                r = min(config.rank, len(s))
                a[:r].copy_(v[:r])
                b[:, :r].copy_(u[:, :r] * s[:r])
    return model


def load_teacher(directory):
    teacher = Model(CONFIGS["vanilla"])
    teacher.load_state_dict(trained(directory / "vanilla"))
    return teacher.eval().requires_grad_(False)


def check(teacher):
    """Pairs of full rank make up for the averaging exactly."""
    ids, _ = batch(corpus()[0], teacher.config.context, 0, 0)
    same = convert(teacher, replace(BASE, rank=BASE.hidden)).eval()
    with torch.no_grad():
        difference = (same(ids).logits - teacher(ids).logits).abs().max().item()
    assert difference < 1e-3, difference


def distance(logits, target):
    """Forward Kullback-Leibler divergence from the distribution of target logits, up to the entropy of that."""
    return -(target.float().softmax(-1) * logits.float().log_softmax(-1)).sum(-1).mean()


def distilled(teacher):
    def loss(model, ids, targets):
        out = model(ids)
        ce = token_loss(out.logits, targets).mean()
        with torch.no_grad():
            target = teacher(ids).logits
        kd = distance(out.logits, target)
        return ce + kd, dict(train=ce, distillation=kd)
    return loss


def exits_loss(model, ids, targets):
    """sum_b a_b L_b: an exit before the last learns from the text and from the detached final logits."""
    out = model(ids)
    final = token_loss(out.logits, targets).mean()
    total, parts = final, dict(train=final)
    for e in model.config.exits:
        logits = model.head(out.states[e])
        ce, kd = token_loss(logits, targets).mean(), distance(logits, out.logits.detach())
        total = total + EXIT_WEIGHT * (ce + kd)
        parts |= {f"exit_{e}": ce, f"exit_{e}_distillation": kd}
    return total, parts


def run(name, directory, steps):
    config, out = CONFIGS[name], directory / name
    if name == "rrt_exits":
        recipe, model = replace(POST, steps=steps or POST.steps), Model(config)
        model.load_state_dict(trained(directory / "rrt_kd_1"))
        fit(model, recipe, out, exits_loss, with_exits)
        return
    teacher = load_teacher(directory)
    kind, seed = name.split("_")[-2:] if name[-1].isdigit() else (name.split("_")[-1], 1)
    recipe = replace(UPTRAIN, seed=int(seed), steps=0 if kind == "start" else steps or UPTRAIN.steps)
    model = convert(teacher, config)
    if kind == "start":
        check(teacher)
        out.mkdir(parents=True, exist_ok=True)
        save(model, recipe, out, step=0, seconds=0.0)
    else:
        fit(model, recipe, out, *([distilled(teacher)] if kind == "kd" else []))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", choices=[n for n in CONFIGS if n.startswith("rrt")])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--train", type=Path, default=TRAIN)
    a = parser.parse_args()
    for name in a.models:
        run(name, a.train, a.steps)


if __name__ == "__main__":
    main()
