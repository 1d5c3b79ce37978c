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
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError
from danlu.core.events import Events
from danlu.engine.child import ProcessLost
from danlu.serve.protocol import ApiError

if TYPE_CHECKING:
    from danlu.engine import Delta, Engine, Replicas, Sampling


class EngineFailure(Exception):
    """The engine raised in a step: the requests that were in it are lost, the server goes on."""


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

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(choice, delta) as they are made, until every choice has finished. Raises what the engine raised."""
        while (item := await self.queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class EngineWorker:
    """Owns the thread that steps one engine. Everything public belongs to the event loop."""

    def __init__(
        self, name: str, engine: Engine | Replicas, *, max_waiting: int = 256, events: Events | None = None
    ) -> None:
        self.name, self.engine = name, engine
        self.limit = engine.max_sequences + max_waiting  # choices inside at once
        self.events = events or Events()
        self.failure: str | None = None  # why the engine cannot go on, if it cannot; /health says so
        self.pending = 0  # choices in the engine or waiting for it
        self._wake = threading.Condition()
        self._tickets: set[Ticket] = set()
        self._routes: dict[str, Ticket] = {}
        self._draining = self._closed = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, prompts: Sequence[list[int]], sampling: Sampling) -> Ticket:
        """Hand a request to the engine.

        Raises ApiError: 503 while shutting down or broken, 429 when too many wait, 400 for what the engine refuses.
        """
        ticket = Ticket(prompts, sampling, asyncio.get_running_loop())
        ticket.open_choices = ticket.choices
        with self._wake:
            self._admit(ticket)
            self._tickets.add(ticket)
            self.pending += ticket.choices
            self._idle.clear()
            try:
                for position, ids in enumerate(prompts):
                    request = self.engine.submit(ids, sampling)
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
            raise ApiError(400, f"{ticket.choices} choices in one request; this server takes at most {self.limit}")
        if self.pending + ticket.choices > self.limit:
            message = f"{self.pending} answers are being written or waiting; try again shortly"
            headers = {"Retry-After": "1"}
            raise ApiError(429, message, kind="rate_limit_error", code="overloaded", headers=headers)

    def _leave(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """The one way out: free what the engine still holds for the ticket, close its queue, count it out."""
        if ticket not in self._tickets:
            return
        self._tickets.remove(ticket)
        for request_id in ticket.first_choice:
            del self._routes[request_id]
            if ticket.open_choices and self.failure is None:
                self.engine.cancel(request_id)
        self.pending -= ticket.choices
        if self.pending == 0:
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
