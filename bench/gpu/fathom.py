"""The C interface over ctypes, for tensors of torch: their memory is what calls read and write."""
import ctypes as c
import os

import torch

F32, BF16, F16, I8, Q8_0, Q4_0, F8_E4M3 = range(7)
CPU, CUDA = 0, 1
OK, UNSUPPORTED = 0, 2
MEMORY_PINNED = 1
IDENTITY, RELU, GELU, GELU_TANH, SILU = range(5)
RESIDUAL_NONE, RESIDUAL_ADD, RESIDUAL_GATED = range(3)
RMS_NORM = 0
ROPE_HALF = 1
NORM_PRE = 1
Q, K, V, O, GATE, UP, DOWN, ATTENTION_PRE_NORM, MLP_PRE_NORM, ROPE_FREQUENCY = 0, 1, 2, 3, 6, 7, 8, 9, 15, 18
WEIGHT, BIAS, LORA_A, LORA_B = range(4)


def _struct(name, *fields):
    """A ctypes structure; fields are (type, "names")."""
    return type(name, (c.Structure,), {"_fields_": [(n, t) for t, names in fields for n in names.split()]})


Info = _struct("Info", (c.c_int32, "backend isa best_isa bf16_dot workers int8_dot"), (c.c_int64, "l2_bytes l3_bytes"),
               (c.c_int32, "device multiprocessors compute_capability reserved"), (c.c_int64, "device_bytes"))
Row = _struct("Row", (c.c_int64, "list"), (c.c_uint64, "tree"),
              (c.c_int32, "visible start position depth entry sequence"))
LinearShape = _struct("LinearShape", (
    c.c_int32, "in_features out_features weight_type activation glu residual lora_rank lora_depths"))
NormShape = _struct("NormShape", (c.c_int32, "kind width depths"), (c.c_float, "eps"))
KvShape = _struct("KvShape", (c.c_int32, "layers kv_heads head_dim type"), (c.c_int64, "entries"))
AttentionShape = _struct("AttentionShape", (c.c_int32, "heads bias_kind bias_width bias_center"), (c.c_float, "scale"),
                         (c.c_int32, "reserved"))
DenseKvShape = _struct("DenseKvShape", (c.c_int32, "sequences tokens kv_heads head_dim type reserved"),
                       (c.c_int64, "sequence_stride token_stride head_stride"))
BackfillShape = _struct("BackfillShape", (c.c_int32, "hidden_size depths weight_type norm rope_style rotary_dim"),
                        (c.c_float, "norm_eps"), (c.c_int32, "reserved"))
BlockShape = _struct("BlockShape", (
    c.c_int32, "layers depths hidden_size intermediate_size heads kv_heads head_dim weight_type kv_type norm "
               "norm_placement norm_per_depth activation glu bias rope_style rotary_dim relative_width "
               "relative_center cross"), (c.c_int32 * 9, "lora_rank"), (c.c_float, "norm_eps attention_scale"))
HeadShape = _struct("HeadShape", (c.c_int32, "hidden_size vocab_size weight_type norm"),
                    (c.c_float, "norm_eps logit_scale softcap"), (c.c_int32, "chosen"))
HeadStats = _struct("HeadStats", (c.c_int32, "argmax second"), (c.c_float, "top1 top2 lse entropy"))
GateShape = _struct("GateShape", (c.c_int32, "hidden_size inner_size outputs depths router function"),
                    (c.c_float, "temperature alpha threshold"), (c.c_int32, "activation bias"))
RecursionShape = _struct("RecursionShape", (c.c_int32, "depths update going reserved"))
# A row as a vector of eight 64-bit halves is of no use to torch; as ten of 32 bits it can be filled by columns.
ROW_COLUMN = {"visible": 4, "start": 5, "position": 6, "depth": 7, "entry": 8, "sequence": 9}


class Unsupported(Exception):
    """What this library, or this device, cannot do."""


