# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/models/t5_*/: tiny random encoder-decoders and what the reference computes for them.

python t5_golden.py. Deterministic; see tests/golden/README.md for the format.
"""
import json
import zlib

import torch
from safetensors.torch import save_file

from models_golden import OUT, store
from t5_reference import T5

SOURCES, TARGETS, MOST = (21, 1, 140), (9, 13, 5), 14
MARGIN = 2e-3  # no decision by less, so that float32 decides alike


class Kind:
    """A config as transformers writes it, and how to store the tensors. heads * d_kv is never d_model."""

    def __init__(self, dtype=torch.float32, copies=False, shards=1, new=False, **changed):  # new: as transformers 5 writes it
        self.dtype, self.copies, self.shards = dtype, copies, shards
        config = dict(architectures=["T5ForConditionalGeneration"], d_ff=72, d_kv=16, d_model=40, decoder_start_token_id=0,
                      dropout_rate=0.1, eos_token_id=1, feed_forward_proj="relu", initializer_factor=1.0, is_encoder_decoder=True,
                      layer_norm_epsilon=1e-6, model_type="t5", num_decoder_layers=3, num_heads=3, num_layers=2, pad_token_id=0,
                      relative_attention_max_distance=128, relative_attention_num_buckets=32, tie_word_embeddings=True,
                      use_cache=True, vocab_size=96)
        config["dtype" if new else "torch_dtype"] = str(dtype).split(".")[1]
        self.config = {**config, **changed}
        gated = self.config["feed_forward_proj"].startswith("gated-")
        self.config.update(is_gated_act=gated, dense_act_fn="gelu_new" if gated else "relu")


GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
KINDS = {
    "t5_1_0": Kind(),
    # what old conversions keep: copies of the embedding, and a bias of cross-attention that nothing reads
    "t5_1_0_copies": Kind(dtype=torch.bfloat16, copies=True, d_model=48, num_heads=4, num_layers=3, num_decoder_layers=2,
                          relative_attention_max_distance=20, relative_attention_num_buckets=8),
    "t5_1_1": Kind(**GATED, new=True, num_decoder_layers=4),
    "t5_1_1_mt5": Kind(**GATED, dtype=torch.float16, shards=2, architectures=["MT5ForConditionalGeneration"], model_type="mt5", d_ff=56,
                       d_model=56, num_heads=2, vocab_size=130),
    "t5_longt5_local": Kind(**GATED, architectures=["LongT5ForConditionalGeneration"], model_type="longt5", encoder_attention_type="local",
                            local_radius=7, global_block_size=16),
}


def weights(kind, seed):
    c, tensors, g = kind.config, {}, torch.Generator().manual_seed(seed)
    d, f, inner, heads = c["d_model"], c["d_ff"], c["num_heads"] * c["d_kv"], c["num_heads"]

    def put(name, *shape, scale, shift=0.0):
        tensors[name + ".weight"] = torch.randn(*shape, generator=g) * scale + shift

    def attention(prefix, bias=False):
        put(prefix + ".q", inner, d, scale=(d * c["d_kv"]) ** -0.5)
        put(prefix + ".k", inner, d, scale=1.5 * d ** -0.5)
        put(prefix + ".v", inner, d, scale=d ** -0.5)
        put(prefix + ".o", d, inner, scale=1.2 * loud * inner ** -0.5)
        if bias:
            put(prefix + ".relative_attention_bias", c["relative_attention_num_buckets"], heads, scale=1.0)

    def layer_norm(name, size=1.0):
        put(name, d, scale=0.2 * size, shift=size)

    def feed_forward(prefix):
        for name in ("wi_0", "wi_1") if c["feed_forward_proj"].startswith("gated") else ("wi",):
            put(f"{prefix}.{name}", f, d, scale=1.5 * d ** -0.5)
        put(prefix + ".wo", d, f, scale=1.5 * loud * f ** -0.5)

    # A tied head would mostly repeat its input if the embedding were a large part of the last state.
    loud = 8.0 if c["tie_word_embeddings"] else 1.0
    put("shared", c["vocab_size"], d, scale=1.0)
    own = "LocalSelfAttention" if c.get("encoder_attention_type") == "local" else "SelfAttention"
    for stack, layers in (("encoder", c["num_layers"]), ("decoder", c["num_decoder_layers"])):
        for i in range(layers):
            p = f"{stack}.block.{i}.layer."
            attention(f"{p}0.{own if stack == 'encoder' else 'SelfAttention'}", bias=i == 0)
            layer_norm(p + "0.layer_norm")
            if stack == "decoder":
                attention(p + "1.EncDecAttention", bias=i == 0 and kind.copies)
                layer_norm(p + "1.layer_norm")
            last = 2 if stack == "decoder" else 1
            feed_forward(f"{p}{last}.DenseReluDense")
            layer_norm(f"{p}{last}.layer_norm")
        layer_norm(stack + ".final_layer_norm", loud / 2 if stack == "decoder" and loud > 1 else 1.0)
    if not c["tie_word_embeddings"]:
        put("lm_head", c["vocab_size"], d, scale=1.5 * d ** -0.5)
    if kind.copies:
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"].clone()
    return {name: t.to(kind.dtype).contiguous() for name, t in tensors.items()}


def expectation(model, sources, targets):
    """expected.json, expected.safetensors' tensors, and the smallest margin of any decision."""
    expected, tensors, gaps = dict(source=sources, target=targets, nll=[], argmax=[], greedy=[]), {}, []
    for i, (source, target) in enumerate(zip(sources, targets)):
        memory, states, logits = model.forced(source, target)
        tensors[f"{i}.encoder"], tensors[f"{i}.states"] = memory.float(), states.float()
        nll = -logits[-1].log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0]
        expected["nll"].append(nll.tolist())
        expected["argmax"].append(logits.argmax(-1).tolist())
        top = logits.topk(2, -1).values
        gaps.append(float((top[..., 0] - top[..., 1]).min()))
        ids, _, margins = model.greedy(source, MOST)
        expected["greedy"].append(ids)
        gaps += margins
    shallow = model.decoder_layers // 2
    seen = sorted(c for source in sources for c in model.greedy(source, MOST, shallow)[1])
    threshold = round(seen[len(seen) // 2] + 0.01, 3)
    runs = [model.greedy(source, MOST, shallow, threshold) for source in sources]
    expected["free"] = dict(shallow=shallow, threshold=threshold, ids=[ids for ids, _, _ in runs],
                            early=[[int(c > threshold) for c in confidences] for _, confidences, _ in runs])
    gaps += [m for _, _, margins in runs for m in margins]
    return expected, tensors, min(gaps)


def make(name, kind):
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    draw = lambda n: torch.randint(2, kind.config["vocab_size"], (n,), generator=g).tolist()
    sources, targets = [draw(n) for n in SOURCES], [draw(n) for n in TARGETS]
    for seed in range(3000):  # the first model that has something to say, uses both exits and decides nothing by a hair
        tensors = weights(kind, seed)
        kind.config["eos_token_id"] = -1
        store(kind, tensors, OUT / name)
        texts = [T5(OUT / name).greedy(source, MOST)[0] for source in sources]
        ends = [ids[i] for ids in texts for i in range(MOST // 2, MOST - 1) if ids[i] not in ids[:i]]
        if not ends:  # the same few tokens over and over
            continue
        kind.config["eos_token_id"] = ends[0]
        store(kind, tensors, OUT / name)
        expected, tensors, margin = expectation(T5(OUT / name), sources, targets)
        early = [e for row in expected["free"]["early"] for e in row]
        if margin > MARGIN and 0 < sum(early) < len(early) and expected["free"]["ids"] != expected["greedy"]:
            break
    else:
        raise SystemExit(f"{name}: no suitable seed")
    expected["min_margin"] = margin
    (OUT / name / "expected.json").write_text(json.dumps(expected) + "\n")
    save_file(tensors, OUT / name / "expected.safetensors")
    size = sum(f.stat().st_size for f in (OUT / name).iterdir()) // 1024
    print(f"{name:18s} seed {seed} {size} KiB  margin {margin:.4f}  {sum(early)} of {len(early)} tokens leave early")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, kind in KINDS.items():
        make(name, kind)
