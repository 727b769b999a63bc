# SPDX-License-Identifier: Apache-2.0
"""FREE (arXiv 2310.05424) for a decoder: the trained vanilla model, taught to answer after its first layers, too.

python free.py free free_meta [--steps N] [--train DIR]. Needs DIR/vanilla (train.py).
  free       both exits, weighted cross-entropy and dynamic layer-wise distillation from the deep layers to the shallow
  free_meta  the same weights, frozen, and a classifier at the exit that learns whether the full model would agree
"""
import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from model import Model
from train import CONFIGS, TRAIN, Recipe, fit, token_loss, trained, with_exits

SHALLOW = 3
TEACHERS = (2, 4, 7)  # layers (from 0) that teach: round(k * 8 / 3) - 1 for k = 1, 2, 3; the paper steps evenly, too
DISTILLATION = 0.5
JOINT, META = Recipe(300, peak=5e-4, warm=20, cool=1.0), Recipe(100, peak=1e-3, warm=20, cool=1.0)
FREE = replace(CONFIGS["vanilla"], name="free", exits=(SHALLOW,))
CONFIGS |= dict(free=FREE, free_meta=replace(FREE, name="free_meta", exit_mlps=True))


def layer_distillation(model, states):
    """Mean squared error of normed states. Teachers, from the last, each take the closest student before the one taken
    last; when none is left, that one again."""
    h = lambda l: F.dropout(model.norm(states[l + 1]), model.config.dropout, model.training)
    students, last, total = [h(s) for s in range(SHALLOW)], SHALLOW, 0.0
    for t in reversed(TEACHERS):
        errors = torch.stack([F.mse_loss(s, h(t).detach()) for s in students])
        if last > 0:
            last = int(errors[:last].argmin())
        total = total + errors[last]
    return total / len(TEACHERS)


def joint_loss(model, ids, targets):
    """Exits weigh as many layers as they take."""
    out, deep = model(ids), model.config.effective_layers
    shallow_ce = token_loss(model.head(out.states[SHALLOW]), targets).mean()
    deep_ce = token_loss(out.logits, targets).mean()
    kd = layer_distillation(model, out.states)
    total = (SHALLOW * shallow_ce + deep * deep_ce) / (SHALLOW + deep) + DISTILLATION * kd
    return total, dict(train=deep_ce, exit_3=shallow_ce, distillation=kd)


def meta_loss(model, ids, targets):
    """Cross-entropy with logits adjusted by the class rates, so that the unadjusted classifier is balanced."""
    model.eval()
    with torch.no_grad():
        out = model(ids)
        z = model.norm(out.states[SHALLOW])
        label = (model.head(out.states[SHALLOW]).argmax(-1) == out.logits.argmax(-1)).long()
    rate = label.float().mean().clamp(1e-4, 1 - 1e-4)
    logits = model.exit_mlps[0](z).float()
    loss = F.cross_entropy((logits + torch.stack([1 - rate, rate]).log()).flatten(0, 1), label.flatten())
    return loss, dict(train=loss, agreement=rate, accuracy=(logits.argmax(-1) == label).float().mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", choices=("free", "free_meta"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--train", type=Path, default=TRAIN)
    a = parser.parse_args()
    for name in a.models:
        recipe = META if name == "free_meta" else JOINT
        recipe = replace(recipe, steps=a.steps or recipe.steps)
        torch.manual_seed(recipe.seed)
        model = Model(CONFIGS[name])
        if name == "free":
            model.load_state_dict(trained(a.train / "vanilla"))
            fit(model, recipe, a.train / name, joint_loss, with_exits)
        else:
            model.load_state_dict(trained(a.train / "free"), strict=False)  # all but the classifier
            fit(model, recipe, a.train / name, meta_loss, with_exits, learns=lambda n: n.startswith("exit_mlps"))


if __name__ == "__main__":
    main()
