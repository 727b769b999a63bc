# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/exits/: what early exits must compute. python exits_golden.py. Deterministic.

Format: tests/golden/README.md. Decoding here is one token at a time over plain dictionaries of K and V, each policy for
skipped layers written as its definition reads. With K,V deferred exactly it is checked against reference.py, which
knows no steps and no caches.
"""
import json
import math
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from models_golden import ALL, MOR, Kind, expert, make, recursion, store, token, weights
from reference import Checkpoint, Run

OUT = Path(__file__).resolve().parent.parent / "golden" / "exits"
COUNT, APART = 40, 1e-3  # tokens of a case; least distance of a signal from its threshold

EXITS = {
    "plain": (Kind(layers=5, dtype=torch.bfloat16), (2, 3, 4)),
    "recursive": (Kind(layers=6, dtype=torch.bfloat16, recursive=recursion(3, "cycle")), (2, 4)),
    "relaxed": (Kind(layers=6, dtype=torch.bfloat16, recursive=recursion(3, "cycle", ln_share=False), lora=ALL,
                     relaxation=dict(lora=dict(r=4, alpha=4))), (2, 4)),
}

# ---- signals: what a token's state at an exit says about stopping there


def probabilities(run, x):
    return run.logits(x).softmax(-1)


def learned(run, x, index, kind):
    """A head of exit `index` on the normed state: sigmoid of one output (CALM), or the second of two classes (FREE)."""
    t, z = run.checkpoint.tensors, run.normed(x)
    linear = lambda z, name: z @ t[f"exits.{index}.{name}.weight"].T + t[f"exits.{index}.{name}.bias"]
    if kind == "linear":
        return torch.sigmoid(linear(z, "linear"))[0]
    return linear(F.relu(linear(z, "mlp.0")), "mlp.2").softmax(-1)[1]


def margin(run, x, before, index):
    top = probabilities(run, x).topk(2).values
    return top[0] - top[1]


# name -> (signal of state x [hidden] at exit `index`, given the state at the exit before or None; side that exits)
SIGNALS = {
    "margin": (margin, "greater"),
    "max_probability": (lambda run, x, before, index: probabilities(run, x).max(), "greater"),
    "entropy": (lambda run, x, before, index: -(probabilities(run, x) * probabilities(run, x).log()).sum(), "less"),
    "cosine": (lambda run, x, before, index: None if before is None else F.cosine_similarity(x, before, 0), "greater"),
    "step": (lambda run, x, before, index: None if before is None else (x - before).norm() / x.norm(), "less"),
    "linear": (lambda run, x, before, index: learned(run, x, index, "linear"), "greater"),
    "mlp": (lambda run, x, before, index: learned(run, x, index, "mlp"), "greater"),
}

# ---- thresholds


def decayed(form, start, tau, length, t):
    """Thresholds that fall as a text grows; t at the first token that may exit: calm 0, free 1 (its K,V length + 1)."""
    if form == "calm":
        return min(1.0, max(0.0, 0.9 * start + 0.1 * math.exp(-tau * t / length)))
    return 0.9 * start + 0.1 * start * math.exp(-tau * t / length)


class Adaptive:
    """FREE's estimator (arXiv 2310.05424) as published in code: confidences x of tokens whose shallow answer was right
    (class 1) or wrong (class 0); one weighted method-of-moments step for a Beta of each class, weights 0.2 for the own
    class and 1e-4 for the other, normalised. Where n of the grid's ten points have a posterior of the class with the
    higher mean above zeta, the threshold is the n-th from the top."""
    GRID, ZETA, SHARE, FLOOR, EDGE = torch.linspace(0.3, 0.9, 10, dtype=torch.float64), 0.4, 0.2, 1e-4, 1e-4

    def __init__(self, prior=False):
        self.prior = prior  # weigh the posterior by the share of each class, which the published code does not

    def fit(self, confidence, agree):
        """The fit to all pairs so far: alpha, beta, variance [2], posterior [10], threshold."""
        x = torch.tensor(confidence, dtype=torch.float64).clamp(self.EDGE, 1 - self.EDGE)
        own = torch.stack([1.0 - torch.tensor(agree, dtype=torch.float64), torch.tensor(agree, dtype=torch.float64)])
        r = (self.SHARE * own).clamp(min=self.FLOOR)
        r = r / r.sum(0)
        mean = (r * x).sum(1) / r.sum(1)
        variance = (r * (x - mean[:, None]) ** 2).sum(1) / r.sum(1)
        variance = torch.where(variance < 1e-12, torch.nan, variance)  # one value only: no Beta, no test below holds
        alpha = mean * (mean * (1 - mean) / variance - 1)
        beta = alpha * (1 - mean) / mean
        share = r.mean(1) if self.prior else torch.ones(2, dtype=torch.float64)
        log_pdf = [torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
                   + (a - 1) * self.GRID.log() + (b - 1) * (1 - self.GRID).log() + w.log()
                   for a, b, w in zip(alpha, beta, share)]
        high = int(alpha[1] / (alpha[1] + beta[1]) > alpha[0] / (alpha[0] + beta[0]))
        posterior = torch.sigmoid(log_pdf[high] - log_pdf[1 - high])
        passed = int((posterior > self.ZETA).sum())
        return alpha, beta, variance, posterior, self.GRID[min(max(10 - passed, 0), 9)].item()


def guarded(adaptive, confidence, agree, previous, least=20, spread=1e-6):
    """The fit's threshold if both classes have `least` members and both variances exceed `spread`, else `previous`."""
    _, _, variance, _, threshold = adaptive.fit(confidence, agree)
    enough = min(sum(agree), len(agree) - sum(agree)) >= least and bool((variance > spread).all())
    return threshold if enough else previous


