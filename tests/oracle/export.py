# SPDX-License-Identifier: Apache-2.0
"""Writes trained models as Hugging Face directories in bf16 and scores what was written over the whole held-out tenth.

python export.py NAME ... [--train DIR] [--to DIR]. The numbers go to logs/<name>.json, the training log beside them;
python export.py --table copies them into README.md.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import free  # noqa: F401 (adds its models to CONFIGS)
import recursive  # noqa: F401
import reference
from model import Model
from train import BATCH, CONFIGS, ROOT, STRIDE, THRESHOLDS, TRAIN, corpus, evaluate, standard, with_exits

LOGS, README = (Path(__file__).resolve().parent / name for name in ("logs", "README.md"))
MARKS = "<!-- export.py --table -->", "<!-- end of the table -->"
MOR_TARGET = ROOT / "examples" / "src" / "main" / "resources" / "models" / "shakespeare-mor"


def stored_name(config, key):
    """The file's name of an entry of Model.state_dict(). Tied weights are stored once, under their first layer."""
    group, *rest = key.split(".")
    rest, routed = ".".join(rest), config.kind == "mor"
    index, _, leaf = rest.partition(".")
    if group == "embed":
        return "model.embed_tokens.weight"
    if group == "norm":
        return "model.norm.weight"
    if group == "exit_mlps":
        return f"exits.{index}.mlp.{leaf}"
    if group == "routers":
        return f"model.layers.{1 + int(index)}.mor_router.router.weight"
    if group == "relaxed":
        kind, _, linear = leaf.partition(".")
        if not kind.startswith("lora"):
            return f"model.layers.{index}.{leaf}"
        part, _, name = linear.removeprefix("self_").partition("_")
        return f"model.layers.{index}.{'self_attn' if part == 'attn' else part}.{name}.{kind}.weight"
    slot = int(index)
    if config.kind != "vanilla" and config.ends and slot == config.block_layers + 1:
        last = config.effective_layers - 1 if not routed else 2 if config.router == "token" else 1 + config.recursions
        return f"model.layers.{last}.{leaf}"
    if routed and slot > 0:
        return f"model.layers.1.{'block_list.0' if config.router == 'token' else 'block'}.{slot - 1}.{leaf}"
    return f"model.layers.{slot}.{leaf}"


def described(c):
    d = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=c.hidden,
             intermediate_size=c.intermediate, num_hidden_layers=c.effective_layers, num_attention_heads=c.heads,
             num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=c.eps, rope_theta=c.theta,
             vocab_size=c.vocab, tie_word_embeddings=True, max_position_embeddings=c.context, torch_dtype="bfloat16",
             hidden_act="silu")
    if c.kind != "vanilla":
        d["recursive"] = dict(enable=True, num_recursion=c.recursions, sharing=c.sharing, ln_share=not c.rank)
    if c.rank:
        d["relaxation"] = dict(enable=True, lora=dict(r=c.rank, alpha=c.rank))
    if c.kind == "mor":
        sharing = dict(enable=True, num_recursion=c.recursions, sharing=c.sharing)
        d["kv_sharing"] = sharing if c.shared_kv else dict(enable=False)
        d["relaxation"] = dict(enable=False)
        d["mor"] = dict(enable=True, type=c.router, router_type="linear",
                        router_func="sigmoid" if c.router == "expert" else "softmax", alpha=c.alpha, temp=1.0,
                        gating="weighted", loss_free=False)
    if c.exits:
        d["exits"] = dict(enable=True, layers=list(c.exits), head="shared", signal="mlp" if c.exit_mlps else "margin")
    return d


def write(config, state, directory):
    shaped = lambda key, v: v[None] if key.startswith("routers") and v.dim() == 1 else v
    tensors = {stored_name(config, key): shaped(key, v).bfloat16().contiguous() for key, v in state.items()}
    assert len(tensors) == len(state)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(described(config), indent=2) + "\n")


def read(config, directory):
    """The stored (rounded) weights back in a float32 Model."""
    stored, model = load_file(directory / "model.safetensors"), Model(config)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    model.load_state_dict({k: stored[stored_name(config, k)].float().view(shape) for k, shape in shapes.items()})
    return model.eval()


