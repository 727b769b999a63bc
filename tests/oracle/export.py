# SPDX-License-Identifier: Apache-2.0
"""Writes a trained model as a Hugging Face directory in bf16 and scores what was written over the whole held-out tenth.

python export.py mor [--train DIR] [--to DIR]. The numbers go to logs/<name>.json beside the training log.
"""
import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import reference
from model import Model
from train import BATCH, CONFIGS, ROOT, SEED, STRIDE, corpus, evaluate

LOGS = Path(__file__).resolve().parent / "logs"
MOR_TARGET = ROOT / "examples" / "src" / "main" / "resources" / "models" / "shakespeare-mor"


def names(config):
    """(prefix in Model, prefix in the file) of every layer that is stored; tied copies are stored once."""
    last, total = config.block_layers + 1, config.effective_layers
    if config.kind == "vanilla":
        return [(f"layers.{i}.", f"model.layers.{i}.") for i in range(total)]
    shared = [(f"layers.{1 + j}.", f"model.layers.1.block.{j}." if config.kind == "mor" else f"model.layers.{1 + j}.")
              for j in range(config.block_layers)]
    end = 1 + config.recursions if config.kind == "mor" else total - 1
    return [("layers.0.", "model.layers.0."), *shared, (f"layers.{last}.", f"model.layers.{end}.")]


def write(config, state, directory):
    tensors = {"model.embed_tokens.weight": state["embed.weight"], "model.norm.weight": state["norm.weight"]}
    for source, target in names(config):
        tensors.update({target + k[len(source):]: v for k, v in state.items() if k.startswith(source)})
    for r in range(config.recursions if config.kind == "mor" else 0):
        tensors[f"model.layers.{1 + r}.mor_router.router.weight"] = state[f"routers.{r}"][None]
    directory.mkdir(parents=True, exist_ok=True)
    save_file({k: v.bfloat16().contiguous() for k, v in tensors.items()}, directory / "model.safetensors", metadata={"format": "pt"})
    c = config
    described = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=c.hidden, intermediate_size=c.intermediate,
                     num_hidden_layers=c.effective_layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads,
                     head_dim=c.head_dim, rms_norm_eps=c.eps, rope_theta=c.theta, vocab_size=c.vocab, tie_word_embeddings=True,
                     max_position_embeddings=c.context, torch_dtype="bfloat16", hidden_act="silu")
    if c.kind != "vanilla":
        described["recursive"] = dict(enable=True, num_recursion=c.recursions, sharing="middle_cycle", ln_share=True)
    if c.kind == "mor":
        described["kv_sharing"] = dict(enable=False)
        described["relaxation"] = dict(enable=False)
        described["mor"] = dict(enable=True, type="expert", router_type="linear", router_func="sigmoid", alpha=c.alpha, temp=1.0,
                                gating="weighted", loss_free=False)
    (directory / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def read(config, directory):
    """The stored (rounded) weights back in a float32 Model."""
    stored, state = load_file(directory / "model.safetensors"), {}
    state["embed.weight"], state["norm.weight"] = stored["model.embed_tokens.weight"], stored["model.norm.weight"]
    for target, source in names(config):
        state.update({target + k[len(source):]: v for k, v in stored.items() if k.startswith(source) and "mor_router" not in k})
    for r in range(config.recursions if config.kind == "mor" else 0):
        state[f"routers.{r}"] = stored[f"model.layers.{1 + r}.mor_router.router.weight"][0]
    model = Model(config)
    model.load_state_dict({k: v.float() for k, v in state.items()})
    return model.eval()


@torch.no_grad()
def agree(model, directory, held):
    """Largest difference of the per-byte loss between model.py in float32 and reference.py in float64, on one window."""
    ids = held[5000:5000 + model.config.context]
    logits, _, depth = model(ids[None], causal_rule=True)
    ours = -logits[0, :-1].double().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    theirs, reference_depth, _ = reference.score(directory, ids.tolist())
    return (ours - theirs).abs().max().item(), int((depth[0] != reference_depth).sum())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("--train", type=Path, default=ROOT / "build" / "train")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    a = parser.parse_args()
    torch.set_num_threads(2)
    config = CONFIGS[a.model]
    to = a.to or (MOR_TARGET if a.model == "mor" else a.train / "export" / a.model)
    last = torch.load(a.train / a.model / "last.pt")
    state = last["model"] if a.checkpoint == "last" else torch.load(a.train / a.model / "best.pt")
    write(config, state, to)
    model, (_, held) = read(config, to), corpus()
    difference, other_depths = agree(model, to, held)
    started = time.time()
    nats, depth, count = evaluate(model, held)
    report = dict(model=a.model, checkpoint=a.checkpoint, steps=last["step"], seed=SEED, batch=BATCH, context=config.context,
                  tokens_trained=last["step"] * BATCH * config.context, dropout=config.dropout,
                  parameters=sum(p.numel() for p in model.parameters()), weights="bf16",
                  held_out_bytes_scored=count, stride=STRIDE, nats_per_byte=round(nats, 5), mean_depth=round(depth, 4),
                  recursions=config.recursions if config.kind != "vanilla" else 1,
                  reference_max_difference=difference, reference_depth_differences=other_depths,
                  training_seconds=last["seconds"], scoring_seconds=round(time.time() - started, 1))
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{a.model}.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.copyfile(a.train / a.model / "log.jsonl", LOGS / f"{a.model}.jsonl")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
