"""What stands between products: norm, rotation, moving rows, routers, distances, top k. Bound by memory at many rows,
by the launch at few."""
import math

import torch
import torch.nn.functional as F

import fathom as f
from backfill import rotated
from measure import Case, poison, relative_error

EPS = 1e-5


class Small:
    def __init__(self, bench, count, width):
        self.bench, self.library, self.count, self.width = bench, bench.library, count, width
        self.x, self.y = bench.random(count, width), bench.random(count, width)
        self.out = torch.empty_like(self.x)
        self.floor = {"floor": 0.75} if count >= 16384 else {}

    def case(self, name, bytes, ours, theirs, check, prepare=None):
        name = f"{name}, {self.count} rows of {self.width}"
        if not self.bench.wants("small", name):
            return
        peers = {"eager": theirs}
        if self.bench.cuda and self.floor:
            peers["compiled"] = torch.compile(theirs, dynamic=False)
        self.bench.run(Case("small", name, bytes, **self.floor), ours, peers, check,
                       prepare or (lambda: poison(self.out)), warm=True)

    def against(self, reference):
        return lambda result=None: relative_error(self.out if result is None else result, reference)

    def norm(self):
        gain = 1 + self.bench.random(3, self.width, scale=0.1)
        depth = torch.arange(self.count, dtype=torch.int32) % 3
        rows, there = self.library.rows(self.count, depth=depth), depth.long().to(self.bench.device)
        shape = f.NormShape(f.RMS_NORM, self.width, 3, EPS)
        by_torch = lambda i, x=self.x, g=gain: F.rms_norm(x, (self.width,), None, EPS) * g[there]
        self.case("norm, gains by depth", 2 * self.x.numel() * 4,
                  lambda i: self.library.call("fth_norm", shape, self.count, rows, self.x, gain, None, self.out),
                  by_torch, self.against(by_torch(0, self.x.double(), gain.double())))

    def rope(self):
        dim = 64
        shape = (f.c.c_int32 * 4)(f.ROPE_HALF, self.width // dim, dim, dim)
        position = torch.randint(0, 1000, (self.count,), dtype=torch.int32)
        rows, there = self.library.rows(self.count, position=position), position.to(self.bench.device).float()
        frequency = 10000.0 ** (-torch.arange(dim // 2, device=self.bench.device) / (dim // 2))
        heads = self.x.view(self.count, -1, dim)
        by_torch = lambda i: rotated(heads, there, frequency)
        reference = rotated(heads.double(), there.double(), frequency.double()).reshape(self.x.shape)
        self.case("rope, in place", 2 * self.x.numel() * 4,
                  lambda i: self.library.call("fth_rope", shape, self.count, rows, frequency, self.out), by_torch,
                  lambda result=None: relative_error((self.out if result is None else result).view(self.x.shape),
                                                     reference),
                  lambda: self.out.copy_(self.x))

    def move(self):
        index = torch.randperm(self.count, dtype=torch.int32)[:max(1, self.count // 2)]
        staged, there = self.library.host(index), index.long().to(self.bench.device)
        part, moved = index.numel(), index.numel() * self.width * 4
        call, few = self.library.call, self.out[:part]
        width = f.c.c_int32(self.width)
        self.case("gather of half", 2 * moved,
                  lambda i: call("fth_gather", width, self.count, part, staged, self.x, few),
                  lambda i: self.x.index_select(0, there),
                  lambda result=None: relative_error(few if result is None else result, self.x[there]))
        gate = self.bench.random(part)
        added = self.x.double().index_add(0, there, gate.double()[:, None] * self.y[:part].double())
        self.case("gated scatter-add of half", 3 * moved,
                  lambda i: call("fth_scatter_add", width, self.count, part, staged, gate, self.y, self.out),
                  lambda i: self.x.index_add(0, there, gate[:, None] * self.y[:part]), self.against(added),
                  lambda: self.out.copy_(self.x))

    def route(self):
        shape = f.GateShape(self.width, 0, 1, 1, 0, 1, 1, 1, 0, f.IDENTITY, 0)
        w = self.bench.random(1, self.width, scale=1 / math.sqrt(self.width))
        packed = self.library.buffer(self.library.bytes("fth_gate_bytes", shape))
        self.library.call("fth_gate_pack", shape, f.c.c_int32(0), f.c.c_int32(0), f.c.c_int32(f.F32), w, packed)
        gate = self.x.new_empty(self.count)
        choice = torch.empty(self.count, dtype=torch.int32, device=self.bench.device)
        by_torch = lambda i: (self.x @ w[0]).sigmoid()
        reference = (self.x.double() @ w[0].double()).sigmoid()
        self.case("router, sigmoid", self.x.numel() * 4,
                  lambda i: self.library.call("fth_gate", shape, self.count, None, self.x, packed, None, None, None,
                                              gate, choice),
                  by_torch, lambda result=None: relative_error(gate if result is None else result, reference),
                  lambda: poison(gate))

    def delta(self):
        out = self.x.new_empty(self.count, 5)
        width = f.c.c_int32(self.width)

        def sums(x, y):
            return torch.stack([(x * y).sum(1), (y * y).sum(1), (x * x).sum(1), ((y - x) ** 2).sum(1)], 1)

        reference = sums(self.x.double(), self.y.double())
        self.case("distance of states", 2 * self.x.numel() * 4,
                  lambda i: self.library.call("fth_state_delta", width, self.count, None, self.x, self.y, out),
                  lambda i: sums(self.x, self.y),
                  lambda result=None: relative_error(out[:, :4] if result is None else result, reference),
                  lambda: poison(out))

    def top_k(self):
        segments, k = 4, self.count // 8
        values = self.bench.random(self.count // segments * segments)
        size = values.numel() // segments
        begin = self.library.host(torch.arange(segments + 1, dtype=torch.int32) * size)
        each = self.library.host(torch.full((segments,), k, dtype=torch.int32))
        index = torch.empty(values.numel(), dtype=torch.int32, device=self.bench.device)
        table = values.view(segments, size)
        reference = table.topk(k).indices.sort().values

        def check(result=None):
            if result is None:
                result = index.view(segments, size)[:, :k] - begin[:-1, None].to(index.device)
            return relative_error(result, reference)

        self.case("top k of four segments", values.numel() * 4,
                  lambda i: self.library.call("fth_top_k", values.numel(), values, segments, begin, each, index),
                  lambda i: table.topk(k, sorted=False).indices.sort().values, check, lambda: index.fill_(-1))

    def run(self):
        for part in (self.norm, self.rope, self.move, self.route, self.delta, self.top_k):
            with self.bench.trying("small", f"{part.__name__}, {self.count} rows of {self.width}"):
                part()


def run(bench):
    for count, width in ((70, 128),) if bench.smoke else ((1024, 960), (65536, 960)):
        Small(bench, count, width).run()
