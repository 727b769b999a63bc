# SPDX-License-Identifier: Apache-2.0
"""What inference of a T5 must compute, as plainly as possible: one source, one target, no caches, masks, float64.

Reads a Hugging Face directory of T5 1.0 (ReLU, tied head scaled by d_model^-0.5), T5 1.1 and mT5 (gated GELU, head of its
own), or LongT5 with a local encoder (a window on both sides). Written from the formulas.
"""
import math

import torch
import torch.nn.functional as F

from reference import Checkpoint, norm
from relative import bucket


def activation(config):
    """(gated, function) of the feed-forward layer."""
    kind = config["feed_forward_proj"]
    gated, name = kind.startswith("gated-"), kind.removeprefix("gated-")
    tanh = lambda x: F.gelu(x, approximate="tanh")
    return gated, {"relu": F.relu, "gelu": tanh if gated else F.gelu, "gelu_new": tanh, "silu": F.silu}[name]


class T5:
    def __init__(self, directory):
        self.checkpoint = Checkpoint(directory)
        self.config, self.tensors = self.checkpoint.config, self.checkpoint.tensors
        self.gated, self.act = activation(self.config)
        self.decoder_layers = self.config.get("num_decoder_layers") or self.config["num_layers"]
        self.tied = self.config.get("tie_word_embeddings", True)

    def norm(self, x, name):
        return norm(x, self.tensors[name + ".weight"], self.config["layer_norm_epsilon"])

    def bias(self, stack, attention, n, bidirectional):
        """[heads, n, n], of layer 0 for all layers: table[bucket(key - query)]."""
        c, table = self.config, self.tensors[f"{stack}.block.0.layer.0.{attention}.relative_attention_bias.weight"]
        sizes = c["relative_attention_num_buckets"], c.get("relative_attention_max_distance", 128)
        rows = [[bucket(k - q, bidirectional, *sizes) for k in range(n)] for q in range(n)]
        return table[torch.tensor(rows)].permute(2, 0, 1)

    def attend(self, prefix, x, memory, mask, bias=0.0):
        """softmax(q k + bias) v, without a scale. mask[query, key]."""
        heads = lambda y, name: (y @ self.tensors[f"{prefix}.{name}.weight"].T).view(
            len(y), self.config["num_heads"], self.config["d_kv"]).transpose(0, 1)
        q, k, v = heads(x, "q"), heads(memory, "k"), heads(memory, "v")
        p = (q @ k.transpose(1, 2) + bias).masked_fill(~mask, -math.inf).softmax(-1)
        return (p @ v).transpose(0, 1).reshape(len(x), -1) @ self.tensors[prefix + ".o.weight"].T

    def feed_forward(self, prefix, x):
        t = self.tensors
        if self.gated:
            y = self.act(x @ t[prefix + ".wi_0.weight"].T) * (x @ t[prefix + ".wi_1.weight"].T)
        else:
            y = self.act(x @ t[prefix + ".wi.weight"].T)
        return y @ t[prefix + ".wo.weight"].T

    def encode(self, source):
        """[source, d_model], after the final norm."""
        x, n = self.tensors["shared.weight"][torch.tensor(source)], len(source)
        local = self.config.get("encoder_attention_type") == "local"
        attention = "LocalSelfAttention" if local else "SelfAttention"
        mask = torch.ones(n, n, dtype=torch.bool)
        if local:
            at = torch.arange(n)
            mask = (at[:, None] - at[None, :]).abs() <= self.config["local_radius"]
        bias = self.bias("encoder", attention, n, True)
        for i in range(self.config["num_layers"]):
            p = f"encoder.block.{i}.layer."
            h = self.norm(x, p + "0.layer_norm")
            x = x + self.attend(p + "0." + attention, h, h, mask, bias)
            x = x + self.feed_forward(p + "1.DenseReluDense", self.norm(x, p + "1.layer_norm"))
        return self.norm(x, "encoder.final_layer_norm")

    def decode(self, inputs, memory):
        """States [layers, inputs, d_model]: the residual stream behind each layer, before the final norm."""
        x, n = self.tensors["shared.weight"][torch.tensor(inputs)], len(inputs)
        causal, all_of_it = torch.ones(n, n, dtype=torch.bool).tril(), torch.ones(n, len(memory), dtype=torch.bool)
        bias = self.bias("decoder", "SelfAttention", n, False)
        states = []
        for i in range(self.decoder_layers):
            p = f"decoder.block.{i}.layer."
            h = self.norm(x, p + "0.layer_norm")
            x = x + self.attend(p + "0.SelfAttention", h, h, causal, bias)
            x = x + self.attend(p + "1.EncDecAttention", self.norm(x, p + "1.layer_norm"), memory, all_of_it)
            x = x + self.feed_forward(p + "2.DenseReluDense", self.norm(x, p + "2.layer_norm"))
            states.append(x)
        return torch.stack(states)

    def head(self, state):
        """Logits of a state behind any layer: the final norm and the one head serve every exit."""
        x = self.norm(state, "decoder.final_layer_norm")
        if self.tied:
            return self.config["d_model"] ** -0.5 * x @ self.tensors["shared.weight"].T
        return x @ self.tensors["lm_head.weight"].T

    def forced(self, source, target):
        """(encoder output, states [layers, target, d_model], logits [layers, target, vocab]) for a given target."""
        memory = self.encode(source)
        states = self.decode([self.config["decoder_start_token_id"], *target[:-1]], memory)
        return memory, states, self.head(states)

    def greedy(self, source, most, shallow=None, threshold=math.inf):
        """Greedy decoding of at most `most` tokens: (ids, confidence at the shallow exit per token, margins).

        shallow: FREE's exit behind so many layers. A token leaves there if the two largest probabilities differ by more
        than the threshold. Tokens that left get the K,V of the deep layers later, from their own states, so what they
        compute is full depth for all that follow: only the choice of logits differs. margins: the smallest gap between
        the two largest logits of a choice, and between a confidence and the threshold.
        """
        memory, ids, confidences, gaps = self.encode(source), [], [], []
        while len(ids) < most and (not ids or ids[-1] != self.config["eos_token_id"]):
            states = self.decode([self.config["decoder_start_token_id"], *ids], memory)[:, -1]
            logits = self.head(states[-1])
            if shallow is not None:
                early = self.head(states[shallow - 1])
                top = early.softmax(-1).topk(2).values
                confidences.append(float(top[0] - top[1]))
                gaps.append(abs(confidences[-1] - threshold))
                if confidences[-1] > threshold:
                    logits = early
            top = logits.topk(2).values
            gaps.append(float(top[0] - top[1]))
            ids.append(int(logits.argmax()))
        return ids, confidences, gaps
