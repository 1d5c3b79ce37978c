"""Server-sent events, and noticing that the reader has gone.

A client that hangs up must free its slot at once, also while its request still waits or a long prompt is being read,
when nothing is being sent that could fail. So while an answer is made, someone listens on the connection:
`while_connected` runs a coroutine and cancels it at the moment the client disconnects. Both kinds of answer go
through it.

A stream that has begun has sent its status. An error after that becomes a last event `{"error": {...}}`, which the
official client raises as an exception; `[DONE]` is sent only after a whole answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before the answer was there."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or ClientGone as soon as the client disconnects; `work` has ended in either case."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for running in (task, gone):
            running.cancel()
        for running in (task, gone):
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await running


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """`chunks` (JSON texts) as server-sent events.

    `on_error` turns an exception into the JSON of the last event; `on_end` is called once, however the stream ends,
    also when it could not begin.
    """

    def __init__(
        self, chunks: AsyncIterator[str], on_error: Callable[[Exception], str], on_end: Callable[[], None]
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.chunks, self.on_error, self.on_end = chunks, on_error, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientGone):
                await while_connected(receive, self._send(send))
        finally:
            self.on_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self.chunks:
                await self._event(send, chunk)
            await self._event(send, "[DONE]")
        except OSError:
            return  # the connection broke while writing
        except Exception as error:
            await self._event(send, self.on_error(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _event(send: Send, data: str) -> None:
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
