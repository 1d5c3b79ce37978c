"""The engine's own thread, and the bridge from it to the event loop.

An engine is a machine with one crank: `step()` advances every running request by one batch. It is not thread-safe and
a step takes milliseconds, so it gets a thread, and everyone else talks to that thread by leaving notes:

    event loop                              worker thread
    submit(ticket) ── note, wake ─────────▶ take notes; engine.submit / engine.cancel
                                            engine.step()
    ticket.queue ◀── call_soon_threadsafe ─ the deltas of the step, all in one call

A `Ticket` is one HTTP request: one or more prompts, each with `n` choices. Its deltas come through one asyncio queue, so
a stream of several choices interleaves by itself. A ticket leaves in one of three ways: its last choice finishes, it is
cancelled (the client went away), or the engine fails; `leave` frees the engine's slots in the last two.

The thread sleeps on a condition while there is nothing to do: an idle server costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.events import Events
from danlu.serve.protocol import ApiError

if TYPE_CHECKING:
    from danlu.engine import Delta, Engine, Sampling


class EngineFailure(Exception):
    """The engine raised in a step; the requests that were in it are lost, the server goes on."""


@dataclass(eq=False)
class Ticket:
    """One request's place in the engine, and the queue its deltas come through (see the opening comment)."""

    prompts: Sequence[list[int]]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[tuple[int, Delta] | BaseException | None] = field(default_factory=asyncio.Queue)
    engine_ids: dict[Any, int] = field(default_factory=dict)  # engine request id -> index of its first choice
    open_choices: int = 0  # worker thread only
    left: bool = False  # worker thread only

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
    """Owns the thread that steps one engine. `submit`, `cancel` and `drain` belong to the event loop."""

    def __init__(self, name: str, engine: Engine, *, max_waiting: int = 256, events: Events | None = None) -> None:
        self.name, self.engine, self.max_waiting = name, engine, max_waiting
        self.events = events or Events()
        self.failure: str | None = None  # set when the engine cannot go on; the server says so in /health
        self._pending = 0  # choices submitted and not yet left; guarded by _wake
        self._notes: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._draining = self._closed = False
        self._idle = threading.Event()
        self._idle.set()
        self._tickets: set[Ticket] = set()  # worker thread only
        self._routes: dict[Any, Ticket] = {}  # engine request id -> ticket; worker thread only
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    # --- called from the event loop ---

    def start(self) -> None:
        self._thread.start()

    @property
    def pending(self) -> int:
        """Choices in the engine or waiting for it."""
        return self._pending

    def submit(self, prompts: Sequence[list[int]], sampling: Sampling) -> Ticket:
        """Queue a request. Raises ApiError 503 while shutting down or broken, 429 when too many wait."""
        ticket = Ticket(prompts, sampling, asyncio.get_running_loop())
        limit = self.engine.max_sequences + self.max_waiting
        with self._wake:
            if self.failure is not None:
                raise ApiError(503, f'model "{self.name}" has failed and is not served', kind="server_error")
            if self._draining:
                message, retry = "the server is shutting down", {"Retry-After": "5"}
                raise ApiError(503, message, kind="server_error", code="shutting_down", headers=retry)
            if ticket.choices > limit:
                raise ApiError(400, f"{ticket.choices} choices in one request; this server takes at most {limit}")
            if self._pending + ticket.choices > limit:
                message = f"{self._pending} requests are running or waiting; try again shortly"
                retry = {"Retry-After": "1"}
                raise ApiError(429, message, kind="rate_limit_error", code="overloaded", headers=retry)
            self._pending += ticket.choices
            self._idle.clear()
            self._leave_note(lambda: self._enter(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Free the ticket's slots before the next step. Harmless when it has already left."""
        with self._wake:
            self._leave_note(lambda: self._leave(ticket, None))

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those inside. True when all finished in time; the rest are cancelled."""
        with self._wake:
            self._draining = True
        finished = await asyncio.to_thread(self._idle.wait, seconds)
        if not finished:
            error = ApiError(503, "the server is shutting down", kind="server_error", code="shutting_down")
            with self._wake:
                self._leave_note(lambda: self._leave_all(error))
        return finished

    def close(self) -> None:
        """End the thread after the step it is in."""
        with self._wake:
            self._closed = self._draining = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    # --- the worker thread ---

    def _leave_note(self, note: Callable[[], None]) -> None:
        """Holding _wake: hand the thread something to do before its next step."""
        self._notes.append(note)
        self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._notes or self._closed or self._tickets)
                if self._closed:
                    break
                notes, self._notes = self._notes, deque()
            for note in notes:
                note()
            if self._tickets:
                try:
                    self._deliver(self.engine.step())
                except Exception as error:
                    self._fail(error)
        for note in self._notes:  # a ticket that came in with the closing is answered too
            note()
        self._leave_all(ApiError(503, "the server has shut down", kind="server_error", code="shutting_down"))

    def _enter(self, ticket: Ticket) -> None:
        self._tickets.add(ticket)
        ticket.open_choices = ticket.choices
        try:
            for position, ids in enumerate(ticket.prompts):
                request = self.engine.submit(ids, ticket.sampling)
                ticket.engine_ids[request.id] = position * ticket.sampling.n
                self._routes[request.id] = ticket
        except Exception as error:
            self._leave(ticket, error)

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        """The deltas of one step to their queues, with one wake-up per event loop."""
        parcels: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, int, Delta]]] = {}
        finished: list[Ticket] = []
        for delta in deltas:
            ticket = self._routes.get(delta.request_id)
            if ticket is None:
                continue  # cancelled between two steps
            choice = ticket.engine_ids[delta.request_id] + delta.index
            parcels.setdefault(ticket.loop, []).append((ticket, choice, delta))
            if delta.finish_reason is not None:
                ticket.open_choices -= 1
                if ticket.open_choices == 0:
                    finished.append(ticket)
        for loop, parcel in parcels.items():
            self._on_loop(loop, _put_all, parcel)
        for ticket in finished:
            self._leave(ticket, None)

    def _leave(self, ticket: Ticket, error: BaseException | None) -> None:
        """The one way out: free what the engine still holds for the ticket, close its queue, count it out."""
        if ticket.left:
            return
        ticket.left = True
        for engine_id in ticket.engine_ids:
            if ticket.open_choices:
                self.engine.cancel(engine_id)
            self._routes.pop(engine_id, None)
        self._tickets.discard(ticket)
        self._on_loop(ticket.loop, ticket.queue.put_nowait, error)
        with self._wake:
            self._pending -= ticket.choices
            if self._pending == 0:
                self._idle.set()

    def _leave_all(self, error: BaseException) -> None:
        for ticket in list(self._tickets):
            self._leave(ticket, error)

    def _fail(self, error: Exception) -> None:
        """A step raised. Empty the engine; if even that fails, the model is out of service."""
        self.events.emit("failed", model=self.name, error=repr(error), traceback=traceback.format_exc())
        try:
            self._leave_all(EngineFailure(repr(error)))
        except Exception as second:
            self.failure = repr(second)
            self.events.emit("failed", model=self.name, error=repr(second), traceback=traceback.format_exc())
            for ticket in list(self._tickets):
                ticket.engine_ids.clear()
                self._leave(ticket, EngineFailure(repr(error)))

    @staticmethod
    def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], argument: Any) -> None:
        try:
            loop.call_soon_threadsafe(call, argument)
        except RuntimeError:
            pass  # the loop is closed: nobody is listening any more


def _put_all(parcel: list[tuple[Ticket, int, Any]]) -> None:
    for ticket, choice, delta in parcel:
        ticket.queue.put_nowait((choice, delta))
