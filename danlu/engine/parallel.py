"""Tensor parallel: one model over several processes, each with a slice of every matrix.

The cut is Megatron's (Shoeybi et al., arXiv:1909.08053, section 3), and cutting.py makes it. A matrix that reads the
whole hidden vector is cut by rows, the one behind it by columns; between the two nothing needs to be exchanged:

    embedding   by rows      a rank finds the ids it has, the sum over all ranks has them all     all-reduce
    qkv         by rows      whole KV heads, and the query heads that read them
    out         by columns   each rank adds up its own heads                                      all-reduce
    gate_up     by rows      of gate and of up the same
    down        by columns   each rank adds up its own inner numbers                              all-reduce
    head        by rows      each rank has the logits of its part of the vocabulary               all-gather

Norms and learned positions are whole everywhere. What a rank has is therefore an ordinary, smaller decoder (H / N
heads, Hkv / N KV heads, F / N inner numbers) with sums in a few places; its KV cache is an ordinary cache of its heads,
and its runner the ordinary torch runner. The compiled kernels take no part: a step of theirs is one call, with no place
to meet in.

Adapters are cut like the matrices they change, so that their part is in the same sums: what a rank adds to its slice of
an output, or to its share of one, is there before the ranks add up.

Rank 0 is the engine's own process: requests, scheduler and sampler are there and know nothing of this file. The others
wait for a batch, compute, and wait for the next. Block numbers mean the same in every cache: rank 0's tables serve all.

    rank 0   schedule ── batch (batch.py) ─┐  run ◀─ all-reduce ─▶  logits ─▶ sample
    rank r                                 └▶ run ◀─ all-reduce ─▶  its part of them

    to a rank    ("adapter", LoadedAdapter, its part)         beside a step, from any thread: it lies there until read
                 ("run", batch, numbers of adapters that nobody has any more)

The groups are gloo's on CPUs (over loopback) and NCCL's on GPUs, one GPU a rank. They are objects of this engine and
not torch's global group: a process may have several engines, or train.

When a rank dies, the sums of the others fail: the step raises ProcessLost, and so does every later one. (gloo says so
at once; NCCL's own watchdog notices after PATIENCE.) When rank 0 dies, the others do (child.py). Rank 0 reads the model
and sends each rank its slices, so that every kind of file, and a model in memory, takes the same way.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.engine.batch import Batch, Logits
from danlu.engine.child import Child, ProcessLost
from danlu.engine.cutting import check_division, cut, cut_adapter, packed, unpacked, vocabulary
from danlu.engine.kv_cache import KVCache
from danlu.engine.runner import Runner
from danlu.model.config import ModelConfig
from danlu.model.quantized import Scheme, schemes_of, swap_
from danlu.model.transformer import Transformer

if TYPE_CHECKING:
    from danlu.engine.adapters import LoadedAdapter
    from danlu.model.adapter import Adapter

PATIENCE = timedelta(minutes=5)  # a rank that has not come to a sum by then is stuck
AFTER_ERROR = 2.0  # seconds in which a rank that caused an error has ended


class ParallelRunner:
    """Rank 0 of a model over `size` processes: its own slice, and the way to the others.

    A runner like the others once `use` gave it a cache. Starts the processes; raises UserError for a model that cannot
    be cut like this, before it starts any.
    """

    def __init__(self, model: Transformer, size: int, device: torch.device) -> None:
        schemes = schemes_of(model)
        check_division(model, size)
        _check_devices(size, device)
        self.size, self.device, self._config = size, _device_of(device, 0), model.config
        self._failure: str | None = None
        self._sending = threading.Lock()  # a message goes to all ranks before the next one does
        self._unused: deque[int] = deque()  # numbers of adapters that are to be forgotten
        self._threads = torch.get_num_threads()
        self._children = [Child("danlu.engine.parallel", "work") for _ in range(1, size)]
        self._folder = tempfile.TemporaryDirectory(prefix="danlu-")  # where the ranks meet
        try:
            for child in self._children:
                child.pipe.recv()  # it runs: from here on all go into the group together
            threads = max(1, self._threads // size)
            for rank, child in enumerate(self._children, 1):
                child.pipe.send(_Part(rank, size, self._folder.name, device, threads, model.config, schemes))
            torch.set_num_threads(threads)
            self._group = Group(self._folder.name, 0, size, self.device)
            self.model = assemble(self._hand_out(model), model.config, schemes, self._group)
        except BaseException as error:
            self._give_up(error)

    def use(self, cache: KVCache) -> None:
        """Compute into `cache`, which has rank 0's heads; the other ranks make the same for theirs."""
        self._runner = Runner(self.model, cache, self.device, alone=False)
        for child in self._children:
            child.pipe.send((cache.shape, cache.n_blocks, cache.block_size))

    def add_adapter(self, loaded: LoadedAdapter, adapter: Adapter) -> None:
        """As `Runner.add_adapter`, on every rank. Raises ProcessLost when a rank is gone."""
        self._runner.add_adapter(loaded, cut_adapter(adapter, 0, self.size, self._config))
        self._tell(*(
            ("adapter", loaded, packed(cut_adapter(adapter, rank, self.size, self._config)))
            for rank in range(1, self.size)
        ))  # fmt: skip
        weakref.finalize(loaded, self._unused.append, loaded.number)  # may be called in any thread, at any time

    def run(self, batch: Batch) -> tuple[Logits, Tensor]:
        """As `Runner.run`. Raises ProcessLost when a rank is gone."""
        unused = [self._unused.popleft() for _ in range(len(self._unused))]
        self._tell(*[("run", batch, unused)] * (self.size - 1))
        try:
            logits, hidden = self._runner.run(batch)  # hidden states are whole on every rank
            return Logits.of(self._group.join(logits.full, self.model.config.vocab_size)), hidden
        except BaseException as error:
            self._give_up(error)

    def _tell(self, *messages: tuple[Any, ...]) -> None:
        """Send each of the other ranks its message."""
        if self._failure is not None:
            raise ProcessLost(self._failure, "make a new engine")
        try:
            with self._sending:
                for child, message in zip(self._children, messages, strict=True):
                    child.pipe.send(message)
        except BaseException as error:
            self._give_up(error)

    def close(self) -> None:
        """End the other ranks. May be called twice."""
        self._failure = self._failure or "the engine was closed"
        for child in self._children:
            child.end()
        self._folder.cleanup()
        torch.set_num_threads(self._threads)

    def _hand_out(self, model: Transformer) -> dict[str, Tensor]:
        """Send every rank its slices, one tensor after the other; returns rank 0's."""
        own = {}
        for name, tensor in model.state_dict().items():
            for rank, child in enumerate(self._children, 1):
                piece = cut(name, tensor, rank, self.size, model.config)
                child.pipe.send((name, piece.shape, piece.dtype))
                self._group.send(piece.to(self.device), rank)
            mine = cut(name, tensor, 0, self.size, model.config).to(self.device)
            own[name] = mine.clone(memory_format=torch.contiguous_format)  # a view would keep the whole alive
        for child in self._children:
            child.pipe.send(None)
        return own

    def _give_up(self, error: BaseException) -> NoReturn:
        """After an error the ranks stand at different places and cannot go on: end them and say who began it."""
        deadline = time.monotonic() + (AFTER_ERROR if isinstance(error, Exception) else 0.0)
        gone: list[str] = []
        for rank, child in enumerate(self._children, 1):
            end = child.ended(max(0.0, deadline - time.monotonic()))
            if end is not None and (words := _last_words(child)):
                gone.append(f"rank {rank} of {self.size} failed: {words}")
            elif end is not None:  # killed: this one began it, and those that lost it say so
                gone.insert(0, f"rank {rank} of {self.size} ended: {end}")
        self._failure = gone[0] if gone else f"a step was broken off ({type(error).__name__})"
        self.close()
        if gone and isinstance(error, Exception):
            raise ProcessLost(gone[0], "make a new engine") from error
        raise error