# ---- decoding


class Decoder:
    """Teacher-forced decoding of run.ids with exits after the given numbers of layers.

    kv: where later tokens find K and V of layers that a token skipped.
      defer      nowhere until some token goes deeper: it takes the waiting tokens with it through those layers (FREE)
      propagate  projected by each skipped layer from the state at the exit (CALM)
      alias      those of the exit's layer; in a recursive model, of the same layer of the block at the exit's depth
      holes      nowhere: later tokens do not see it there
      first      every depth reads those of depth 0, so nothing is missing (recursive models)
    """

    def __init__(self, run, exits, kv):
        self.run, self.kv = run, kv
        self.total = run.config["num_hidden_layers"]
        recursive = run.checkpoint.option("recursive")
        self.block = self.total // recursive["num_recursion"] if recursive else 1
        self.segments = list(zip((0, *exits), (*exits, self.total)))
        self.indices = [run.config["exits"]["layers"].index(e) for e in exits]
        self.stored = [{} for _ in range(self.total)]  # layer -> position -> (k, v) [kv_heads, head_dim]
        self.waiting = [[] for _ in self.segments]  # (position, state) of tokens that have not entered the segment

    def through(self, rows, first, last):
        """Rows [(position, state)], in order of position, through layers first .. last - 1."""
        at, x = torch.tensor([p for p, _ in rows]), torch.stack([h for _, h in rows])
        for l in range(first, last):
            weights, seen = self.run.weights(l), self.stored[l]
            if self.kv == "first":
                seen = self.stored[l % self.block]
            if self.kv != "first" or l < self.block:
                k, v = self.run.kv(x, weights, at)
                seen.update({p: (k[:, i], v[:, i]) for i, p in enumerate(at.tolist())})
            positions = sorted(seen)
            keys, values = (torch.stack([seen[p][i] for p in positions], 1) for i in (0, 1))
            x = self.run.layer(x, weights, torch.tensor(positions)[None, :] <= at[:, None], (keys, values), at)
        return list(zip(at.tolist(), x))

    def wait(self, segment, rows):
        self.waiting[segment] = sorted(self.waiting[segment] + rows, key=lambda row: row[0])

    def skip(self, position, state, layer):
        """The token exits after `layer` layers."""
        for l in range(layer, self.total):
            if self.kv == "propagate":
                k, v = self.run.kv(state[None], self.run.weights(l), torch.tensor([position]))
                self.stored[l][position] = (k[:, 0], v[:, 0])
            elif self.kv == "alias":
                self.stored[l][position] = self.stored[layer - self.block + l % self.block][position]

    def step(self, position, decide):
        """One token. decide(exit, state, state one exit before) -> exit here? Returns layers, state, rows per call."""
        h, before, calls = self.run.checkpoint.tensors["model.embed_tokens.weight"][self.run.ids[position]], None, []
        for s, (first, last) in enumerate(self.segments):
            waiting, self.waiting[s] = self.waiting[s], []
            rows = self.through([*waiting, (position, h)], first, last)
            calls.append(rows)
            h = rows[-1][1]
            if s + 1 == len(self.segments):
                return last, h, calls
            self.wait(s + 1, rows[:-1])
            if decide(s, h, before):
                self.skip(position, h, last)
                if self.kv == "defer":
                    self.wait(s + 1, rows[-1:])
                return last, h, calls
            before = h

    def flush(self):
        for s, (first, last) in enumerate(self.segments):
            if self.waiting[s]:
                rows = self.through(self.waiting[s], first, last)
                self.waiting[s] = []
                if s + 1 < len(self.segments):
                    self.wait(s + 1, rows)


