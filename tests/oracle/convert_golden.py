# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/conversions: what `fathom convert` makes of tests/golden/models/vanilla_deep.

python convert_golden.py. Deterministic; see tests/golden/README.md for the format. Written from the formulas: layers are
tied, shared weights chosen or averaged, residuals decomposed by torch.linalg.svd in float64.
"""
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import reference

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SOURCE = GOLDEN / "models" / "vanilla_deep"
OUT = GOLDEN / "conversions"
MODULES = dict(q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj", gate="mlp.gate_proj",
               up="mlp.up_proj", down="mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
TYPES = dict(f32=torch.float32, bf16=torch.bfloat16, f16=torch.float16)


def spread(start, stop, count):
    """round() of Python rounds halves to even."""
    return [round(x) for x in np.linspace(start, stop, count)]


def tied(sharing, total, n):
    """The unrolled layers of each slot of the shared block."""
    if sharing.startswith("middle_"):
        return [[1 + layer for layer in slot] for slot in tied(sharing.removeprefix("middle_"), total - 2, n)]
    k = total // n
    return [[i + r * k for r in range(n)] if sharing == "cycle" else list(range(i * n, (i + 1) * n)) for i in range(k)]


def sources(init, slots, total, ends):
    """For each slot, the unrolled layers whose mean it begins with."""
    k, inner = len(slots), list(range(ends, total - ends))
    return {"average": slots, "lower": [[x] for x in inner[:k]], "upper": [[x] for x in inner[-k:]],
            "stepwise": [[x] for x in spread(inner[0], inner[-1], k)]}[init]


def convert(source, config, recursions, sharing="cycle", init="stepwise", norms="tied", rank=None, layers=None, dtype="f32"):
    """(tensors by name, config). rank: {"q": 8, ...} in the names of the command line."""
    kind, ends, own = TYPES[dtype], int(sharing.startswith("middle_")), config["num_hidden_layers"]
    total = layers or (own - 2 * ends) // recursions * recursions + 2 * ends
    origin = [0] * ends + spread(ends, own - 1 - ends, total - 2 * ends) + [own - 1] * ends
    get = lambda layer, name: source[f"model.layers.{origin[layer]}.{name}.weight"].double()
    stored = lambda t: t.float().to(kind)
    out = {n: stored(t.double()) for n, t in source.items() if ".layers." not in n}
    for end in {0, total - 1} if ends else ():
        for name in (*NORMS, *MODULES.values()):
            out[f"model.layers.{end}.{name}.weight"] = stored(get(end, name))
    slots = tied(sharing, total, recursions)
    for slot, chosen in zip(slots, sources(init, slots, total, ends)):
        for name in NORMS:
            mean = sum(get(layer, name) for layer in chosen) / len(chosen)
            for layer in slot:
                out[f"model.layers.{layer}.{name}.weight"] = stored(mean if norms == "tied" else get(layer, name))
        for short, name in MODULES.items():
            shared = stored(sum(get(layer, name) for layer in chosen) / len(chosen))
            for layer in slot:
                prefix = f"model.layers.{layer}.{name}."
                out[prefix + "weight"] = shared.clone()
                if rank and short in rank:
                    u, s, v = torch.linalg.svd(get(layer, name) - shared.double(), full_matrices=False)
                    r = min(rank[short], len(s))
                    out[prefix + "lora_B.weight"], out[prefix + "lora_A.weight"] = stored(u[:, :r] * s[:r]), stored(v[:r])
    config = dict(config, num_hidden_layers=total, recursive=dict(enable=True, num_recursion=recursions, sharing=sharing,
                                                                  ln_share=norms == "tied"))
    if rank:
        config["relaxation"] = dict(enable=True, lora=dict(r=1, alpha=1))  # a scale of 1 whatever the rank
    return {n: t.contiguous() for n, t in out.items()}, config


def cases():
    for sharing, init, norms in itertools.product(("cycle", "sequence", "middle_cycle", "middle_sequence"),
                                                  ("stepwise", "average", "lower", "upper"), ("tied", "per-depth")):
        n = 3 if sharing.startswith("middle") else 2
        yield f"{sharing}_{init}_{norms}", dict(recursions=n, sharing=sharing, init=init, norms=norms)
    yield "cycle_4", dict(recursions=4)
    yield "dropped", dict(recursions=3)
    yield "dropped_average", dict(recursions=3, sharing="sequence", init="average", norms="per-depth")
    yield "dropped_middle", dict(recursions=4, sharing="middle_cycle")
    yield "repeated", dict(recursions=3, layers=12, init="average")
    yield "repeated_middle", dict(recursions=4, layers=10, sharing="middle_sequence")
    yield "fewer", dict(recursions=2, layers=4, init="upper")
    every = lambda r: dict.fromkeys(MODULES, r)
    yield "lora", dict(recursions=2, init="average", norms="per-depth", rank=every(4))
    yield "lora_tied_norms", dict(recursions=4, init="stepwise", rank=every(6))
    yield "lora_ranks", dict(recursions=2, sharing="sequence", init="lower", rank=dict(q=3, v=1000, down=5, gate=7))
    yield "lora_middle", dict(recursions=3, sharing="middle_cycle", init="average", norms="per-depth", rank=dict(k=2, up=9))
    yield "lora_middle_sequence", dict(recursions=2, sharing="middle_sequence", init="stepwise", rank=every(8))
    yield "lora_dropped", dict(recursions=3, init="average", rank=every(5))
    yield "lora_full", dict(recursions=2, init="average", norms="per-depth", rank=every(1000))
    yield "average_bf16", dict(recursions=2, init="average", dtype="bf16")
    yield "lora_bf16", dict(recursions=2, init="average", norms="per-depth", dtype="bf16", rank=every(4))
    yield "lora_f16", dict(recursions=4, init="upper", dtype="f16", rank=every(4))


def arguments(recursions, rank=None, **options):
    words = ["--recursions", str(recursions)]
    if rank:
        words += ["--lora-rank", ",".join(f"{k}={v}" for k, v in rank.items())]
    for name, value in options.items():
        words += ["--" + name, str(value)]
    return words


def score(tensors, config, texts):
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return [reference.score(folder, ids)[0].tolist() for ids in texts]


def excerpt(tensors, total):
    """A few weights, and of LoRA pairs the products: the factors have no definite signs."""
    for layer, name in itertools.product((1, total - 2), ("self_attn.v_proj", "mlp.down_proj")):
        prefix = f"model.layers.{layer}.{name}."
        yield prefix + "weight", tensors[prefix + "weight"].float()
        if prefix + "lora_A.weight" in tensors:
            yield prefix + "product", (tensors[prefix + "lora_B.weight"].double() @ tensors[prefix + "lora_A.weight"].double()).float()


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    source, config = load_file(SOURCE / "model.safetensors"), json.loads((SOURCE / "config.json").read_text())
    texts = json.loads((SOURCE / "expected.json").read_text())["ids"]
    described, kept = [], {}
    for name, options in cases():
        tensors, converted = convert(source, config, **options)
        described.append(dict(name=name, arguments=arguments(**options), layers=converted["num_hidden_layers"],
                              nll=score(tensors, converted, texts)))
        if options.get("rank") or "average_tied" in name or options.get("layers") or options.get("dtype"):
            for tensor, values in excerpt(tensors, converted["num_hidden_layers"]):
                kept[f"{name}.{tensor}"] = values.contiguous()
    lines = ",\n".join(json.dumps(case) for case in described)
    spreads = [[start, stop, n, *spread(start, stop, n)] for start in (0, 1) for stop in range(start, 40) for n in range(1, stop + 2)]
    (OUT / "cases.json").write_text(f'{{"texts": {json.dumps(texts)},\n"spreads": {json.dumps(spreads)},\n"cases": [\n{lines}\n]}}\n')
    save_file(kept, OUT / "expected.safetensors", metadata={"format": "pt"})
    print(f"{len(described)} cases, {sum(f.stat().st_size for f in OUT.iterdir()) // 1024} KiB")


if __name__ == "__main__":
    main()
