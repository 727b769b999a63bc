"""How a case is measured: both sides captured into CUDA graphs, inputs rotated so that none is found in the cache,
medians with spread, results against float64. Without a GPU nothing is timed and only results are compared."""
import contextlib
import ctypes
import faulthandler
import json
import math
import os
import statistics

import torch

ROUNDS, REPLAYS = 5, 50
COLD_BYTES = 192 << 20  # three times the second-level cache
LEAST_SECONDS = 200e-6  # of one replay, so that the events around it do not count
MOST_ERROR = 1e-2       # relative, of bf16 operands
CASE_SECONDS = 60       # of one case with its peers' compilation; one that takes longer ends the process
DEVICE_LOST = 3         # exit status after a failure that leaves the device unusable to this process


class Case:
    """One line of the table: what must be moved and computed, by whom it was timed, and how it should end."""

    def __init__(self, part, name, bytes, flops=0, **targets):
        self.line = {"part": part, "case": name, "bytes": bytes, "flops": flops, "peers": {}, "targets": targets}


class Bench:
    def __init__(self, device, library, ceilings=None, only=(), smoke=False, json=None, about=None,
                 lines=()):
        self.device, self.library, self.only, self.smoke = device, library, only, smoke
        self.lines, self.ceilings, self.json, self.about = list(lines), dict(ceilings or {}), json, about
        self.done = {(line["part"], line["case"]) for line in lines}
        self.cuda = device == "cuda"
        if self.cuda:
            # One stream for everything: a context cannot follow torch onto a stream that is being captured.
            self.stream = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)
            library.call("fth_use_stream", ctypes.c_void_p(self.stream.cuda_stream))

    def wants(self, *words):
        name = " ".join(words)
        return all(word in name for word in self.only)

    @contextlib.contextmanager
    def trying(self, part, name):
        """What fails while a case is prepared becomes its line, and the table goes on."""
        try:
            yield
        except Exception as e:
            self.lines.append({"part": part, "case": name, "failed": reason(e)})
            self.say(self.lines[-1])

    def random(self, *shape, scale=1.0, dtype=torch.float32):
        return (torch.randn(*shape, device=self.device) * scale).to(dtype)

    def copies(self, bytes):
        """How many sets of inputs make each call find them in memory alone."""
        return 1 if not self.cuda else max(1, math.ceil(COLD_BYTES / max(bytes, 1)) + (bytes < COLD_BYTES))

    # ---- time ----

    def time(self, calls, expected=0.0):
        """Median seconds of one of `calls`, which run in turn; and the least and most of the rounds' medians."""
        for call in calls:
            call()
        repeats = max(1, math.ceil(LEAST_SECONDS / max(expected * len(calls), 1e-6)))
        repeats = min(repeats, max(1, 400 // len(calls)))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="relaxed"):
            for _ in range(repeats):
                for call in calls:
                    call()
        return self.time_graph(graph, repeats * len(calls))

    def time_graph(self, graph, count):
        for _ in range(3):
            graph.replay()
        medians = []
        for _ in range(ROUNDS):
            events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
                      for _ in range(REPLAYS)]
            for begin, end in events:
                begin.record()
                graph.replay()
                end.record()
            torch.cuda.synchronize()
            medians.append(statistics.median(b.elapsed_time(e) for b, e in events) * 1e-3 / count)
        return {"seconds": statistics.median(medians), "least": min(medians), "most": max(medians)}

    # ---- one case ----

    def floor(self, line):
        copy, gemm = self.ceilings.get("copy_bytes_per_second"), self.ceilings.get("gemm_flops_per_second")
        return max(line["bytes"] / copy, line["flops"] / gemm) if copy and gemm else 0.0

    def run(self, case, ours, peers, check, prepare=lambda: None, warm=False, most_error=None):
        """`ours` and the peers are functions of the number of an input set. prepare() poisons what ours(0) writes and
        check() gives its relative error; check(result) that of what a peer returned for set 0. What cannot be done is
        left out with its reason, what is wrong is not timed."""
        line = case.line
        if (line["part"], line["case"]) in self.done:
            return
        self.lines.append(line)
        self.begin(line)
        floor = self.floor(line)
        sets = range(1 if warm else self.copies(line["bytes"]))

        def error():
            prepare()
            ours(0)
            return check()

        def time():
            return self.time([lambda i=i: ours(i) for i in sets], floor)

        try:
            line["error"] = error()
            if not line["error"] <= (most_error or MOST_ERROR):
                line["wrong"] = f"relative error {line['error']:.3g}"
            elif self.cuda:
                line.update(time())
        except Exception as e:  # one case that fails must not end the table
            line["failed"] = reason(e)
        for name, peer in peers.items():
            entry = line["peers"][name] = {}
            try:
                entry["error"] = check(peer(0))
                if self.cuda:
                    entry.update(self.time([lambda i=i: peer(i) for i in sets], floor))
            except Exception as e:
                entry["failed"] = reason(e)
        if "seconds" in line:
            line["again"], line["error_again"] = time()["seconds"], error()
        self.judge(line, floor)

    def judge(self, line, floor):
        """Ratios, and whether each target is met."""
        if "seconds" in line:
            line["floor_seconds"] = floor
            line["of_floor"] = floor / line["seconds"]
            times = {name: p["seconds"] for name, p in line["peers"].items() if "seconds" in p}
            if times:
                best = min(times, key=times.get)
                line["best_peer"], line["times_best_peer"] = best, times[best] / line["seconds"]
            have = {"floor": line["of_floor"], "best": line.get("times_best_peer"),
                    **{name: seconds / line["seconds"] for name, seconds in times.items()}}
            line["met"] = {name: have.get(name) is not None and have[name] >= target
                           for name, target in line["targets"].items()}
        self.say(line)

    def against(self, line, base, name, most):
        """Holds a line against another one: its time may be `most` times as long."""
        if "seconds" not in line or "seconds" not in base:
            return
        times = line["seconds"] / base["seconds"]
        line[f"times_{name}"], line["targets"][name], line["met"][name] = times, most, times <= most
        print(f"    {times:.3f} times {name}, at most {most}", flush=True)
        self.write(self.lines)

    def begin(self, line):
        """From here on a case that hangs is on record as one that did, and ends the process."""
        if not self.cuda:
            return
        self.write([*self.lines[:-1], {**line, "failed": f"did not end within {CASE_SECONDS} s"}])
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)

    def say(self, line):
        faulthandler.cancel_dump_traceback_later()
        print(sentence(line), flush=True)
        self.write(self.lines)
        if "failed" in line and self.cuda:
            try:
                torch.cuda.synchronize()
            except Exception as e:
                print(f"the device is lost to this process: {reason(e)}", flush=True)
                os._exit(DEVICE_LOST)

    def write(self, lines):
        if self.json:
            with open(self.json, "w") as out:
                json.dump({"about": self.about, "ceilings": self.ceilings, "lines": lines}, out, indent=1)

    def measure_ceilings(self):
        """Copy and bf16 product through torch, unless they are known."""
        if not self.cuda or "gemm_flops_per_second" in self.ceilings:
            return
        a, b = (torch.randn(512 << 20, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        copy = self.time([lambda: b.copy_(a)], 1e-3)["seconds"]
        rate = 2 * a.numel() * 2 / copy
        self.ceilings["copy_bytes_per_second"] = max(rate, self.ceilings.get("copy_bytes_per_second", 0))
        self.ceilings["torch_copy_bytes_per_second"] = rate
        del a, b
        n = 8192
        x, w = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self.ceilings["gemm_flops_per_second"] = 2 * n ** 3 / self.time([lambda: x @ w.t()], 1e-3)["seconds"]
        print("ceilings: copy {:.2f} TB/s, bf16 product {:.0f} TFLOP/s".format(
            self.ceilings["copy_bytes_per_second"] / 1e12, self.ceilings["gemm_flops_per_second"] / 1e12), flush=True)


def relative_error(result, reference):
    """Of root mean squares, in float64; NaN or infinity anywhere is an infinite error."""
    result, reference = result.double(), reference.double()
    if not bool(torch.isfinite(result).all()):
        return math.inf
    return float((result - reference).norm() / reference.norm().clamp_min(1e-30))


def reason(exception):
    return " ".join(f"{type(exception).__name__}: {exception}".split())[:300]


def poison(tensor):
    return tensor.fill_(math.nan)


def sentence(line):
    if "failed" in line or "wrong" in line:
        return f"{line['part']}: {line['case']}: {line.get('failed') or 'WRONG, ' + line['wrong']}"
    text = f"{line['part']}: {line['case']}: error {line['error']:.1e}"
    if "seconds" in line:
        text += f", {line['seconds'] * 1e6:.1f} us, {line['of_floor']:.2f} of floor"
    for name, p in line["peers"].items():
        text += f"; {name} " + (p["failed"][:120] if "failed" in p else f"{p['seconds'] * 1e6:.1f} us"
                                if "seconds" in p else f"error {p['error']:.1e}")
    return text
