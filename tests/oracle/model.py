# SPDX-License-Identifier: Apache-2.0
"""Training-time models: Llama layers, distinct, or looped (with LoRA and norms per depth), or Mixture-of-Recursions.

Written for speed in training (routed rows are gathered, so skipped work is skipped). The independent, slow and obvious
definition of what inference must compute is reference.py; export.py compares both on the exported weights.
"""
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Config:
    name: str
    kind: str  # "vanilla" | "recursive" | "mor" (always middle_cycle: own first and last layer)
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 768
    vocab: int = 256
    context: int = 512
    sharing: str = "middle_cycle"  # or "cycle": nothing but the loop
    block_layers: int = 2
    recursions: int = 3
    rank: int = 0  # of the LoRA pairs of every linear at every depth; then norm gains are per depth, too
    exits: tuple = ()  # numbers of layers after which a token can be answered by the model's own norm and head
    exit_mlps: bool = False  # each exit has a classifier of the normed state: would the full model answer the same?
    router: str = "expert"  # or "token"
    shared_kv: bool = False  # every depth attends to the K, V of depth 0
    aux_loss: float = 0.001  # expert choice
    balance_loss: float = 0.1  # token choice
    dropout: float = 0.1
    eps: float = 1e-5
    theta: float = 10000.0

    @property
    def ends(self) -> int:
        return int(self.sharing == "middle_cycle")

    @property
    def effective_layers(self) -> int:
        return 2 * self.ends + self.block_layers * self.recursions

    @property
    def alpha(self) -> float:
        return 0.1 if self.router == "expert" else 1.0

    def slot(self, layer: int) -> int:
        """The stored layer that unrolled layer `layer` uses."""
        if self.kind == "vanilla" or layer < self.ends:
            return layer
        if self.ends and layer == self.effective_layers - 1:
            return self.ends + self.block_layers
        return self.ends + (layer - self.ends) % self.block_layers


class Output(NamedTuple):
    logits: torch.Tensor  # [B,T,V]
    aux: torch.Tensor  # loss of the routers
    depth: torch.Tensor  # [B,T] recursions taken
    states: list  # residual stream before the first and after every layer; [] when routed


def rope_table(config: Config, length: int):
    """cos, sin of [length, head_dim]: half-split layout, angle = position * theta^(-2i/head_dim)."""
    inverse = config.theta ** (-torch.arange(0, config.head_dim, 2).double() / config.head_dim)
    angle = torch.outer(torch.arange(length).double(), inverse)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


class Norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(config.hidden)), config.eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, config: Config, norms=True):
        super().__init__()
        self.config = config
        d, q, kv = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        if norms:
            self.input_layernorm, self.post_attention_layernorm = Norm(config), Norm(config)
        self.self_attn = nn.ModuleDict(dict(q_proj=linear(d, q), k_proj=linear(d, kv), v_proj=linear(d, kv),
                                            o_proj=linear(q, d)))
        self.mlp = nn.ModuleDict(dict(gate_proj=linear(d, config.intermediate), up_proj=linear(d, config.intermediate),
                                      down_proj=linear(config.intermediate, d)))

    def weight(self, name):
        return self.get_submodule(name).weight

    def forward(self, x, cos, sin, mask=None, relaxed=None, kv=None):
        """x [B,T,d]; cos, sin [B or 1,1,T,head_dim] of the true positions; mask None = causal in row order; relaxed:
        norms and LoRA of this depth; kv: attend to these K, V, not to the layer's own. Returns x and the K, V used."""
        c, own = self.config, relaxed or self

        def linear(name, h):
            y = F.linear(h, self.weight(name))
            return y if relaxed is None else y + relaxed.delta(name, h)

        split = lambda y, n: y.view(y.shape[0], y.shape[1], n, c.head_dim).transpose(1, 2)
        h = own.input_layernorm(x)
        q = split(linear("self_attn.q_proj", h), c.heads)
        q = rotate(q, cos, sin).to(q.dtype)
        if kv is None:
            k, v = split(linear("self_attn.k_proj", h), c.kv_heads), split(linear("self_attn.v_proj", h), c.kv_heads)
            kv = rotate(k, cos, sin).to(k.dtype), v
        k, v = (t.repeat_interleave(c.heads // c.kv_heads, 1) for t in kv)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        y = linear("self_attn.o_proj", y.transpose(1, 2).flatten(2))
        x = x + F.dropout(y, c.dropout, self.training)
        h = own.post_attention_layernorm(x)
        y = linear("mlp.down_proj", F.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h))
        return x + F.dropout(y, c.dropout, self.training), kv


class Relaxation(nn.Module):
    """What an unrolled layer has of its own: norm gains, and for each linear a pair: y = W x + B (A x)."""

    def __init__(self, config: Config, layer: Layer):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(config), Norm(config)
        shapes = {name.replace(".", "_"): layer.weight(name).shape for name in LINEARS}
        self.lora_A = nn.ParameterDict({n: torch.zeros(config.rank, i) for n, (o, i) in shapes.items()})
        self.lora_B = nn.ParameterDict({n: torch.zeros(o, config.rank) for n, (o, i) in shapes.items()})

    def delta(self, name, x):
        name = name.replace(".", "_")
        return F.linear(F.linear(x, self.lora_A[name]), self.lora_B[name])


class Model(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.hidden)
        distinct = config.effective_layers if config.kind == "vanilla" else config.block_layers + 2 * config.ends
        self.layers = nn.ModuleList(Layer(config, norms=not config.rank) for _ in range(distinct))
        self.norm = Norm(config)
        shapes = ([] if config.kind != "mor" else [(config.hidden,)] * config.recursions if config.router == "expert"
                  else [(config.recursions, config.hidden)])
        self.routers = nn.ParameterList(torch.zeros(shape) for shape in shapes)
        for p in self.parameters():
            if p.dim() == 2 or p in set(self.routers):
                nn.init.normal_(p, std=0.02)
        d, depths = config.hidden, config.effective_layers if config.rank else 0
        self.relaxed = nn.ModuleList(Relaxation(config, self.layers[0]) for _ in range(depths))
        self.exit_mlps = nn.ModuleList(nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 2))
                                       for _ in (config.exits if config.exit_mlps else ()))
        cos, sin = rope_table(config, config.context)
        self.register_buffer("cos", cos[None, None], persistent=False)
        self.register_buffer("sin", sin[None, None], persistent=False)

    def head(self, x):
        return F.linear(self.norm(x), self.embed.weight)

    def forward(self, ids, causal_rule=False) -> Output:
        """causal_rule: expert choice as at inference, on while the router logit >= 0, not by top-k over the text."""
        c, (b, t) = self.config, ids.shape
        cos, sin = self.cos[:, :, :t], self.sin[:, :, :t]
        x = F.dropout(self.embed(ids), c.dropout, self.training)
        if c.kind == "mor":
            x, _ = self.layers[0](x, cos, sin)
            recurse = self.by_choice if c.router == "token" else self.by_threshold if causal_rule else self.by_top_k
            x, aux, depth = recurse(x, cos, sin)
            x, _ = self.layers[-1](x, cos, sin)
            return Output(self.head(x), aux, depth, [])
        states = [x]
        for l in range(c.effective_layers):
            x, _ = self.layers[c.slot(l)](x, cos, sin, relaxed=self.relaxed[l] if c.rank else None)
            states.append(x)
        depth = torch.full((b, t), 1 if c.kind == "vanilla" else c.recursions)
        return Output(self.head(x), x.new_zeros(()), depth, states)

    def block(self, x, cos, sin, mask=None, first=None):
        """The shared layers; first: K, V of depth 0 to attend to, one pair per layer. Returns x and those used."""
        kept = []
        for j, layer in enumerate(self.layers[1:-1]):
            x, kv = layer(x, cos, sin, mask, kv=first[j] if first else None)
            kept.append(kv)
        return x, kept

    def chosen_block(self, h, chosen, cos, sin, first):
        """The block at depth > 0 for rows h [B,k,d] at positions chosen [B,k], ascending: they see each other, or, with
        `first`, the depth-0 K, V of all tokens up to their own."""
        table = lambda w: w[0, 0][chosen][:, None]  # rotary angles of the true positions
        mask = (torch.arange(cos.shape[2]) <= chosen[..., None])[:, None] if first else None
        return self.block(h, table(cos), table(sin), mask, first)[0]

    def by_top_k(self, x, cos, sin):
        """Expert choice in training: each depth takes its share of the text, from the tokens that passed the last."""
        c, (b, t, d) = self.config, x.shape
        aux, chosen, first = 0.0, torch.arange(t).expand(b, t), None  # absolute positions that passed so far
        for r, router in enumerate(self.routers):
            wide = chosen[..., None].expand(-1, -1, d)
            h = x if r == 0 else x.gather(1, wide)
            z = (h.float() * router).sum(-1)
            k = max(1, int((c.recursions - r) / c.recursions * t))
            pick = z.topk(k, dim=1).indices.sort(dim=1).values  # sorted = causal order
            target = torch.zeros_like(z).scatter(1, pick, 1.0)
            aux = aux + F.binary_cross_entropy_with_logits(z, target)
            g = c.alpha * torch.sigmoid(z.gather(1, pick))[..., None]
            if r == 0:
                y, kept = self.block(x, cos, sin)
                first = kept if c.shared_kv else None
                x = x + g * y  # H <- H + g f(H)
            else:
                chosen = chosen.gather(1, pick)
                wide = chosen[..., None].expand(-1, -1, d)
                h = x.gather(1, wide)
                x = x.scatter(1, wide, h + g * self.chosen_block(h, chosen, cos, sin, first))
        return x, c.aux_loss * aux, torch.full((b, t), c.recursions)

    def by_threshold(self, x, cos, sin):
        """Expert choice at inference, for evaluation only: all rows are computed, masks decide."""
        c, (b, t, d) = self.config, x.shape
        on, first = torch.ones(b, t, dtype=torch.bool), None
        depth = torch.zeros(b, t, dtype=torch.long)
        lower, diagonal = torch.ones(t, t, dtype=torch.bool).tril(), torch.eye(t, dtype=torch.bool)
        for r, router in enumerate(self.routers):
            z = (x.float() * router).sum(-1)
            if r > 0:
                on = on & (z >= 0)
            depth += on
            mask = None if first else ((lower & on[:, None, :]) | diagonal)[:, None]  # (diagonal: no row is empty)
            y, kept = self.block(x, cos, sin, mask, first)
            if c.shared_kv and r == 0:
                first = kept
            x = torch.where(on[..., None], x + c.alpha * torch.sigmoid(z)[..., None] * y, x)
        return x, x.new_zeros(()), depth

    def by_choice(self, x, cos, sin):
        """Token choice, the same in training and inference: out = x + p_i f^i(x), i = argmax p."""
        c, (b, t, d) = self.config, x.shape
        p = F.linear(x.float(), self.routers[0]).softmax(-1)
        choice = p.argmax(-1)
        share = c.recursions * F.one_hot(choice, c.recursions).float().mean((0, 1))
        h, kept = self.block(x, cos, sin)
        for r in range(1, c.recursions):
            on = choice >= r
            width = int(on.sum(1).max())
            if width == 0:
                break
            order = (~on).int().argsort(stable=True, dim=1)[:, :width]  # the tokens that go on, in order; then padding
            real, wide = on.gather(1, order)[..., None], order[..., None].expand(-1, -1, d)
            rows = h.gather(1, wide)
            y = self.chosen_block(rows, order, cos, sin, kept if c.shared_kv else None)
            h = h.scatter(1, wide, torch.where(real, y, rows).to(h.dtype))
        x = x + p.gather(-1, choice[..., None]) * h
        return x, c.balance_loss * (p.mean((0, 1)) * share).sum(), choice + 1
