"""One replica of a model: an engine at the end of a pipe (replicas.py holds the other end).

    Order ──▶ Engine(...)                                   in the new process
          ◀── Facts, or the exception that it raised
    ("submit", name, prompt ids, sampling, priority, adapter) ──▶ submit       as requests come and go
    ("cancel", name) ──▶ cancel
    ("load", adapter, source), ("unload", adapter) ──▶ load_adapter, unload_adapter
          ◀── ([Delta, ...], Stats)                         after each step; deltas bear the name given in "submit"

An exception in a step ends the process. Whoever holds the other end finds it closed, and starts another.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch

from danlu.core.errors import DanluError, UserError
from danlu.engine.engine import Engine
from danlu.engine.kv_cache import CacheShape
from danlu.engine.request import Delta, Request

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig

log = logging.getLogger("danlu.engine")


@dataclass(frozen=True)
class Order:
    """What a replica is told first: arguments of `Engine`, and its share of the processor."""

    source: str
    options: dict[str, Any]
    threads: int


@dataclass(frozen=True)
class Facts:
    """What a replica says of itself when it is ready."""

    config: ModelConfig
    tokenizer: tuple[str, dict[str, Any]] | None  # the two arguments of Tokenizer
    artifact_id: str | None
    n_blocks: int
    block_size: int
    max_context: int
    max_sequences: int

    def desk(self) -> Engine:
        """An engine of this shape without weights: it refuses what the replica would refuse, adapters among it."""
        from danlu.model.transformer import Transformer
        from danlu.tokenizer.tokenizer import Tokenizer

        with torch.device("meta"):
            model = Transformer(self.config)
        per_token = CacheShape(self.config.n_layers, self.config.n_kv_heads, self.config.head_dim).bytes_per_token
        return Engine(
            (model, Tokenizer(*self.tokenizer) if self.tokenizer is not None else None),
            max_context=self.max_context,
            max_sequences=self.max_sequences,
            block_size=self.block_size,
            kv_bytes=self.n_blocks * self.block_size * per_token,
        )


def work(pipe: Connection) -> None:
    """The life of a replica: load the model, then answer until the pipe is closed."""
    order: Order = pipe.recv()
    torch.set_num_threads(order.threads)
    try:
        engine = Engine(order.source, **order.options)
    except Exception as error:
        pipe.send(error if isinstance(error, DanluError) else DanluError(f"{type(error).__name__}: {error}"))
        return
    tokenizer = engine.tokenizer
    pipe.send(
        Facts(
            engine.config,
            (tokenizer.to_json(), tokenizer.config) if tokenizer is not None else None,
            engine.artifact_id,
            engine.cache.n_blocks,
            engine.cache.block_size,
            engine.max_context,
            engine.max_sequences,
        )
    )
    made: deque[Delta] = deque()
    wake = threading.Event()
    threading.Thread(target=_guarded, args=(pipe, engine, made, wake), daemon=True).start()
    while True:
        wake.wait()
        wake.clear()
        while engine.has_work:
            engine.step()  # an exception ends the process, and that is how the front desk learns of it
            pipe.send(([made.popleft() for _ in range(len(made))], engine.stats))
        pipe.send(([made.popleft() for _ in range(len(made))], engine.stats))  # what was cancelled runs no more


def _read(pipe: Connection, engine: Engine, made: deque[Delta], wake: threading.Event) -> None:
    """Hand messages to the engine. In a thread of its own: a grammar that compiles slowly stops nobody's answer."""
    requests: dict[str, Request] = {}  # by the name that the front desk gave them
    while True:
        message = pipe.recv()
        for name in [name for name, request in requests.items() if request.finished]:
            del requests[name]
        match message:
            case ("submit", name, prompt_ids, sampling, priority, adapter):
                try:
                    requests[name] = engine.submit(
                        prompt_ids, sampling, _renamed(name, made), priority=priority, adapter=adapter
                    )
                except UserError as error:  # the front desk asks first: it can only be a matter of time or memory
                    log.warning("%s was refused by its replica: %s", name, error)
                    made.extend(Delta(name, index, "", (), finish_reason="lost") for index in range(sampling.n))
            case ("cancel", name) if name in requests:
                engine.cancel(requests[name].id)
            case ("load", adapter, source):
                try:
                    engine.load_adapter(adapter, source)
                except UserError as error:  # it was whole when the front desk read it
                    log.warning("a replica cannot load what the others have: %s", error)
            case ("unload", adapter) if adapter in engine.adapters.names:
                engine.unload_adapter(adapter)
        wake.set()


def _guarded(*arguments: Any) -> None:
    """`_read`; with it ends the process, for a replica that hears nothing is worse than none."""
    try:
        _read(*arguments)
    except EOFError:
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def _renamed(name: str, made: deque[Delta]) -> Callable[[Delta], None]:
    return lambda delta: made.append(replace(delta, request_id=name))