def decode(run, exits, signal, kv, prompt, threshold):
    """threshold(exit, index among the tokens that may exit) -> float. The first `prompt` tokens take all layers."""
    decoder, (measure, side) = Decoder(run, exits, kv), SIGNALS[signal]
    n, apart, shallow, records, states = len(run.ids), [], {}, [], []
    nothing = torch.full((n, len(exits)), torch.nan)
    result = dict(layers=[], pending=[], rows=[], signal=nothing.clone(), threshold=nothing.clone())
    for position in range(n):
        def decide(e, h, before):
            if position < prompt:
                return False
            value = measure(run, h, before, decoder.indices[e])
            if value is None:  # no state to compare with yet: never an exit
                return False
            limit = threshold(e, position - prompt)
            result["signal"][position, e], result["threshold"][position, e] = value, limit
            apart.append(abs(value.item() - limit))
            shallow[position] = run.logits(h).argmax()
            return value > limit if side == "greater" else value < limit

        layers, state, calls = decoder.step(position, decide)
        states.append(state)
        result["layers"].append(layers)
        result["pending"].append(sum(map(len, decoder.waiting)))
        result["rows"].append([len(c) for c in calls] + [0] * (len(decoder.segments) - len(calls)))
        if len(exits) == 1 and len(calls) == 2 and len(calls[1]) > 1:  # FREE's estimator learns from stacked calls only
            records += [(p, result["signal"][p, 0].item(), int(shallow[p] == run.logits(deep).argmax()))
                        for p, deep in calls[1]]
    decoder.flush()
    x = torch.stack(states)
    if kv == "defer":  # then no token notices the others' exits: each state is that of the full run at its layer
        full = run.states()
        want = torch.stack([full[l][i] for i, l in enumerate(result["layers"])])
        assert (x - want).abs().max() < 1e-9
        for l, stored in enumerate(decoder.stored):
            k, v = run.kv(full[l], run.weights(l))
            assert max((stored[i][j] - t[:, i]).abs().max() for i in range(n) for j, t in enumerate((k, v))) < 1e-9
    return dict(result, nll=run.nll(x), argmax=run.logits(x).argmax(-1), apart=min(apart), records=records,
                stored=decoder.stored)


# ---- cases


