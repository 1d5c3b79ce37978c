"""Which tiles a kernel of danlu/kernels/gpu is fastest with: how the numbers in those files were found.

    python bench/gpu_tiles.py            everything, half a minute on an H200
    python bench/gpu_tiles.py row short  some kinds

Every launch is recorded in a CUDA graph over several sets of inputs, more than the L2 cache holds, and played back; the
median counts. Kernels are compiled beforehand, in several processes. Printed are microseconds a launch and the tiles,
the best four first; for the product of one row, cuBLAS and the time of reading the weights stand beside it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from gpu import copy_speed

BF16 = torch.bfloat16
SHAPES = ((3072, 2048), (2048, 2048), (16_384, 2048), (2048, 8192), (128_256, 2048))  # qkv, out, gate_up, down, head
INPUT_BYTES = 600_000_000
PROCESSES = 12
Tensors = tuple[torch.Tensor, ...]


class Job(NamedTuple):
    kind: str
    what: tuple[int, ...]
    tile: Any


def jobs(kinds: list[str]) -> Iterator[Job]:
    rows = {
        16: [(1, 2048, 4), (2, 2048, 4), (2, 2048, 8), (4, 1024, 8), (2, 4096, 8)],
        8: [(2, 2048, 4), (4, 2048, 4), (4, 1024, 4), (8, 512, 4), (2, 4096, 8)],
        4: [(4, 2048, 4), (8, 2048, 4), (8, 2048, 8), (4, 4096, 8), (2, 4096, 4), (8, 1024, 4)],
    }
    for bits, tiles in rows.items():
        yield from (Job("row", (bits, *shape), tile) for shape in SHAPES for tile in tiles)
    few = [(16, 64, 128, 8), (16, 32, 128, 4), (16, 64, 128, 4), (16, 32, 256, 4), (16, 64, 256, 4), (16, 64, 64, 4)]
    some = [(64, 64, 128, 4), (64, 64, 128, 8), (64, 128, 64, 8), (64, 64, 64, 4), (64, 32, 128, 4)]
    for bits in (8, 4):
        yield from (Job("few", (bits, *shape), tile) for shape in SHAPES[:4] for tile in few)
        yield from (Job("some", (bits, *SHAPES[2]), tile) for tile in some)
        yield from (Job("many", (bits, *SHAPES[2]), tile) for tile in [(16, 256), (16, 512), (8, 512), (32, 128)])
    for what in ((1, 300), (1, 2000), (32, 300), (128, 300)):
        tiles = [(16, 128, 4, 2), (16, 64, 4, 3), (16, 128, 8, 2)]
        yield from (Job("short", what, tile) for tile in itertools.product(tiles, (128, 256, 512)))
    yield from (Job("long", (1, 2048), t) for t in [(64, 64, 4, 3), (64, 64, 8, 3), (128, 64, 8, 2), (64, 128, 4, 2)])


def launches(job: Job, inputs: list[Tensors]) -> list[Callable[[], Any]]:
    """A launch for each set of inputs, with the tiles of the job put in the place of those in the file."""
    from danlu.kernels.gpu import attention, batch, matrix, row, widen

    kind, what, tile = job
    if kind == "row":
        row.TILES[what[0]] = tile
        x, y = (torch.randn(1, n, dtype=BF16, device="cuda") for n in (what[2], what[1]))
        return [lambda w=w: row.multiply_row(y, x, w[0], w[1] if len(w) > 1 else None, None, None) for w in inputs]
    if kind in ("few", "some", "many"):
        if kind == "many":
            widen.TILE = tile
        else:
            setattr(matrix, {"few": "SMALL", "some": "LARGE"}[kind], tile)
        x = torch.randn({"few": 8, "some": 64, "many": 2048}[kind], what[2], dtype=BF16, device="cuda")
        return [lambda w=w: matrix.quantized_linear(x, *w) for w in inputs]
    n_sequences, length = what
    n_rows = 1 if kind == "short" else length
    if kind == "short":
        attention.SMALL, split = tile
        attention.SPLIT = batch.SPLIT = split
    else:
        attention.LARGE = tile
    blocks = -(-length // 16)
    spans = [(i * n_rows, n_rows, length, list(range(i * blocks, (i + 1) * blocks))) for i in range(n_sequences)]
    paged = batch.PagedBatch.of(spans, "cuda")
    q = torch.randn(n_sequences * n_rows, 32, 64, dtype=BF16, device="cuda")
    return [lambda kv=kv: attention.paged_attention(q, *kv, paged, 0.125) for kv in inputs]


def make_inputs(job: Job, count: int | None = None) -> list[Tensors]:
    kind, what, _ = job
    if kind in ("short", "long"):
        size = (what[0] * -(-what[1] // 16), 16, 8, 64)
        return [tuple(torch.randn(size, dtype=BF16, device="cuda") for _ in range(2)) for _ in range(count or 12)]
    bits, n, k = what

    def weight() -> Tensors:
        if bits == 16:
            return (torch.randn(n, k, dtype=BF16, device="cuda"),)
        if bits == 8:
            whole = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
            return whole, torch.rand(n, 1, device="cuda")
        words = torch.randint(-(2**31), 2**31 - 1, (n, k // 8), dtype=torch.int32, device="cuda")
        return words, torch.rand(n, k // 32, device="cuda").half()

    return [weight() for _ in range(count or max(4, min(40, INPUT_BYTES * 8 // (n * k * bits))))]


def compile_some(kinds: list[str], number: int) -> None:
    for job in list(jobs(kinds))[number::PROCESSES]:
        if job.kind in kinds and not (job.kind == "row" and job.what[1] > 4000):  # compiled for a width, not a height
            launches(job, make_inputs(job, 1))[0]()


def microseconds(calls: list[Callable[[], Any]], rounds: int = 7) -> float:
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / len(calls) * 1000)
    return statistics.median(found)


def main() -> None:
    kinds = sys.argv[1:] or ["row", "few", "some", "many", "short", "long"]
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=compile_some, args=(kinds, number)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(torch.cuda.get_device_name(), torch.__version__)
    found: dict[tuple[str, tuple[int, ...]], list[tuple[float, Any]]] = defaultdict(list)
    known: tuple[Any, list[Tensors]] = (None, [])
    for job in jobs(kinds):
        if job.kind in kinds:
            if known[0] != job[:2]:
                known = job[:2], make_inputs(job)
            found[job[:2]].append((microseconds(launches(job, known[1])), job.tile))
    for (kind, what), times in found.items():
        best = "  ".join(f"{took:.2f} {tile}" for took, tile in sorted(times, key=lambda one: one[0])[:4])
        print(kind, *what, "|", best)
    if "row" in kinds:
        speed = copy_speed()
        x = {k: torch.randn(1, k, dtype=BF16, device="cuda") for k in (2048, 8192)}
        for n, k in SHAPES:
            weights = make_inputs(Job("row", (16, n, k), None))
            took = microseconds([lambda w=w, k=k: F.linear(x[k], w[0]) for w in weights])
            print(f"cuBLAS 16 {n} {k} | {took:.2f}  reading {2e6 * n * k / speed:.2f}")


if __name__ == "__main__":
    main()
