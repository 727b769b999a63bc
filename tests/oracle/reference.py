# SPDX-License-Identifier: Apache-2.0
"""What inference must compute, as plainly as possible: one sequence, no caches, full attention with masks, float64.

Reads a Hugging Face directory (config.json, *.safetensors). Written from the formulas; shares no code with model.py
and none with the engine under test. `score(directory, ids)` is the entry point.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Checkpoint:
    """config.json plus every tensor, exactly widened to float64."""

    def __init__(self, directory):
        directory = Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        index = directory / "model.safetensors.index.json"
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
        self.tensors = {k: v.double() for f in files for k, v in load_file(directory / f).items()}

    def option(self, name):
        """The object `name` of config.json when present and enabled, else None."""
        value = self.config.get(name) or {}
        return value if value.get("enable") else None


def tied_to(layer, total, recursions, sharing):
    """The unrolled layer whose weights layer `layer` uses (spec: layer tying patterns)."""
    ends = sharing.startswith("middle_")
    if ends and layer in (0, total - 1):
        return layer
    inner, k = layer - ends, (total - 2 * ends) // recursions
    return ends + (inner % k if sharing.endswith("cycle") else inner // recursions * recursions)


def rope(config, length):
    """cos, sin [length, head_dim], half-split; with the llama3 rescaling of long wavelengths when asked for."""
    parameters = config.get("rope_parameters") or dict(config.get("rope_scaling") or {}, rope_theta=config.get("rope_theta", 10000.0))
    d = head_dim(config)
    frequencies = [parameters["rope_theta"] ** (-2.0 * i / d) for i in range(d // 2)]
    if parameters.get("rope_type", "default") == "llama3":
        low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
        span, factor = parameters["original_max_position_embeddings"], parameters["factor"]
        scaled = []
        for f in frequencies:
            wave = 2 * math.pi / f
            smooth = min(1.0, max(0.0, (span / wave - low) / (high - low)))  # 0: long wave, divide; 1: short wave, keep
            scaled.append((1 - smooth) * f / factor + smooth * f)
        frequencies = scaled
    angle = torch.outer(torch.arange(length).double(), torch.tensor(frequencies, dtype=torch.float64)).repeat(1, 2)
    return angle.cos(), angle.sin()


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def norm(x, gain, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain


class Run:
    """One forward pass over one sequence."""

    def __init__(self, checkpoint, ids):
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.ids = torch.tensor(ids)
        n = len(ids)
        self.cos, self.sin = rope(self.config, n)
        self.causal = torch.ones(n, n, dtype=torch.bool).tril()
        self.margins = []  # distances of router decisions from a tie

    def linear(self, x, weights, name):
        """weights(name) -> tensor or None. y = W x + (alpha / r) B (A x)."""
        y = x @ weights(name + ".weight").T
        a, b = weights(name + ".lora_A.weight"), weights(name + ".lora_B.weight")
        if a is not None:
            lora = self.config["relaxation"]["lora"]
            y = y + lora["alpha"] / lora["r"] * (x @ a.T) @ b.T
        return y

    def layer(self, x, weights, mask, shared=None):
        """A Llama layer. mask[query, key]; shared = (k, v) to use instead of this layer's own. Returns x and its (k, v)."""
        c, d, n = self.config, head_dim(self.config), x.shape[0]
        h = norm(x, weights("input_layernorm.weight"), c["rms_norm_eps"])
        heads = lambda name, count: self.linear(h, weights, "self_attn." + name).view(n, count, d).transpose(0, 1)
        q = rotate(heads("q_proj", c["num_attention_heads"]), self.cos, self.sin)
        k = rotate(heads("k_proj", c["num_key_value_heads"]), self.cos, self.sin)
        v = heads("v_proj", c["num_key_value_heads"])
        k, v = own = shared or (k, v)
        group = c["num_attention_heads"] // c["num_key_value_heads"]
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        p = (q @ k.transpose(1, 2) / math.sqrt(d)).masked_fill(~mask, -math.inf).softmax(-1)
        x = x + self.linear((p @ v).transpose(0, 1).reshape(n, -1), weights, "self_attn.o_proj")
        h = norm(x, weights("post_attention_layernorm.weight"), c["rms_norm_eps"])
        h = F.silu(self.linear(h, weights, "mlp.gate_proj")) * self.linear(h, weights, "mlp.up_proj")
        return x + self.linear(h, weights, "mlp.down_proj"), own

    def at(self, prefix, *fallbacks):
        """Weights below `prefix`; a tied copy that is not stored is found below one of the fallbacks."""
        def find(name):
            for p in (prefix, *fallbacks):
                if p + name in self.checkpoint.tensors:
                    return self.checkpoint.tensors[p + name]
        return find

    def router(self, x, prefix, mor):
        x = x / mor.get("temp", 1.0)
        t = self.checkpoint.tensors
        if mor["router_type"] == "linear":
            return x @ t[prefix + "mor_router.router.weight"].T
        return F.gelu(x @ t[prefix + "mor_router.router.0.weight"].T) @ t[prefix + "mor_router.router.2.weight"].T

    def block(self, x, k, weights, on, shared=None):
        """The k shared layers with attention among the tokens of `on` only (sharing: to all tokens' first-depth K, V)."""
        mask = self.causal if shared else (self.causal & on[None, :]) | torch.eye(len(on), dtype=torch.bool)
        kept = []
        for j in range(k):
            x, own = self.layer(x, weights(j), mask, shared[j] if shared else None)
            kept.append(own)
        return x, kept

    def expert_choice(self, x, mor, k, recursions, first):
        """H <- H + g f(H) for tokens still going; go on to depth r while z_r >= 0; depth 0 is unconditional."""
        on, depth, shared = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.long), None
        for r in range(recursions):
            prefix = f"model.layers.{first + r}."
            z = self.router(x, prefix, mor)[:, 0]
            if r > 0:
                self.margins += z[on].abs().tolist()
                on = on & (z >= 0)
            depth += on
            weights = lambda j: self.at(f"{prefix}block.{j}.", f"model.layers.{first}.block.{j}.")
            y, kept = self.block(x, k, weights, on, shared)
            if r == 0 and self.checkpoint.option("kv_sharing"):
                shared = kept
            g = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[mor["router_func"]](z) * mor["alpha"]
            if mor["gating"] == "additive":
                g = torch.ones_like(g)
            x = torch.where(on[:, None], x + g[:, None] * y, x)
        return x, depth

    def token_choice(self, x, mor, k, recursions, first):
        """i = argmax_j p_j (+ bias_j); out = x + p_i f^i(x), recursions in between ungated, attention among equals of a depth."""
        prefix = f"model.layers.{first}."
        logits = self.router(x, prefix, mor)
        p = {"softmax": lambda z: z.softmax(-1), "sigmoid": torch.sigmoid}[mor["router_func"]](logits) * mor["alpha"]
        scores = p + self.checkpoint.tensors[prefix + "router_bias"] if mor.get("loss_free") else p
        top = scores.topk(2, -1).values
        self.margins += (top[:, 0] - top[:, 1]).tolist()
        choice = scores.argmax(-1)
        h, out = x, x
        for r in range(recursions):
            on = choice >= r
            weights = lambda j: self.at(f"{prefix}block_list.{r}.{j}.", f"{prefix}block_list.0.{j}.")
            y, _ = self.block(h, k, weights, on)
            h = torch.where(on[:, None], y, h)
            out = torch.where((choice == r)[:, None], x + p[:, r:r + 1] * h, out)
        return out, choice + 1

    def hidden(self):
        c, t, n = self.config, self.checkpoint.tensors, len(self.ids)
        x, total = t["model.embed_tokens.weight"][self.ids], c["num_hidden_layers"]
        recursive, mor = self.checkpoint.option("recursive"), self.checkpoint.option("mor")
        if not mor:
            for l in range(total):
                source = tied_to(l, total, recursive["num_recursion"], recursive["sharing"]) if recursive else l
                x, _ = self.layer(x, self.at(f"model.layers.{l}.", f"model.layers.{source}."), self.causal)
            return x, torch.full((n,), recursive["num_recursion"] if recursive else 1)
        ends, recursions = recursive["sharing"].startswith("middle_"), recursive["num_recursion"]
        k = (total - 2 * ends) // recursions
        if ends:
            x, _ = self.layer(x, self.at("model.layers.0."), self.causal)
        choose = self.expert_choice if mor["type"] == "expert" else self.token_choice
        x, depth = choose(x, mor, k, recursions, int(ends))
        if ends:
            last = 2 if mor["type"] == "token" else 1 + recursions
            x, _ = self.layer(x, self.at(f"model.layers.{last}."), self.causal)
        return x, depth

    def score(self):
        """(nll of ids[1:], depth of each token, smallest distance of a router decision from a tie or None)."""
        c, t = self.config, self.checkpoint.tensors
        x, depth = self.hidden()
        head = t["model.embed_tokens.weight" if c.get("tie_word_embeddings") else "lm_head.weight"]
        logits = norm(x, t["model.norm.weight"], c["rms_norm_eps"]) @ head.T
        nll = -logits[:-1].log_softmax(-1).gather(1, self.ids[1:, None])[:, 0]
        return nll, depth, min(self.margins, default=None)


def score(directory, ids):
    return Run(Checkpoint(directory), ids).score()