class Book:
    """decode.json and decode.safetensors, as the operations' files are built: tensors named <case>.<name>."""

    def __init__(self):
        self.cases, self.tensors = [], {}

    def add(self, name, numbers, run, exits, found, kept):
        def put(key, value, dtype):
            self.tensors[f"{name}.{key}"] = torch.as_tensor(value).to(dtype).contiguous()

        self.cases.append(dict(name=name, **numbers, exits=list(exits), kept=list(kept),
                               least_distance=round(found["apart"], 6)))
        put("ids", run.ids, torch.int32)
        for key in ("layers", "pending", "rows", "argmax"):
            put(key, found[key], torch.int32)
        for key in ("signal", "threshold", "nll"):
            put(key, found[key], torch.float32)
        if found["records"]:
            for key, values in zip(("position", "confidence", "agree"), zip(*found["records"])):
                put("record_" + key, values, torch.float32 if key == "confidence" else torch.int32)
        stored, n = found["stored"], len(run.ids)
        absent = (torch.zeros_like(stored[0][0][0]),) * 2
        for i, key in enumerate("kv"):
            rows = [torch.stack([stored[l].get(p, absent)[i] for p in range(n)]) for l in kept]
            put(key, torch.stack(rows), torch.float32)
        put("present", [[int(p in stored[l]) for p in range(n)] for l in kept], torch.int32)
        counts = [found["layers"].count(l) for l in (*exits, run.config["num_hidden_layers"])]
        print(f"{name:32s} tokens per depth {counts}  distance {found['apart']:.4f}  records {len(found['records'])}")

    def save(self):
        save_file(self.tensors, OUT / "decode.safetensors")
        (OUT / "decode.json").write_text('{"cases":[\n' + ",\n".join(json.dumps(c) for c in self.cases) + "\n]}\n")


def texts(name, count=1):
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    rows = [torch.randint(0, 256, (COUNT,), generator=g).tolist() for _ in range(count)]
    return rows if count > 1 else rows[0]