@torch.no_grad()
def agree(model, directory, held):
    """Largest difference of the per-byte loss (at every exit) between model.py in float32 and reference.py in float64,
    and the number of different depths, on one window."""
    ids = held[5000:5000 + model.config.context]
    out = model(ids[None], causal_rule=True)
    run = reference.Run(reference.Checkpoint(directory), ids.tolist())
    if model.config.exits:
        logits = [model.head(out.states[e]) for e in model.config.exits] + [out.logits]
        theirs, depth = run.exits(), out.depth[0]
    else:
        logits, (theirs, depth, _) = [out.logits], run.score()
    ours = torch.stack([-l[0, :-1].double().log_softmax(-1).gather(1, ids[1:, None])[:, 0] for l in logits])
    return (ours - theirs).abs().max().item(), int((out.depth[0] != depth).sum())


def tidy(means):
    """Thresholds as a table of rows [threshold, mean layers, nats per byte] for each signal."""
    means = {n: round(v, 5) for n, v in means.items()}
    for signal in ("margin", "mlp"):
        if f"{signal}_{THRESHOLDS[0]}_layers" in means:
            means[f"{signal}_threshold_layers_nats"] = [
                [t, means.pop(f"{signal}_{t}_layers"), means.pop(f"{signal}_{t}_nats_per_byte")] for t in THRESHOLDS]
    return means


def log_lines(path):
    """The training log without the lines that a resumed run wrote again."""
    entries = {json.loads(line)["step"]: line for line in path.read_text().splitlines()} if path.exists() else {}
    return "".join(entries[step] + "\n" for step in sorted(entries))


def export(name, train, to):
    config, held = CONFIGS[name], corpus()[1]
    last = torch.load(train / name / "last.pt")
    write(config, last["model"], to)
    model = read(config, to)
    difference, other_depths = agree(model, to, held)
    started = time.time()
    means = tidy(evaluate(model, held, measure=with_exits if config.exits else standard))
    report = dict(model=name, steps=last["step"], seed=last.get("recipe", {}).get("seed", 1), batch=BATCH,
                  context=config.context, tokens_trained=last["step"] * BATCH * config.context, dropout=config.dropout,
                  parameters=sum(p.numel() for p in model.parameters()), weights="bf16",
                  held_out_bytes_scored=means.pop("bytes_scored"), stride=STRIDE, **means,
                  recursions=config.recursions if config.kind != "vanilla" else 1,
                  reference_max_difference=difference, reference_depth_differences=other_depths,
                  training_seconds=round(last["seconds"], 1), scoring_seconds=round(time.time() - started, 1))
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    if last["step"]:
        (LOGS / f"{name}.jsonl").write_text(log_lines(train / name / "log.jsonl"))
    print(json.dumps(report), flush=True)


def table():
    """Writes the rows of logs/*.json into README.md, between its two markers."""
    reports = [json.loads(path.read_text()) for path in sorted(LOGS.glob("*.json"))]
    lines = ["| model | parameters | steps | seed | nats per byte | mean depth |", "| --- |" + " --- |" * 5]
    for r in sorted(reports, key=lambda r: list(CONFIGS).index(r["model"])):
        lines.append(f"| `{r['model']}` | {r['parameters'] / 1e6:.2f} M | {r['steps']} | {r['seed']} "
                     f"| {r['nats_per_byte']:.3f} | {r['mean_depth']:.3f} of {r['recursions']} |")
    lines += ["", "| model | a token is answered | mean layers | nats per byte |", "| --- | --- | --- | --- |"]
    for r in reports:
        for e in CONFIGS[r["model"]].exits:
            lines.append(f"| `{r['model']}` | after {e} layers, of which {r[f'exit_{e}_agreement']:.3f} as at the end "
                         f"| {e} | {r[f'exit_{e}_nats_per_byte']:.3f} |")
        for key in [k for k in r if k.endswith("_threshold_layers_nats")]:
            for threshold, layers, nats in r[key]:
                lines.append(f"| `{r['model']}` | if {key.split('_')[0]} > {threshold} | {layers:.2f} | {nats:.3f} |")
    before, rest = README.read_text().split(MARKS[0])
    README.write_text(before + MARKS[0] + "\n\n" + "\n".join(lines) + "\n\n" + MARKS[1] + rest.split(MARKS[1])[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", choices=[*CONFIGS, []])
    parser.add_argument("--train", type=Path, default=TRAIN)
    parser.add_argument("--to", type=Path, help="default: DIR/export/NAME; of mor, the examples' resources")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    for name in a.models:
        export(name, a.train, a.to or (MOR_TARGET if name == "mor" else a.train / "export" / name))
    if a.table:
        table()


if __name__ == "__main__":
    main()
