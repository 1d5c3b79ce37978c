"""The probe: what this machine can do, found by doing it.

Names lie: a CPU whose flags list bf16 may emulate it a hundred times slower than float32, a GPU that `torch`
reports may fail at the first launch. So the probe multiplies matrices in each dtype and times it, streams memory
and times it, and launches one kernel on an accelerator before believing in it. What it measures is used twice:
to choose the dtype of training, and as the physical limit beside every speed danlu prints.

    matmul_flops[dtype]   best rate of C = A @ B with square A and B, in FLOP/s (2 n^3 per product)
    bandwidth             best rate of reading a vector much larger than the caches, in bytes/s

The best of a few short repeats is taken, because a limit is what was reached once; on a shared machine a
later, noisier moment reaches less.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HAS_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # processors that multiply bfloat16 themselves


@dataclass(frozen=True)
class Device:
    """A machine as measured. Rates are FLOP/s and bytes/s, memory in bytes."""

    kind: str
    name: str
    threads: int
    memory_bytes: int
    free_bytes: int
    matmul_flops: dict[str, float]
    bandwidth: float
    dtype: str
    features: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def peak_flops(self) -> float:
        """The measured matrix peak of the dtype in use."""
        return self.matmul_flops[self.dtype]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@functools.lru_cache(maxsize=1)
def torch_device() -> torch.device:
    """The device that work runs on: an accelerator that answers a launch, else the CPU.

    `DANLU_DEVICE` (cpu, cuda, cuda:1, mps) overrides the choice.
    """
    return _choose_device()[0]


def probe(refresh: bool = False) -> Device:
    """Measure this machine (about a second on a CPU). The result is kept for the life of the process."""
    if refresh:
        _probe.cache_clear()
    return _probe()


def peak_bytes() -> int:
    """The most memory that this process has held so far. On Linux `ru_maxrss` would begin at what its parent held."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def choose_dtype(rates: Mapping[str, float], has_instructions: bool) -> str:
    """The dtype to multiply in: the faster one, in the same way in every run on this machine.

    `rates` are FLOP/s as measured. On a busy machine a measurement may be off by a factor, and a run that changes its
    mind about the dtype does not end in the same bits. So where there are instructions for bfloat16 it must lose by
    far, and where there are none (products are emulated, a hundred times slower) it must win by far.

    >>> choose_dtype({"float32": 200e9, "bfloat16": 150e9}, True)
    'bfloat16'
    """
    needed = 0.25 if has_instructions else 1.5
    return "bfloat16" if rates.get("bfloat16", 0.0) > needed * rates["float32"] else "float32"


@functools.lru_cache(maxsize=1)
def _probe() -> Device:
    import psutil
    import torch

    device, notes = _choose_device()
    rates = {name: _matmul_rate(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        name = properties.name
        features: tuple[str, ...] = (f"compute capability {properties.major}.{properties.minor}",)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        name, features = cpu_name(), _cpu_features()
    dtype = choose_dtype(rates, device.type == "cuda" or any(f in _HAS_BF16 for f in features))
    return Device(
        kind=device.type,
        name=name,
        threads=torch.get_num_threads(),
        memory_bytes=int(total),
        free_bytes=int(free),
        matmul_flops=rates,
        bandwidth=_read_rate(device),
        dtype=dtype,
        features=features,
        notes=notes,
    )


@functools.lru_cache(maxsize=1)
def _choose_device() -> tuple[torch.device, tuple[str, ...]]:
    import torch

    wanted = os.environ.get("DANLU_DEVICE", "")
    candidates = [wanted] if wanted else [name for name in ("cuda", "mps") if _reported(name)]
    notes: list[str] = []
    for name in candidates:
        try:
            device = torch.device(name)
            ones = torch.ones(64, 64, device=device)
            if float((ones @ ones)[0, 0]) == 64.0:  # the launch is the test
                return device, tuple(notes)
            notes.append(f"{name} computes wrong results and is not used")
        except (RuntimeError, AssertionError) as error:
            notes.append(f"{name} is reported but does not run ({str(error).splitlines()[0]})")
    return torch.device("cpu"), tuple(notes)


def _reported(name: str) -> bool:
    import torch

    return torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()


def _matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """Best FLOP/s of a square product, growing the matrix until one product takes a measurable time."""
    import torch

    best = 0.0
    sizes = (128, 256, 512, 1024) if device.type == "cpu" else (1024, 4096, 8192)
    deadline = time.perf_counter() + 4 * seconds
    for n in sizes:
        try:
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            a @ b
        except RuntimeError:  # this dtype is not there
            return best
        _synchronize(device)
        start = time.perf_counter()
        while True:
            begin = time.perf_counter()
            a @ b
            _synchronize(device)
            now = time.perf_counter()
            best = max(best, 2 * n**3 / (now - begin))
            if now - start > seconds or now > deadline:
                break
        if now > deadline or (8 * 2 * n**3) / best > 4 * seconds:
            break  # the next size would take too long: this dtype is slow here
    return best


def _read_rate(device: torch.device, size: int = 256 * 2**20) -> float:
    """Best bytes/s of summing a vector of `size` bytes."""
    import torch

    data = torch.ones(size // 4, device=device)
    best = 0.0
    for _ in range(4):
        _synchronize(device)
        begin = time.perf_counter()
        data.sum()
        _synchronize(device)
        best = max(best, size / (time.perf_counter() - begin))
    return best


def _synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_features() -> tuple[str, ...]:
    """The vector instructions that matter here, as the system lists them. What they are worth is measured."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimd", "i8mm", "bf16")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            words = next((set(line.split()) for line in handle if line.startswith(("flags", "Features"))), set())
    except OSError:
        words = set()
    return tuple(name for name in wanted if name in words)