class Group:
    """The ranks, as a place to add and join tensors. Every rank makes its own; the first to come wait for the last."""

    def __init__(self, folder: str, rank: int, size: int, device: torch.device) -> None:
        from torch import distributed

        self.rank, self.size = rank, size
        store = distributed.FileStore(f"{folder}/ranks", size)
        options: Any
        if device.type == "cuda":
            torch.cuda.set_device(device)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # its ranks also meet over loopback, and nowhere else
            backend: Any = distributed.ProcessGroupNCCL
            options = backend.Options()
        else:
            backend = distributed.ProcessGroupGloo
            options = backend._Options()
            options._devices = [backend.create_device(hostname="127.0.0.1")]
        options._timeout = PATIENCE
        self._backend = backend(store, rank, size, options)

    def add(self, x: Tensor) -> Tensor:
        """The sum of the `x` of all ranks, in the memory of `x`."""
        self._backend.allreduce([x]).wait()
        return x

    def join(self, part: Tensor, width: int) -> Tensor:
        """[S, width / size] of each rank, the last may be narrower -> [S, width]."""
        if not len(part):
            return part.new_empty(0, width)
        part = F.pad(part, (0, -(-width // self.size) - part.shape[1])).contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self._backend.allgather([parts], [part]).wait()
        return torch.cat(parts, dim=1)[:, :width]

    def send(self, x: Tensor, to: int) -> None:
        self._backend.send([x.contiguous()], to, 0).wait()

    def receive(self, x: Tensor) -> Tensor:
        """Fill `x` with what rank 0 sends."""
        self._backend.recv([x], 0, 0).wait()
        return x


def assemble(state: dict[str, Tensor], config: ModelConfig, schemes: Mapping[str, Scheme], group: Group) -> Transformer:
    """A rank's decoder from its slices. `config` is the whole model's.

    Its `config` has the rank's heads and inner numbers, and the whole vocabulary: that is what the engine asks for.
    """
    tokens = vocabulary(config, group.rank, group.size)
    part = {
        "n_heads": config.n_heads // group.size,
        "n_kv_heads": config.n_kv_heads // group.size,
        "intermediate_size": config.intermediate_size // group.size,
    }
    with torch.device("meta"):
        model = Transformer(config.model_copy(update=part | {"vocab_size": tokens.stop - tokens.start}))
    swap_(model, schemes)
    model.load_state_dict(state, assign=True)
    blocks: Any = model.blocks
    for block in blocks:
        for module in (block.attention.out, block.mlp.down):
            module.register_forward_hook(lambda module, inputs, output: group.add(output))
    model.set_submodule("embedding", VocabularySlice(model.embedding, tokens, group))
    model.config = config.model_copy(update=part)
    return model.eval()


class VocabularySlice(nn.Module):
    """An embedding of which each rank has some rows: ids [...] -> [..., D], the same on every rank.

    With ids [0, 7] and rows 0..4 here, 5..9 on the other rank: [row 0, 0] + [0, row 7].
    """

    def __init__(self, table: Any, tokens: slice, group: Group) -> None:
        super().__init__()
        self.table, self.tokens, self.group = table, tokens, group

    def forward(self, ids: Tensor) -> Tensor:
        elsewhere = (ids < self.tokens.start) | (ids >= self.tokens.stop)
        rows = self.table((ids - self.tokens.start).masked_fill(elsewhere, 0))
        return self.group.add(rows.masked_fill(elsewhere[..., None], 0.0))

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> the logits of this rank's tokens."""
        return self.table.project(hidden)


# --- the other ranks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What a rank must know before its slices come."""

    rank: int
    size: int
    folder: str  # where the ranks meet
    device: torch.device
    threads: int
    config: ModelConfig
    schemes: dict[str, Scheme]


def work(pipe: Connection) -> None:
    """The life of a rank: its slices, its cache, then one batch after the other until the pipe is closed."""
    pipe.send("running")
    try:
        part: _Part = pipe.recv()
        torch.set_num_threads(part.threads)
        device = _device_of(part.device, part.rank)
        group = Group(part.folder, part.rank, part.size, device)
        state = {}
        while (coming := pipe.recv()) is not None:
            name, shape, dtype = coming
            state[name] = group.receive(torch.empty(shape, dtype=dtype, device=device))
        model = assemble(state, part.config, part.schemes, group)
        shape, n_blocks, block_size = pipe.recv()
        runner = Runner(model, KVCache(shape, n_blocks, block_size, device), device, alone=False)
        adapters: dict[int, LoadedAdapter] = {}
        while True:
            match pipe.recv():
                case ("adapter", loaded, data):
                    adapters[loaded.number] = loaded
                    runner.add_adapter(loaded, unpacked(data))
                case ("run", batch, unused):
                    for number in unused:
                        del adapters[number]
                    logits, _ = runner.run(_with_own(batch, adapters))
                    group.join(logits.full, part.config.vocab_size)
    except EOFError:
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")  # for `_last_words`


def _with_own(batch: Batch, adapters: dict[int, LoadedAdapter]) -> Batch:
    """A batch that came through a pipe, with the adapters of this rank: its own are copies of rank 0's."""
    spans = [
        span if span.adapter is None else replace(span, adapter=adapters[span.adapter.number]) for span in batch.spans
    ]
    return replace(batch, spans=spans)


def _last_words(child: Child) -> str:
    try:
        return str(child.pipe.recv()).splitlines()[0] if child.pipe.poll() else ""
    except (EOFError, OSError):
        return ""


def _check_devices(size: int, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda") or device.index:
        raise UserError(f'tensor_parallel is {size}, and device is "{device}"', 'it may be "cpu" or "cuda" (from 0 on)')
    if device.type == "cuda" and torch.cuda.device_count() < size:
        raise UserError(
            f"tensor_parallel is {size}, but this machine has {torch.cuda.device_count()} GPUs", "one GPU a rank"
        )


def _device_of(device: torch.device, rank: int) -> torch.device:
    return torch.device("cuda", rank) if device.type == "cuda" else device