class Fathom:
    """A context on the device that torch's tensors of `device` are on."""

    def __init__(self, path, backend, device):
        self.library, self.device = c.CDLL(path), device
        self.library.fth_context_message.restype = c.c_char_p
        self.context, message = c.c_void_p(), c.create_string_buffer(256)
        if self.library.fth_context_create(backend, 0, -1, message, c.c_int64(256), c.byref(self.context)) != OK:
            raise SystemExit(f"Fathom made no context: {message.value.decode()}")
        self.info = Info()
        self.call("fth_context_info", self.info)
        self._managed, self.pinned = None, False

    def call(self, name, *arguments):
        """Tensors and structures become addresses, integers 64-bit numbers unless they are wrapped."""
        status = getattr(self.library, name)(self.context, *map(argument, arguments))
        if status == OK:
            return
        sentence = f"{name}: {self.library.fth_context_message(self.context).decode()}"
        raise Unsupported(sentence) if status == UNSUPPORTED else RuntimeError(sentence)

    def bytes(self, name, *shapes):
        out = c.c_int64()
        self.call(name, *shapes, out)
        return out.value

    def buffer(self, size):
        return torch.zeros(size, dtype=torch.uint8, device=self.device)

    def host(self, tensor):
        """A copy of integers or rows where both the host and kernels read it, also while a graph is captured. Managed
        memory: after its first replay it lies on the device, where staging would have put it; pinned memory, which is
        what callers have, stays with the host and is read over the bus."""
        if self.device != "cuda":
            return tensor.clone()
        if self.pinned:
            return tensor.pin_memory()
        if self._managed is None:
            self._managed = c.CDLL(f"libcudart.so.{torch.version.cuda.split('.')[0]}").cudaMallocManaged
        memory, size = c.c_void_p(), max(tensor.numel() * tensor.element_size(), 1)
        if self._managed(c.byref(memory), c.c_size_t(size), c.c_uint(1)) != 0:
            return tensor.pin_memory()
        held = (c.c_char * size).from_address(memory.value)
        return torch.frombuffer(held, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape).copy_(tensor)

    def rows(self, count, **columns):
        """`count` rows; columns are numbers or tensors; `list` too, and `tree` sees everything."""
        table = torch.zeros(count, 10, dtype=torch.int32)
        table[:, 2:4] = -1
        table[:, ROW_COLUMN["entry"]] = -1
        first = columns.pop("list", 0)
        table.view(torch.int64)[:, 0] = first
        for name, value in columns.items():
            table[:, ROW_COLUMN[name]] = value
        return self.host(table)

    # ---- weights and pools ----

    def linear(self, shape, weight):
        """The packed weight [out, in]."""
        packed = self.buffer(self.bytes("fth_linear_bytes", shape))
        self.call("fth_linear_pack", shape, 0, weight.shape[0], code(weight), weight, packed)
        return packed

    def lora(self, shape, pairs):
        """The packed pairs (A [rank, in], B [out, rank]), one per depth."""
        packed = self.buffer(self.bytes("fth_lora_bytes", shape))
        for depth, (a, b) in enumerate(pairs):
            self.call("fth_lora_pack", shape, c.c_int32(depth), c.c_float(1), code(a), a, b, packed)
        return packed

    def pool(self, shape, keys, values):
        """A pool whose entry i holds keys[layer][i], values[layer][i] ([entries, kv_heads, head_dim] floats)."""
        pool = self.buffer(self.bytes("fth_kv_bytes", shape))
        rows = self.rows(shape.entries, entry=torch.arange(shape.entries, dtype=torch.int32))
        for layer in range(shape.layers):
            self.call("fth_kv_write", shape, c.c_int32(layer), shape.entries, rows, keys[layer], values[layer], pool)
        return pool


def argument(value):
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        return c.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return c.c_int64(value)
    return c.byref(value) if isinstance(value, c.Structure) or type(value) is c.c_int64 else value


def code(tensor):
    return c.c_int32({torch.float32: F32, torch.bfloat16: BF16, torch.float16: F16}[tensor.dtype])


def default_library(emulated):
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "native")
    return os.path.join(root, "tests", "emulation", "libfathom_emulated.so") if emulated else os.path.join(
        root, "libfathom.so")
