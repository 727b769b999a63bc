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
        files = ["model.safetensors"]
        if index.exists():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
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
    parameters = config.get("rope_parameters")
    if not parameters:
        parameters = dict(config.get("rope_scaling") or {}, rope_theta=config.get("rope_theta", 10000.0))
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

    def __init__(self, checkpoint, ids, depth_cap=None, top_k=False):
        """depth_cap: the most recursions of a routed model to take. top_k: expert choice by training's rule."""
        self.checkpoint, self.config, self.depth_cap, self.top_k = checkpoint, checkpoint.config, depth_cap, top_k
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

    def heads(self, h, weights, name, count):
        return self.linear(h, weights, "self_attn." + name).view(len(h), count, head_dim(self.config)).transpose(0, 1)

    def kv(self, x, weights, at=slice(None)):
        """K (rotated) and V [kv_heads, rows, head_dim] that a layer computes for rows x at positions `at`."""
        n = self.config["num_key_value_heads"]
        h = norm(x, weights("input_layernorm.weight"), self.config["rms_norm_eps"])
        k, v = (self.heads(h, weights, name, n) for name in ("k_proj", "v_proj"))
        return rotate(k, self.cos[at], self.sin[at]), v

    def layer(self, x, weights, mask, kv=None, at=slice(None)):
        """A Llama layer over rows x at positions `at`. mask[row, key]; kv: what the rows see, by default their own."""
        c, n = self.config, self.config["num_attention_heads"]
        h = norm(x, weights("input_layernorm.weight"), c["rms_norm_eps"])
        q = rotate(self.heads(h, weights, "q_proj", n), self.cos[at], self.sin[at])
        k, v = (t.repeat_interleave(n // c["num_key_value_heads"], 0) for t in kv or self.kv(x, weights, at))
        p = (q @ k.transpose(1, 2) / math.sqrt(head_dim(c))).masked_fill(~mask, -math.inf).softmax(-1)
        x = x + self.linear((p @ v).transpose(0, 1).reshape(len(x), -1), weights, "self_attn.o_proj")
        h = norm(x, weights("post_attention_layernorm.weight"), c["rms_norm_eps"])
        h = F.silu(self.linear(h, weights, "mlp.gate_proj")) * self.linear(h, weights, "mlp.up_proj")
        return x + self.linear(h, weights, "mlp.down_proj")

    def at(self, prefix, *fallbacks):
        """Weights below `prefix`; a tied copy that is not stored is found below one of the fallbacks."""
        def find(name):
            for p in (prefix, *fallbacks):
                if p + name in self.checkpoint.tensors:
                    return self.checkpoint.tensors[p + name]
        return find

    def router(self, x, prefix, mor, name="mor_router"):
        t, prefix = self.checkpoint.tensors, f"{prefix}{name}.router."
        if mor["router_type"] == "linear":
            return x @ t[prefix + "weight"].T
        return F.gelu(x @ t[prefix + "0.weight"].T) @ t[prefix + "2.weight"].T

    def block(self, x, k, weights, on, first=None):
        """The k shared layers, with attention among the tokens of `on` only. Under K,V sharing: to all tokens' K, V of
        depth 0 (`first`, one per layer), or (update_cache) of this depth where a token has them, of depth 0 elsewhere.
        Returns x and each layer's own K, V."""
        kept = []
        for j in range(k):
            own = seen = self.kv(x, weights(j))
            mask = self.causal
            if first is None:
                mask = (mask & on[None, :]) | torch.eye(len(on), dtype=torch.bool)
            elif self.checkpoint.option("kv_sharing").get("update_cache"):
                seen = [torch.where(on[:, None], a, b) for a, b in zip(own, first[j])]
            else:
                seen = first[j]
            x = self.layer(x, weights(j), mask, seen)
            kept.append(own)
        return x, kept

    def expert_choice(self, x, mor, k, recursions, first):
        """H <- H + g f(H) for tokens still going; go on to depth r while z_r >= 0; depth 0 is unconditional. An
        auxiliary router (sampling: aux_router), fed without temperature, decides in place of z. top_k: training's rule,
        over the whole text: the max(1, int((recursions - r) / recursions * T)) candidates of highest z, ties to the
        first."""
        on, depth, shared = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.long), None
        for r in range(min(recursions, self.depth_cap or recursions)):
            prefix = f"model.layers.{first + r}."
            z = self.router(x / mor.get("temp", 1.0), prefix, mor)[:, 0]
            if r > 0 and self.top_k:
                ordered = sorted(on.nonzero()[:, 0].tolist(), key=lambda i: (-z[i].item(), i))
                count = max(1, int((recursions - r) / recursions * len(x)))
                if count < len(ordered):
                    self.margins.append((z[ordered[count - 1]] - z[ordered[count]]).item())
                on = torch.zeros_like(on).index_fill(0, torch.tensor(ordered[:count]), True)
            elif r > 0:
                score = self.router(x, prefix, mor, "mlp_router")[:, 0] if mor.get("sampling") == "aux_router" else z
                self.margins += score[on].abs().tolist()
                on = on & (score >= 0)
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
        """i = argmax_j p_j (+ bias_j); out = x + p_i f^i(x), recursions in between ungated, attention among equals of a
        depth. A depth cap makes i = min(i, cap - 1), as if the token had chosen so."""
        prefix = f"model.layers.{first}."
        logits = self.router(x / mor.get("temp", 1.0), prefix, mor)
        p = {"softmax": lambda z: z.softmax(-1), "sigmoid": torch.sigmoid}[mor["router_func"]](logits) * mor["alpha"]
        scores = p + self.checkpoint.tensors[prefix + "router_bias"] if mor.get("loss_free") else p
        top = scores.topk(2, -1).values
        self.margins += (top[:, 0] - top[:, 1]).tolist()
        choice = scores.argmax(-1).clamp(max=(self.depth_cap or recursions) - 1)
        h, out, shared = x, x, None
        for r in range(recursions):
            on = choice >= r
            weights = lambda j: self.at(f"{prefix}block_list.{r}.{j}.", f"{prefix}block_list.0.{j}.")
            y, kept = self.block(h, k, weights, on, shared)
            if r == 0 and self.checkpoint.option("kv_sharing"):
                shared = kept
            h = torch.where(on[:, None], y, h)
            out = torch.where((choice == r)[:, None], x + p[:, r:r + 1] * h, out)
        return out, choice + 1

    def weights(self, l):
        """Layer l of a model without routers, counted as unrolled."""
        recursive, total = self.checkpoint.option("recursive"), self.config["num_hidden_layers"]
        source = tied_to(l, total, recursive["num_recursion"], recursive["sharing"]) if recursive else l
        return self.at(f"model.layers.{l}.", f"model.layers.{source}.")

    def states(self):
        """The residual stream of a model without routers: the embedding, then the output of every layer."""
        states = [self.checkpoint.tensors["model.embed_tokens.weight"][self.ids]]
        for l in range(self.config["num_hidden_layers"]):
            states.append(self.layer(states[-1], self.weights(l), self.causal))
        return states

    def hidden(self):
        c, t, n = self.config, self.checkpoint.tensors, len(self.ids)
        recursive, mor = self.checkpoint.option("recursive"), self.checkpoint.option("mor")
        if not mor:
            return self.states()[-1], torch.full((n,), recursive["num_recursion"] if recursive else 1)
        x, total = t["model.embed_tokens.weight"][self.ids], c["num_hidden_layers"]
        ends, recursions = recursive["sharing"].startswith("middle_"), recursive["num_recursion"]
        k = (total - 2 * ends) // recursions
        if ends:
            x = self.layer(x, self.at("model.layers.0."), self.causal)
        choose = self.expert_choice if mor["type"] == "expert" else self.token_choice
        x, depth = choose(x, mor, k, recursions, int(ends))
        if ends:
            last = 2 if mor["type"] == "token" else 1 + recursions
            x = self.layer(x, self.at(f"model.layers.{last}."), self.causal)
        return x, depth

    def normed(self, x):
        """What the head, and a learned exit head, sees of hidden rows x."""
        return norm(x, self.checkpoint.tensors["model.norm.weight"], self.config["rms_norm_eps"])

    def logits(self, x):
        tied = self.config.get("tie_word_embeddings")
        return self.normed(x) @ self.checkpoint.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def nll(self, x):
        """Of ids[1:], given the hidden rows of all ids."""
        return -self.logits(x[:-1]).log_softmax(-1).gather(1, self.ids[1:, None])[:, 0]

    def score(self):
        """(nll of ids[1:], depth of each token, smallest distance of a router decision from a tie or None)."""
        x, depth = self.hidden()
        return self.nll(x), depth, min(self.margins, default=None)

    def exits(self):
        """nll of ids[1:] if all were answered at each exit of config.json in turn, last at the end [exits + 1, n-1]."""
        states, layers = self.states(), (*self.config["exits"]["layers"], self.config["num_hidden_layers"])
        return torch.stack([self.nll(states[l]) for l in layers])


def score(directory, ids):
    return Run(Checkpoint(directory), ids).score()
