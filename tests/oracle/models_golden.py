# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/models/<kind>/: tiny random checkpoints and what the reference computes for them.

python models_golden.py. Deterministic; see tests/golden/README.md for the format.
"""
import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from reference import Checkpoint, Run, tied_to

OUT = Path(__file__).resolve().parent.parent / "golden" / "models"
LENGTHS = (17, 1, 40)


class Kind:
    """A config and how to store it. heads of 16; hidden 48 or 64: rows are no multiple of a wide register tile."""

    def __init__(self, hidden=48, heads=3, kv_heads=1, intermediate=72, layers=3, tied=True, dtype=torch.float32,
                 copies=False, shards=1, new_rope=False, rope_scaling=None, recursive=None, relaxation=None, lora=(),
                 mor=None, kv_sharing=None):
        self.dtype, self.copies, self.shards, self.lora = dtype, copies, shards, lora
        config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden,
                      intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
                      num_key_value_heads=kv_heads, head_dim=16,
                      rms_norm_eps=1e-5, vocab_size=256, tie_word_embeddings=tied, max_position_embeddings=512,
                      hidden_act="silu")
        name = str(dtype).split(".")[1]
        if new_rope:  # transformers 5 spelling
            config.update(dtype=name, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
        else:
            config.update(torch_dtype=name, rope_theta=10000.0, rope_scaling=rope_scaling)
        for key, value in dict(recursive=recursive, kv_sharing=kv_sharing, relaxation=relaxation, mor=mor).items():
            if value:
                config[key] = dict(enable=True, **value)
        self.config = config


def recursion(n, sharing="middle_cycle", ln_share=True):
    return dict(num_recursion=n, sharing=sharing, ln_share=ln_share)


def expert(**changed):
    return dict(dict(type="expert", router_type="linear", router_func="sigmoid", alpha=0.1, temp=1.0, gating="weighted",
                     loss_free=False), **changed)


def token(func, alpha, loss_free=False):
    return expert(type="token", router_func=func, alpha=alpha, loss_free=loss_free)


ALL = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
       "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=256)
MOR = dict(layers=5, recursive=recursion(3))  # unique first, block of one layer three times, unique last
KINDS = {
    "vanilla": Kind(),
    "vanilla_mha_untied": Kind(heads=4, kv_heads=4, layers=2, tied=False, dtype=torch.float16),  # 4 x 16 != hidden 48
    "vanilla_deep": Kind(hidden=32, heads=2, intermediate=40, layers=8),  # what convert_golden.py converts
    "llama3_rope_scaling": Kind(hidden=64, heads=4, kv_heads=2, layers=2, rope_scaling=LLAMA3),
    "recursive_cycle": Kind(layers=4, recursive=recursion(2, "cycle")),
    "recursive_sequence": Kind(layers=4, recursive=recursion(2, "sequence"), shards=2),
    "recursive_middle_cycle": Kind(layers=8, recursive=recursion(3), new_rope=True),
    "recursive_middle_sequence": Kind(layers=6, recursive=recursion(2, "middle_sequence"), dtype=torch.bfloat16,
                                      copies=True),
    "relaxed_cycle": Kind(layers=4, recursive=recursion(2, "cycle", ln_share=False), lora=ALL,
                          relaxation=dict(lora=dict(r=4, alpha=4))),
    "relaxed_middle_cycle": Kind(layers=5, recursive=recursion(3), lora=(ALL[0], ALL[2]),
                                 relaxation=dict(lora=dict(r=3, alpha=6))),
    "mor_expert": Kind(layers=8, recursive=recursion(3), mor=expert()),  # block of two layers
    "mor_expert_mlp": Kind(**MOR, mor=expert(router_type="mlp"), new_rope=True),
    "mor_expert_tanh": Kind(**MOR, mor=expert(router_func="tanh", temp=2.0), copies=True, dtype=torch.bfloat16),
    "mor_expert_additive": Kind(**MOR, mor=expert(gating="additive")),
    "mor_expert_cycle": Kind(layers=6, recursive=recursion(3, "cycle"), mor=expert()),
    "mor_expert_shared_kv": Kind(layers=8, recursive=recursion(3), mor=expert(),
                                 kv_sharing=dict(num_recursion=3, sharing="middle_cycle")),
    "mor_token_softmax": Kind(**MOR, mor=token("softmax", 1.0)),
    "mor_token_sigmoid": Kind(**MOR, mor=token("sigmoid", 0.1), copies=True, dtype=torch.float16),
    "mor_token_loss_free": Kind(layers=8, recursive=recursion(3), mor=token("sigmoid", 1.0, loss_free=True),
                                tied=False),
}


def weights(kind, seed):
    """Random tensors under the names of the file format; tied copies are stored once unless kind.copies."""
    c, tensors = kind.config, {}
    g = torch.Generator().manual_seed(seed)
    random = lambda *shape, scale: torch.randn(*shape, generator=g) * scale
    d, f, q, kv = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"] * 16, c["num_key_value_heads"] * 16
    shapes = dict(zip(ALL, ((q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f))))

    def layer(prefix):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = 1 + random(d, scale=0.2)
        for name, (o, i) in shapes.items():
            tensors[f"{prefix}{name}.weight"] = random(o, i, scale=1.2 * i ** -0.5)

    def copy(source, target):
        for name in [n for n in tensors if n.startswith(source)]:
            tensors[target + name[len(source):]] = tensors[name].clone()

    def router(prefix, out, scale):
        if c["mor"]["router_type"] == "linear":
            tensors[prefix + "router.weight"] = random(out, d, scale=scale)
        else:
            tensors[prefix + "router.0.weight"] = random(2 * d, d, scale=scale)
            tensors[prefix + "router.2.weight"] = random(out, 2 * d, scale=0.3)

    tensors["model.embed_tokens.weight"] = random(256, d, scale=0.4)
    total, mor = c["num_hidden_layers"], c.get("mor")
    n, sharing = (c["recursive"]["num_recursion"], c["recursive"]["sharing"]) if "recursive" in c else (1, "cycle")
    ends = sharing.startswith("middle_")
    k = (total - 2 * ends) // n
    if not mor:
        for l in range(total):
            source = tied_to(l, total, n, sharing) if "recursive" in c else l
            if source == l:
                layer(f"model.layers.{l}.")
            elif kind.copies:
                copy(f"model.layers.{source}.", f"model.layers.{l}.")
            if "recursive" in c and not c["recursive"]["ln_share"]:
                for name in ("input_layernorm", "post_attention_layernorm"):
                    tensors[f"model.layers.{l}.{name}.weight"] = 1 + random(d, scale=0.2)
        looped = range(ends, total - ends)
        for l in looped:
            for name in kind.lora:
                o, i = shapes[name]
                r = c["relaxation"]["lora"]["r"]
                tensors[f"model.layers.{l}.{name}.lora_A.weight"] = random(r, i, scale=i ** -0.5)
                tensors[f"model.layers.{l}.{name}.lora_B.weight"] = random(o, r, scale=0.3)
    else:
        chosen = mor["type"] == "token"
        base = f"model.layers.{int(ends)}."
        if ends:
            layer("model.layers.0.")
        for r in range(n):
            for j in range(k):
                first = f"{base}block_list.0.{j}." if chosen else f"{base}block.{j}."
                this = f"{base}block_list.{r}.{j}." if chosen else f"model.layers.{ends + r}.block.{j}."
                if r == 0:
                    layer(this)
                elif kind.copies:
                    copy(first, this)
            if not chosen:
                router(f"model.layers.{ends + r}.mor_router.", 1, 0.4)
                if mor.get("sampling") == "aux_router":
                    router(f"model.layers.{ends + r}.mlp_router.", 1, 0.4)
        if chosen:
            router(base + "mor_router.", n, 0.5)
            if mor["loss_free"]:
                tensors[base + "router_bias"] = random(n, scale=0.2)
        if ends:
            layer(f"model.layers.{2 if chosen else 1 + n}.")
    tensors["model.norm.weight"] = 1 + random(d, scale=0.2)
    if not c["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(256, d, scale=0.4)
    return {name: t.to(kind.dtype).contiguous() for name, t in tensors.items()}


def store(kind, tensors, directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(kind.config, indent=2) + "\n")
    names = sorted(tensors)
    if kind.shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    placed = {name: f"model-{i * kind.shards // len(names) + 1:05d}-of-{kind.shards:05d}.safetensors"
              for i, name in enumerate(names)}
    for file in sorted(set(placed.values())):
        save_file({n: tensors[n] for n in names if placed[n] == file}, directory / file, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = dict(metadata=dict(total_size=size), weight_map=placed)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(name, kind, out=OUT, runs=()):
    """Stores the first random model that uses every depth and decides nothing by a hair, and what the reference says
    of it. runs: options of Run, each of which gives further expectations for the same texts."""
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    ids = [torch.randint(0, 256, (n,), generator=g).tolist() for n in LENGTHS]
    depths_possible = kind.config["recursive"]["num_recursion"] if "mor" in kind.config else 1
    for seed in range(1000):
        store(kind, weights(kind, seed), out / name)
        checkpoint = Checkpoint(out / name)
        expected, *others = [results(checkpoint, ids, options) for options in ({}, *runs)]
        used = {d for row in expected["depths"] for d in row}
        if min(e.get("min_abs_router_logit", 1.0) for e in (expected, *others)) > 2e-3 and len(used) == depths_possible:
            break
    else:
        raise SystemExit(f"{name}: no suitable seed")
    expected = dict(ids=ids, **expected)
    if runs:
        expected["runs"] = [dict(options=options, **e) for options, e in zip(runs, others)]
    (out / name / "expected.json").write_text(json.dumps(expected) + "\n")
    size = sum(f.stat().st_size for f in (out / name).iterdir()) // 1024
    counts = [sum(d.count(v) for d in expected["depths"]) for v in sorted(used)]
    margin = expected.get("min_abs_router_logit", float("nan"))
    print(f"{name:28s} seed {seed} {size} KiB  margin {margin:.4f}  tokens per depth {counts}")


def results(checkpoint, ids, options):
    runs = [Run(checkpoint, row, **options).score() for row in ids]
    found = dict(nll=[n.tolist() for n, _, _ in runs], depths=[d.tolist() for _, d, _ in runs])
    margins = [m for _, _, m in runs if m is not None]
    return dict(found, min_abs_router_logit=min(margins)) if margins else found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, kind in KINDS.items():
        make(name, kind)
