"""The thread that turns an engine's crank, and the bridge from it to the event loop.

An engine advances every running request by one batch with each `step()`, which takes milliseconds of pure computing. So
it gets a thread of its own; the event loop hands requests in and gets pieces back:

    event loop                                      worker thread
    submit: engine.submit, register, wake ────────▶ engine.step()
    ticket.queue ◀──────── call_soon_threadsafe ─── the deltas of the step, all in one call
    cancel: engine.cancel, forget ────────────────▶ (the slot is free before the next step)

A `Ticket` is one HTTP request: one or more prompts, each with `n` choices. Its deltas come through one asyncio queue,
so a stream of several choices interleaves by itself. A ticket leaves in one of three ways: its last choice finishes, it
is cancelled (the client went away), or the engine fails.

`_wake` guards the tickets and the routes from engine requests to tickets. `submit` holds it from before the engine
knows the request until the route is there, and deltas are delivered under it, so no delta can come before its route.

The thread sleeps while the engine has no work: an idle server costs nothing.

A server that takes every request answers none in time. So a new one is refused (503, `Overloaded`) while

    queue    more than `max_waiting` choices would be inside beyond those that can run at once, or
    memory   the prompts inside would fill the KV cache more than 1 + WAITING_CACHES times

and what is inside goes on. `Retry-After` is an estimate: how many must leave before there is room, over how many left a
second since the server was last empty. An empty server takes whatever can be computed at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError
from danlu.core.events import Events
from danlu.engine.child import ProcessLost
from danlu.serve import MAX_WAITING
from danlu.serve.wire import ApiError

if TYPE_CHECKING:
    from danlu.engine import Delta, Engine, Replicas, Sampling


WAITING_CACHES = 4  # not tuned
RETRY_SECONDS = (1, 60)  # the least and the most of Retry-After
RETRY_UNKNOWN = 5  # while fewer than two have left (a guess)
LEAVES_REMEMBERED = 32


class EngineFailure(Exception):
    """The engine raised in a step: the requests that were in it are lost, the server goes on."""


class Overloaded(ApiError):
    """No room for a new request; `reason` is "queue" or "memory"."""

    def __init__(self, reason: str, message: str, seconds: int) -> None:
        message = f"{message}; try again in {seconds} s"
        headers = {"Retry-After": str(seconds)}
        super().__init__(503, message, kind="server_error", code="overloaded", headers=headers)
        self.reason = reason


@dataclass(eq=False)
class Ticket:
    """One request's place in the engine, and the queue its deltas come through (see the opening comment)."""

    prompts: Sequence[list[int]]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[tuple[int, Delta] | BaseException | None] = field(default_factory=asyncio.Queue)
    first_choice: dict[str, int] = field(default_factory=dict)  # engine request id -> index of its first choice
    open_choices: int = 0

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.sampling.n

    @property
    def tokens(self) -> int:
        """What its choices need of the cache to begin, if nothing is shared."""
        return sum(map(len, self.prompts)) * self.sampling.n

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(choice, delta) as they are made, until every choice has finished. Raises what the engine raised."""
        while (item := await self.queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class EngineWorker:
    """Owns the thread that steps one engine. Everything public belongs to the event loop."""

    def __init__(
        self, name: str, engine: Engine | Replicas, *, max_waiting: int = MAX_WAITING, events: Events | None = None
    ) -> None:
        self.name, self.engine = name, engine
        self.limit = engine.max_sequences + max_waiting  # choices inside at once
        self.token_limit = (1 + WAITING_CACHES) * engine.capacity  # of their prompts
        self.events = events or Events()
        self.failure: str | None = None  # why the engine cannot go on, if it cannot; /health says so
        self.pending = 0  # choices in the engine or waiting for it
        self._wake = threading.Condition()
        self._tickets: dict[Ticket, None] = {}  # in the order they came
        self._leaves: deque[tuple[float, int]] = deque(maxlen=LEAVES_REMEMBERED)  # (when, choices) of the last ones
        self._routes: dict[str, Ticket] = {}
        self._draining = self._closed = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, prompts: Sequence[list[int]], sampling: Sampling, priority: int = 0, adapter: str | None = None
    ) -> Ticket:
        """Hand a request to the engine.

        Raises ApiError: 503 while overloaded (`Overloaded`), shutting down or broken, 400 for what the engine refuses.
        """
        ticket = Ticket(prompts, sampling, asyncio.get_running_loop())
        ticket.open_choices = ticket.choices
        with self._wake:
            self._admit(ticket)
            self._tickets[ticket] = None
            self.pending += ticket.choices
            self._idle.clear()
            try:
                for position, ids in enumerate(prompts):
                    request = self.engine.submit(ids, sampling, priority=priority, adapter=adapter)
                    ticket.first_choice[request.id] = position * sampling.n
                    self._routes[request.id] = ticket
            except UserError as error:
                self._leave(ticket)
                raise ApiError(400, str(error), code="invalid_value") from None
            except ProcessLost as error:
                self._leave(ticket)
                headers = {"Retry-After": "5"}
                raise ApiError(503, str(error), kind="server_error", code="starting", headers=headers) from None
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Free the ticket's slots before the next step. Harmless when it has already left."""
        with self._wake:
            self._leave(ticket)
            self._wake.notify()

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those inside. True when all finished in time; else the rest are ended."""
        with self._wake:
            self._draining = True
        finished = await asyncio.to_thread(self._idle.wait, seconds)
        if not finished:
            with self._wake:
                self._leave_all(_shutting_down())
        return finished

    def close(self) -> None:
        """End the thread after the step it is in, and the processes of the engine."""
        with self._wake:
            self._closed = self._draining = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        with self._wake:
            self._leave_all(_shutting_down())
        self.engine.close()

    # --- holding _wake ---

    def _admit(self, ticket: Ticket) -> None:
        if self.failure is not None:
            raise ApiError(503, f'model "{self.name}" has failed and is not served', kind="server_error")
        if self._draining:
            raise _shutting_down()
        if ticket.choices > self.limit:
            what = "texts" if ticket.sampling.pooling is not None else "choices"
            raise ApiError(400, f"{ticket.choices} {what} in one request; this server takes at most {self.limit}")
        if not self._tickets or (excess := self._excess(ticket)) is None:
            return
        reason, seconds = excess
        if reason == "queue":
            raise Overloaded(reason, f"{self.pending} answers are being written or waiting", seconds)
        raise Overloaded(reason, "the prompts that wait would fill the memory several times", seconds)

    def _excess(self, ticket: Ticket) -> tuple[str, int] | None:
        """Why there is no room for a ticket, and for about how many seconds; None when there is."""
        choices = self.pending + ticket.choices
        tokens = sum(inside.tokens for inside in self._tickets) + ticket.tokens
        reason = "queue" if choices > self.limit else "memory"
        leaving = 0
        for inside in self._tickets:
            if choices <= self.limit and tokens <= self.token_limit:
                break
            choices, tokens, leaving = choices - inside.choices, tokens - inside.tokens, leaving + inside.choices
        return (reason, self._seconds(leaving)) if leaving else None

    def _seconds(self, choices: int) -> int:
        """How long until so many choices will have left, at the speed of the last ones."""
        seconds: float = RETRY_UNKNOWN
        if len(self._leaves) > 1:
            left = sum(n for _, n in list(self._leaves)[1:])
            seconds = choices * (time.monotonic() - self._leaves[0][0]) / left
        least, most = RETRY_SECONDS
        return max(least, min(math.ceil(seconds), most))

    def _leave(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """The one way out: free what the engine still holds for the ticket, close its queue, count it out."""
        if ticket not in self._tickets:
            return
        del self._tickets[ticket]
        if ticket.first_choice:  # it was inside
            self._leaves.append((time.monotonic(), ticket.choices))
        for request_id in ticket.first_choice:
            del self._routes[request_id]
            if ticket.open_choices and self.failure is None:
                self.engine.cancel(request_id)
        self.pending -= ticket.choices
        if self.pending == 0:
            self._leaves.clear()  # an idle hour says nothing about the speed
            self._idle.set()
        _on_loop(ticket.loop, ticket.queue.put_nowait, error)

    def _leave_all(self, error: BaseException) -> None:
        for ticket in list(self._tickets):
            self._leave(ticket, error)

    # --- the worker thread ---

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or (self.engine.has_work and self.failure is None))
                if self._closed:
                    return
            try:
                deltas = self.engine.step()
            except Exception as error:
                self._step_failed(error)
            else:
                with self._wake:
                    self._deliver(deltas)

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        """The deltas of one step to their queues, with one wake-up per event loop."""
        parcels: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, int, Delta]]] = {}
        finished = []
        for delta in deltas:
            ticket = self._routes.get(delta.request_id)
            if ticket is None:
                continue  # cancelled during the step
            choice = ticket.first_choice[delta.request_id] + delta.index
            parcels.setdefault(ticket.loop, []).append((ticket, choice, delta))
            if delta.finish_reason is not None:
                ticket.open_choices -= 1
                if ticket.open_choices == 0:
                    finished.append(ticket)
        for loop, parcel in parcels.items():
            _on_loop(loop, _put_all, parcel)
        for ticket in finished:
            self._leave(ticket)

    def _step_failed(self, error: Exception) -> None:
        """Empty the engine and go on. An engine is broken that fails with nothing in it, that cannot be emptied, or
        that lost a process it needs."""
        trace = traceback.format_exc()
        self.events.emit("failed", model=self.name, error=repr(error), traceback=trace)
        with self._wake:
            if isinstance(error, ProcessLost):
                self.failure = str(error)
            elif not self._tickets:
                self.failure = repr(error)
            try:
                self._leave_all(EngineFailure(repr(error)))
            except Exception as second:
                self.failure = repr(second)
                self._leave_all(EngineFailure(repr(error)))


def _shutting_down() -> ApiError:
    message, headers = "the server is shutting down", {"Retry-After": "5"}
    return ApiError(503, message, kind="server_error", code="shutting_down", headers=headers)


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], argument: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is listening any more
        loop.call_soon_threadsafe(call, argument)


def _put_all(parcel: list[tuple[Ticket, int, Any]]) -> None:
    for ticket, choice, delta in parcel:
        ticket.queue.put_nowait((choice, delta))