def mixed(found, exits, total):
    return found["apart"] >= APART and all(found["layers"].count(l) >= COUNT // 10 for l in (*exits, total))


def case(book, name, model, exits, signal, kv, prompt=5, decay=None, kept=None):
    """Thresholds near the median of each exit's signals in a full run, the nearest that are met or missed by APART."""
    run = Run(Checkpoint(OUT / "models" / model), texts(name))
    total, tau = run.config["num_hidden_layers"], 4.0
    rises = SIGNALS[signal][1] == "greater"
    never = lambda e, t: math.inf if rises else -math.inf
    seen = decode(run, exits, signal, "defer", prompt, never)["signal"].double()
    medians = [seen[:, e].nanmedian().item() for e in range(len(exits))]  # nan where an exit has no signal
    for i in range(400):
        base = [0.0 if math.isnan(m) else round(m * (1 + (-1) ** i * i * 0.004), 3) for m in medians]
        limit = lambda e, t: decayed(decay, base[e], tau, COUNT - prompt, t + (decay == "free")) if decay else base[e]
        found = decode(run, exits, signal, kv, prompt, limit)
        if mixed(found, [e for e, m in zip(exits, medians) if not math.isnan(m)], total):
            break
    else:
        raise SystemExit(f"{name}: no suitable threshold")
    numbers = dict(model=model, signal=signal, exit_when=SIGNALS[signal][1], thresholds=base, kv=kv, prompt=prompt,
                   count=COUNT)
    if decay:
        numbers.update(decay=decay, tau=tau, max_tokens=COUNT - prompt)
    book.add(name, numbers, run, exits, found, kept or (exits[-1], total - 1))


def adaptive_decoding(book, model, exits, initial):
    """Texts one after the other: the threshold is fitted before each, to what all texts before it recorded."""
    checkpoint, estimator, records, threshold = Checkpoint(OUT / "models" / model), Adaptive(), [], initial
    for i, ids in enumerate(texts("adaptive", 4)):
        run = Run(checkpoint, ids)
        if records:
            threshold = estimator.fit(*zip(*((c, y) for _, c, y in records)))[-1]
        found = decode(run, exits, "margin", "defer", 5, lambda e, t: threshold)
        if found["apart"] < APART:
            raise SystemExit(f"adaptive text {i}: signal {found['apart']} from the threshold")
        records += found["records"]
        numbers = dict(model=model, signal="margin", exit_when="greater", thresholds=[threshold], kv="defer", prompt=5,
                       count=COUNT, adaptive=i, initial=initial)
        book.add(f"adaptive_{i}", numbers, run, exits, found, exits)


def adaptive_fits():
    """Pairs and what each fit makes of them; fits[i] sees the first fit_at[i] pairs."""
    cases, tensors = [], {}
    g = torch.Generator().manual_seed(7)
    draw = lambda n, a, b: torch.distributions.Beta(a, b).sample((n,))

    def pairs(n, right, wrong, share):
        torch.manual_seed(int(torch.randint(0, 1 << 30, (1,), generator=g)))
        agree = (torch.rand(n) < share).int()
        return torch.where(agree == 1, draw(n, *right), draw(n, *wrong)), agree

    def add(name, confidence, agree, fit_at):
        confidence = confidence.float()
        one, two, previous = Adaptive(), Adaptive(prior=True), 0.9
        rows, least = {}, math.inf
        for n in fit_at:
            c, y = confidence[:n].double().tolist(), agree[:n].tolist()
            alpha, beta, _, posterior, threshold = one.fit(c, y)
            weighed = two.fit(c, y)
            previous = guarded(one, c, y, previous)
            by_prior = weighed[-1] if 0 < sum(y) < n else math.nan  # one class: equal means, their order would be noise
            fitted = dict(alpha=alpha, beta=beta, posterior=posterior, threshold=threshold, threshold_prior=by_prior,
                          threshold_guarded=previous)
            for key, value in fitted.items():
                rows.setdefault(key, []).append(torch.as_tensor(value).float())
            apart = torch.cat([posterior, weighed[3]]) - Adaptive.ZETA
            least = min(least, apart.abs().nan_to_num(math.inf).min().item())
        if least < APART:
            raise SystemExit(f"{name}: a posterior is {least} from zeta")
        cases.append(dict(name=name, count=len(confidence), fits=len(fit_at), initial=0.9, guard_least=20,
                          guard_spread=1e-6, least_distance=round(least, 6) if least < math.inf else None))
        rows = {key: torch.stack(value) for key, value in rows.items()}
        rows.update(confidence=confidence, agree=agree.int(), fit_at=torch.tensor(fit_at, dtype=torch.int32))
        tensors.update({f"{name}.{key}": value for key, value in rows.items()})
        print(f"{name:32s} distance {least:.4f}",
              *(f"{key} {[round(v, 3) for v in rows[key].tolist()]}" for key in rows if key.startswith("threshold")))

    grows = [10, 30, 60, 100, 200]
    add("separated", *pairs(200, (8.0, 2.0), (2.0, 6.0), 0.6), grows)
    add("overlapping", *pairs(200, (3.2, 2.0), (2.0, 3.0), 0.5), grows)
    add("rarely_right", *pairs(200, (6.0, 3.0), (2.0, 4.0), 0.08), grows)
    add("mostly_right", *pairs(200, (12.0, 1.0), (3.0, 3.0), 0.93), grows)
    add("both_near_one", *pairs(200, (60.0, 2.0), (50.0, 2.5), 0.7), grows)
    add("wrong_more_confident", *pairs(200, (2.0, 5.0), (6.0, 2.0), 0.5), grows)
    add("all_right", *pairs(50, (6.0, 2.0), (2.0, 2.0), 2.0), [5, 50])
    add("all_wrong", *pairs(50, (6.0, 2.0), (2.0, 2.0), -1.0), [5, 50])
    add("one_pair", torch.tensor([0.62]), torch.tensor([1]), [1])
    add("one_value", torch.full((40,), 0.75), torch.arange(40) % 2, [2, 40])
    add("edges", torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.2, 0.9] * 6), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1] * 6),
        [8, 48])
    save_file(tensors, OUT / "adaptive.safetensors")
    (OUT / "adaptive.json").write_text('{"cases":[\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


def decays():
    rows = [dict(form=form, start=start, tau=tau, max_tokens=length, t=[0, 1, 2, 7, length // 2, length, 3 * length])
            for form in ("calm", "free")
            for start, tau, length in ((0.9, 4.0, 64), (1.0, 4.0, 256), (0.35, 1.5, 10), (0.0, 4.0, 64))]
    rows += [dict(form="calm", start=1.2, tau=0.5, max_tokens=16, t=[0, 4, 16])]  # clipped to 1
    for row in rows:
        row["threshold"] = [decayed(row["form"], row["start"], row["tau"], row["max_tokens"], t) for t in row["t"]]
    (OUT / "decay.json").write_text('{"cases":[\n' + ",\n".join(json.dumps(r) for r in rows) + "\n]}\n")


def write_models():
    for name, (kind, layers) in EXITS.items():
        kind.config["exits"] = dict(enable=True, layers=list(layers), head="shared")
        tensors, d = weights(kind, zlib.crc32(name.encode())), kind.config["hidden_size"]
        g = torch.Generator().manual_seed(zlib.crc32(f"exits of {name}".encode()))
        for i in range(len(layers)):
            for head, out, inner, scale in (("linear", 1, d, 0.3), ("mlp.0", d, d, d ** -0.5), ("mlp.2", 2, d, 0.3)):
                tensors[f"exits.{i}.{head}.weight"] = (torch.randn(out, inner, generator=g) * scale).to(kind.dtype)
                tensors[f"exits.{i}.{head}.bias"] = (torch.randn(out, generator=g) * 0.1).to(kind.dtype)
        store(kind, tensors, OUT / "models" / name)


SHARED = dict(num_recursion=3, sharing="middle_cycle")
HYBRID = dict(SHARED, update_cache=True)
CAPS, TOP_K = (dict(depth_cap=1), dict(depth_cap=2)), dict(top_k=True)
LOOPED, TWO_LAYERS = dict(MOR, dtype=torch.bfloat16), dict(MOR, layers=8, dtype=torch.bfloat16)
ROUTED = {
    "expert": (Kind(**TWO_LAYERS, mor=expert()), (*CAPS, TOP_K, dict(depth_cap=2, top_k=True))),
    "expert_shared": (Kind(**LOOPED, mor=expert(), kv_sharing=SHARED), (*CAPS, TOP_K)),
    "expert_hybrid": (Kind(**TWO_LAYERS, mor=expert(), kv_sharing=HYBRID), (TOP_K,)),
    "expert_auxiliary": (Kind(**LOOPED, mor=expert(sampling="aux_router", temp=2.0)), ()),
    "expert_auxiliary_mlp": (Kind(**LOOPED, mor=expert(sampling="aux_router", router_type="mlp")), ()),
    "token": (Kind(**LOOPED, mor=token("softmax", 1.0)), CAPS),
    "token_shared": (Kind(**TWO_LAYERS, mor=token("softmax", 1.0), kv_sharing=SHARED), ()),
    "token_hybrid": (Kind(**LOOPED, mor=token("softmax", 1.0), kv_sharing=HYBRID), ()),
    "token_sigmoid_loss_free_shared": (Kind(**LOOPED, mor=token("sigmoid", 1.0, loss_free=True), kv_sharing=SHARED),
                                       CAPS),
}


def main():
    torch.set_num_threads(1)
    write_models()
    book = Book()
    for signal in SIGNALS:  # FREE: one exit; successive states need two
        exits = (2, 3) if signal in ("cosine", "step") else (3,)
        case(book, f"free_{signal}", "plain", exits, signal, "defer", kept=(exits[-1],))
    case(book, "free_no_prompt", "plain", (2,), "margin", "defer", prompt=0, kept=(2, 3, 4))
    for kv in ("defer", "propagate", "alias", "holes"):
        case(book, f"three_exits_{kv}", "plain", (2, 3, 4), "margin", kv, kept=(2, 3, 4))
        case(book, f"one_exit_{kv}", "plain", (3,), "max_probability", kv, prompt=1, kept=(3, 4))
    for model in ("recursive", "relaxed"):
        for kv in ("defer", "propagate", "alias", "holes", "first"):
            case(book, f"{model}_{kv}", model, (2, 4), "margin", kv, kept=(0, 3, 4))
        for signal in ("entropy", "mlp", "linear"):
            case(book, f"{model}_{signal}", model, (2, 4), signal, "defer", kept=(4,))
        for signal in ("cosine", "step"):
            case(book, f"{model}_{signal}", model, (2, 4), signal, "propagate", kept=(4,))
    for form in ("calm", "free"):
        case(book, f"decay_{form}", "plain", (3,), "margin", "propagate", decay=form, kept=(3,))
        case(book, f"decay_{form}_recursive", "recursive", (2, 4), "max_probability", "defer", decay=form, kept=(4,))
    adaptive_decoding(book, "recursive", (4,), 0.7)
    book.save()
    adaptive_fits()
    decays()
    for name, (kind, runs) in ROUTED.items():
        make(name, kind, OUT / "mor", runs)


if __name__ == "__main__":
    main()
