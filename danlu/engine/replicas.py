"""Data parallel: several engines of one model, each in a process of its own, behind the doors of one.

One engine takes one step at a time, and Python between the steps holds one core. N engines take N. Each has its own
weights and its own KV cache, so this is for models that fit several times; for one that does not, see parallel.py.

    submit ──▶ front desk ──▶ choose ──pipe──▶ replica 0: submit, step, step, ... ─┐
               (checks)                        replica 1                           ├─pipe──▶ step() ──▶ Deltas
                                               replica 2                          ─┘

`Replicas` has the doors of `Engine` that a server uses, with the same meaning; its `step` waits for what the replicas
made. The front desk is an ordinary engine whose model has no weights: it turns text into ids, compiles grammars and
refuses what can never be answered, in the words of every engine, and computes nothing.

Who gets a request: the one for whom

    answers in the making * 64 - tokens of the prompt whose keys and values it should still have

is smallest. A token found in the cache is one not computed; an answer in the making takes a place in every step. So a
conversation stays with the replica that has read it, and a system prompt of 1,000 tokens gathers its requests on one
replica until that one has some 16 more to do than another; from then on both know it. (64 is not tuned.) What a replica
should have is what it was sent, as hashes of block after block, the latest of as many blocks as its cache has.

Adapters are loaded by all replicas, and by the front desk, which reads and checks them first and keeps no weights. What
is said to a replica arrives in order, so a request never comes before its adapter; a replica that is started again is
told of those that there are then.

A replica that ends, for whatever reason, takes its answers with it: each gets a last Delta with finish_reason "lost".
The others go on, and it is started again. Requests are not repeated by themselves: one of them may be the reason.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as ListLike
from concurrent.futures import Future
from dataclasses import fields, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from danlu.core.device import torch_device
from danlu.core.errors import UserError
from danlu.engine.child import Child, ProcessLost
from danlu.engine.engine import RATE_SECONDS, Prompt, Stats
from danlu.engine.replica import Facts, Order
from danlu.engine.request import Delta, Request, Sampling

if TYPE_CHECKING:
    from danlu.engine.structured import Matcher
    from danlu.tokenizer.tokenizer import Tokenizer

ANSWER = 64  # tokens that a replica must know already, to be worth waiting behind one more answer
LOOK_AGAIN = 0.1  # seconds after which `step` notices a replica that was started again
LONGEST_PAUSE = 60.0  # seconds between two attempts to start a replica

log = logging.getLogger("danlu.engine")


class Replicas:
    """`n` engines of the model at `source`; `options` are those of `Engine`, for each of them.

    On a CPU they share the threads of this process, and for their caches what one engine would take (`kv_bytes`, if
    given, is for each). On GPUs each has its own. Returns when all are ready. Raises UserError as Engine does. Threads:
    as with Engine `step` belongs to one thread, the rest to any.
    """

    def __init__(self, source: str | Path, n: int, **options: Any) -> None:
        if not isinstance(n, int) or n < 1:
            raise UserError(f"replicas is {n!r}", "it must be a whole number of at least 1")
        adapters = options.pop("adapters", None) or {}
        self._orders = _orders(str(source), n, options)
        self._lock = threading.Lock()  # guards all below, and the sending on pipes
        self._replicas: list[_Replica] = []  # those that take requests, or still owe an answer
        self._starting: list[Child] = []
        self._adapters: dict[str, str | Path] = {}  # name -> source, of those that every replica was told of
        self._changing = threading.Lock()  # held while an adapter comes or goes, and taken before the other
        self._past = total([])  # what replicas that ended had counted
        self._closed = threading.Event()
        first: list[Future[Facts]] = [Future() for _ in range(n)]
        for number, ready in enumerate(first):
            threading.Thread(target=self._keep, args=(number, ready), name=f"replica {number}", daemon=True).start()
        try:
            facts = min((ready.result() for ready in first), key=lambda one: one.n_blocks)
            self._desk = facts.desk()
            for adapter, path in adapters.items():
                self.load_adapter(adapter, path)
        except BaseException:
            self.close()
            raise
        self.tokenizer: Tokenizer | None = self._desk.tokenizer
        self.adapters = self._desk.adapters
        self.stop_ids = self._desk.stop_ids
        self.max_context = self._desk.max_context
        self.max_sequences = n * self._desk.max_sequences
        self.capacity = n * self._desk.capacity
        self.artifact_id = facts.artifact_id

    # --- the doors of an engine ---------------------------------------------------------------------------------------

    def encode(self, prompt: Prompt) -> list[int]:
        """As `Engine.encode`."""
        return self._desk.encode(prompt)

    def prepare(self, sampling: Sampling) -> Matcher | None:
        """As `Engine.prepare`. The replica compiles again, beside its steps."""
        return self._desk.prepare(sampling)

    def submit(
        self, prompt_ids: ListLike[int], sampling: Sampling, priority: int = 0, adapter: str | None = None
    ) -> Request:
        """As `Engine.submit`. Raises ProcessLost when no replica is running.

        What an answer brings is in the deltas: the request itself stays as it is.
        """
        request = self._desk._request(list(prompt_ids), sampling, None, adapter)
        root = request.adapter.number if request.adapter is not None else 0
        blocks = list(_chain(request.prompt_ids, self._desk.cache.block_size, root))
        with self._lock:
            if adapter is not None and adapter not in self._adapters:
                raise UserError(f'the adapter "{adapter}" is being loaded or was just unloaded', "try again shortly")
            while candidates := [replica for replica in self._replicas if replica.alive]:
                chosen = min(candidates, key=lambda replica: replica.cost(blocks))
                if chosen.send(("submit", request.id, request.prompt_ids, sampling, priority, adapter)):
                    chosen.take(request, blocks)
                    return request
        raise ProcessLost("no replica of the model is running", "one is being started; try again shortly")

    def cancel(self, request_id: str) -> None:
        """As `Engine.cancel`; the slot is free after the step that the replica is in."""
        with self._lock:
            for replica in self._replicas:
                if replica.open.pop(request_id, None) is not None:
                    replica.send(("cancel", request_id))

    def load_adapter(self, name: str, source: str | Path) -> None:
        """As `Engine.load_adapter`, on every replica."""
        with self._changing:
            self._desk.load_adapter(name, source)
            with self._lock:
                self._adapters[name] = source
                for replica in self._replicas:
                    replica.send(("load", name, source))

    def unload_adapter(self, name: str) -> None:
        """As `Engine.unload_adapter`, on every replica."""
        with self._changing, self._lock:
            self._desk.unload_adapter(name)
            del self._adapters[name]
            for replica in self._replicas:
                replica.send(("unload", name))

    @property
    def has_work(self) -> bool:
        with self._lock:
            return any(replica.open for replica in self._replicas)

    def step(self) -> list[Delta]:
        """Wait until a replica has made something, for at most LOOK_AGAIN seconds; return what all have made."""
        with self._lock:
            by_pipe = {replica.child.pipe: replica for replica in self._replicas}
        deltas: list[Delta] = []
        for pipe in wait(list(by_pipe), LOOK_AGAIN):
            replica = by_pipe[pipe]  # type: ignore[index]
            try:
                made, stats = replica.child.pipe.recv()
            except (EOFError, OSError):
                deltas += self._bury(replica)
                continue
            with self._lock:
                deltas += [delta for delta in made if replica.settle(delta)]
                replica.stats, replica.told = stats, time.monotonic()
        return deltas

    @property
    def stats(self) -> Stats:
        """All replicas together: counters, blocks and speeds are added up."""
        with self._lock:
            return total([self._past, *(replica.now() for replica in self._replicas)])

    def close(self) -> None:
        """End the replicas; what they were writing is lost. May be called twice."""
        self._closed.set()
        with self._lock:
            children = [*self._starting, *(replica.child for replica in self._replicas)]
            self._replicas.clear()
        for child in children:
            child.end()

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- births and deaths --------------------------------------------------------------------------------------------

    def _keep(self, number: int, ready: Future[Facts]) -> None:
        """A thread for each place: start a replica, wait for its end, start the next."""
        pause = 1.0
        while not self._closed.is_set():
            try:
                replica = self._start(number, ready)
                pause = 1.0
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)
                    return
                if self._closed.is_set():
                    return
                log.warning("replica %d cannot be started: %s", number, error)
                self._closed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            replica.child.process.wait()
            with self._lock:
                replica.alive = False
                unread = bool(replica.open)
            if not unread:
                self._bury(replica)  # else `step` does it, when it has read what came before the end
            if not self._closed.is_set():
                log.warning("replica %d ended (%s); it is started again", number, replica.child.ended())

    def _start(self, number: int, ready: Future[Facts]) -> _Replica:
        order, environment = self._orders[number]
        with self._lock:
            if self._closed.is_set():
                raise ProcessLost("the engine was closed")
            child = Child("danlu.engine.replica", "work", environment)
            self._starting.append(child)
        try:
            child.pipe.send(order)
            answer = child.pipe.recv()
        except (EOFError, OSError):
            answer = ProcessLost(f"replica {number} ended while it was loading the model ({child.ended(5.0)})")
        with self._lock:
            self._starting.remove(child)
            if isinstance(answer, Exception) or self._closed.is_set():
                child.end()
                raise answer if isinstance(answer, Exception) else ProcessLost("the engine was closed")
            replica = _Replica(child, answer.n_blocks, answer.block_size)
            for name, source in self._adapters.items():
                replica.send(("load", name, source))
            self._replicas.append(replica)
        if not ready.done():
            ready.set_result(answer)
        return replica

    def _bury(self, replica: _Replica) -> list[Delta]:
        """Forget a replica that ended; returns the last deltas of its answers. Harmless the second time."""
        with self._lock:
            if replica not in self._replicas:
                return []
            self._replicas.remove(replica)
            counted = replace(replica.stats, kv_blocks=0, kv_blocks_used=0, tokens_per_second=0.0)
            self._past = replace(total([self._past, counted]), running=0, waiting=0)
            lost = [
                Delta(name, index, "", (), finish_reason="lost")
                for name, left in replica.open.items()
                for index in left
            ]
            replica.open.clear()
        return lost


class _Replica:
    """What is known here of one process: its answers in the making, and what its cache should hold."""

    def __init__(self, child: Child, n_blocks: int, block_size: int) -> None:
        self.child, self.n_blocks, self.block_size = child, n_blocks, block_size
        self.alive = True
        self.open: dict[str, set[int]] = {}  # request -> indices of its answers that are not finished
        self.known: OrderedDict[int, None] = OrderedDict()  # hashes of blocks, the latest last
        self.taken = 0  # requests so far
        self.stats = total([])
        self.told = 0.0  # when

    def cost(self, blocks: list[int]) -> tuple[int, int]:
        """The smaller, the better; see the head of the file. Of equals the one that had the fewest requests."""
        known = next((i for i, block in enumerate(blocks) if block not in self.known), len(blocks))
        return sum(map(len, self.open.values())) * ANSWER - known * self.block_size, self.taken

    def take(self, request: Request, blocks: list[int]) -> None:
        self.open[request.id] = set(range(request.sampling.n))
        self.taken += 1
        for block in blocks:
            self.known[block] = None
            self.known.move_to_end(block)
        while len(self.known) > self.n_blocks:
            self.known.popitem(last=False)

    def settle(self, delta: Delta) -> bool:
        """Whether somebody waits for this delta; strikes off an answer that ends with it."""
        left = self.open.get(delta.request_id)
        if left is None:
            return False  # cancelled
        if delta.finish_reason is not None:
            left.discard(delta.index)
            if not left:
                del self.open[delta.request_id]
        return True

    def send(self, message: tuple[Any, ...]) -> bool:
        """False when the process is gone."""
        try:
            self.child.pipe.send(message)
        except OSError:
            self.alive = False
        return self.alive

    def now(self) -> Stats:
        """Its last word, with what has changed since: what was sent and not begun, and a speed that is over."""
        answers = sum(map(len, self.open.values()))
        running = min(self.stats.running, answers)
        fresh = time.monotonic() - self.told < RATE_SECONDS
        speed = self.stats.tokens_per_second if fresh else 0.0
        return replace(self.stats, running=running, waiting=answers - running, tokens_per_second=speed)


def _chain(tokens: list[int], size: int, root: int = 0) -> Iterator[int]:
    """A number for each full block of `tokens`, which stands for it and all before it, and for the adapter (0: none)
    under which it was read. As good as unique."""
    number = root
    for start in range(0, len(tokens) - size + 1, size):
        number = hash((number, *tokens[start : start + size]))
        yield number


def total(parts: ListLike[Stats]) -> Stats:
    """The stats of several engines as one: sums, but the longest of the last steps, and the share of all blocks."""
    added: dict[str, Any] = {}
    for field in fields(Stats):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "finished":
            added[field.name] = dict(sum(map(Counter, values), Counter()))
        else:
            added[field.name] = max(values, default=0.0) if field.name == "last_step_seconds" else sum(values)
    added["kv_used"] = added["kv_blocks_used"] / max(added["kv_blocks"], 1)
    return Stats(**added)


def _orders(source: str, n: int, options: dict[str, Any]) -> list[tuple[Order, dict[str, str]]]:
    """What each replica is told, and its environment: a share of the CPU, or GPUs of its own."""
    device = torch.device(options.get("device") or torch_device())
    threads = max(1, torch.get_num_threads() // n)
    if device.type != "cuda":
        share = {"kv_bytes": int(psutil.virtual_memory().available) // 4 // n}
        return [(Order(source, share | options, threads), {})] * n
    each = options.get("tensor_parallel", 1)
    if n * each > torch.cuda.device_count():
        raise UserError(
            f"{n} replicas need {n * each} GPUs, and this machine has {torch.cuda.device_count()}", "start fewer"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    all_gpus = named.split(",") if named else [str(number) for number in range(n * each)]
    mine = [",".join(all_gpus[number * each : (number + 1) * each]) for number in range(n)]
    return [(Order(source, options, threads), {"CUDA_VISIBLE_DEVICES": gpus}) for gpus in mine]
