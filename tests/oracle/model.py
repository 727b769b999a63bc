# SPDX-License-Identifier: Apache-2.0
"""Training-time model: Llama layers, either all distinct, or one shared block recursed, or Mixture-of-Recursions.

Written for speed in training (top-k rows are gathered, so skipped work is skipped). The independent, slow and obvious
definition of what inference must compute is reference.py; train.py compares both on the exported weights.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    name: str
    kind: str  # "vanilla" | "recursive" | "mor": recursive and mor are middle_cycle (own first and last layer)
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 768
    vocab: int = 256
    context: int = 512
    block_layers: int = 2
    recursions: int = 3
    alpha: float = 0.1
    aux_loss: float = 0.001
    dropout: float = 0.1
    eps: float = 1e-5
    theta: float = 10000.0

    @property
    def effective_layers(self) -> int:
        return 2 + self.block_layers * self.recursions


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
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        d, q, kv = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(config), Norm(config)
        self.self_attn = nn.ModuleDict(dict(q_proj=linear(d, q), k_proj=linear(d, kv), v_proj=linear(d, kv), o_proj=linear(q, d)))
        self.mlp = nn.ModuleDict(dict(gate_proj=linear(d, config.intermediate), up_proj=linear(d, config.intermediate),
                                      down_proj=linear(config.intermediate, d)))

    def forward(self, x, cos, sin, mask=None):
        """x [B,T,d]; cos, sin [B or 1,1,T,head_dim] of the true positions; mask None = causal in row order."""
        c, a = self.config, self.self_attn
        split = lambda y, n: y.view(y.shape[0], y.shape[1], n, c.head_dim).transpose(1, 2)
        h = self.input_layernorm(x)
        q, k, v = split(a.q_proj(h), c.heads), split(a.k_proj(h), c.kv_heads), split(a.v_proj(h), c.kv_heads)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        group = c.heads // c.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + F.dropout(a.o_proj(y.transpose(1, 2).flatten(2)), c.dropout, self.training)
        h = self.post_attention_layernorm(x)
        h = self.mlp.down_proj(F.silu(self.mlp.gate_proj(h)) * self.mlp.up_proj(h))
        return x + F.dropout(h, c.dropout, self.training)


class Model(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.hidden)
        distinct = config.effective_layers if config.kind == "vanilla" else config.block_layers + 2
        self.layers = nn.ModuleList(Layer(config) for _ in range(distinct))
        self.norm = Norm(config)
        self.routers = nn.ParameterList(torch.zeros(config.hidden)
                                        for _ in range(config.recursions if config.kind == "mor" else 0))
        for p in self.parameters():
            if p.dim() == 2 or p in set(self.routers):
                nn.init.normal_(p, std=0.02)
        cos, sin = rope_table(config, config.context)
        self.register_buffer("cos", cos[None, None], persistent=False)
        self.register_buffer("sin", sin[None, None], persistent=False)

    def forward(self, ids, causal_rule=False):
        """Returns logits [B,T,V], the auxiliary loss, and the depth taken by every token [B,T].

        causal_rule=False: training, top-k over the sequence. True: inference, token goes on while its router logit >= 0."""
        c, (b, t) = self.config, ids.shape
        cos, sin = self.cos[:, :, :t], self.sin[:, :, :t]
        x = F.dropout(self.embed(ids), c.dropout, self.training)
        x = self.layers[0](x, cos, sin)
        aux = x.new_zeros(())
        depth = torch.full((b, t), 1 if c.kind == "vanilla" else c.recursions)
        if c.kind == "vanilla":
            for layer in self.layers[1:-1]:
                x = layer(x, cos, sin)
        elif c.kind == "recursive":
            for _ in range(c.recursions):
                x = self.block(x, cos, sin)
        elif causal_rule:
            x, depth = self.recurse_causally(x, cos, sin)
        else:
            x, aux = self.recurse_top_k(x, cos, sin)
        x = self.norm(self.layers[-1](x, cos, sin))
        return F.linear(x, self.embed.weight), aux, depth

    def block(self, x, cos, sin, mask=None):
        for layer in self.layers[1:-1]:
            x = layer(x, cos, sin, mask)
        return x

    def recurse_top_k(self, x, cos, sin):
        c, (b, t, d) = self.config, x.shape
        aux, chosen = 0.0, torch.arange(t).expand(b, t)  # absolute positions that passed so far
        for r, router in enumerate(self.routers):
            wide = chosen[..., None].expand(-1, -1, d)
            h = x if r == 0 else x.gather(1, wide)
            z = (h.float() * router).sum(-1)
            k = max(1, int((c.recursions - r) / c.recursions * t))
            pick = z.topk(k, dim=1).indices.sort(dim=1).values  # sorted = causal order
            target = torch.zeros_like(z).scatter(1, pick, 1.0)
            aux = aux + F.binary_cross_entropy_with_logits(z, target)
            if r > 0:
                chosen = chosen.gather(1, pick)
                wide = chosen[..., None].expand(-1, -1, d)
                h = x.gather(1, wide)
            table = lambda w: w[0, 0][chosen][:, None]  # rotary angles of the true positions
            y = self.block(h, cos if r == 0 else table(cos), sin if r == 0 else table(sin))
            g = c.alpha * torch.sigmoid(z.gather(1, pick))
            h = h + g[..., None] * y  # H <- H + g f(H)
            x = h if r == 0 else x.scatter(1, wide, h)
        return x, c.aux_loss * aux

    def recurse_causally(self, x, cos, sin):
        c, (b, t, d) = self.config, x.shape
        on = torch.ones(b, t, dtype=torch.bool)
        depth = torch.zeros(b, t, dtype=torch.long)
        lower, diagonal = torch.ones(t, t, dtype=torch.bool).tril(), torch.eye(t, dtype=torch.bool)
        for r, router in enumerate(self.routers):
            z = (x.float() * router).sum(-1)
            if r > 0:
                on = on & (z >= 0)
            depth += on
            mask = ((lower & on[:, None, :]) | diagonal)[:, None]  # the diagonal keeps rows of skipped tokens finite
            y = self.block(x, cos, sin, mask)
            x = torch.where(on[..., None], x + c.alpha * torch.sigmoid(z)[..., None] * y, x)
        return x, depth
