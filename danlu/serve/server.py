"""Running the server: a socket first, then the models, then requests until someone says stop.

The port is bound before any model is loaded, so that a taken port is told in a moment and not after a minute. Bound to
loopback the server answers only for loopback's names; bound to anything else without a key it says so on the terminal.

    SIGINT or SIGTERM   no new connections; running requests finish within `drain_seconds`; exit code 130 or 0
    the same again      at once
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError, need
from danlu.core.events import Event, Events
from danlu.serve import MAX_WAITING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from danlu.engine import Engine, Replicas

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def run(
    models: Mapping[str, Engine | Replicas | Callable[[], Engine | Replicas]],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | tuple[str, ...] | None = None,
    *,
    events: Events | None = None,
    page: bool = True,
    max_waiting: int = MAX_WAITING,
    max_body_bytes: int = 8 << 20,
    drain_seconds: float = 30.0,
    say: Callable[[str], None] | None = None,
) -> int:
    """Serve until a signal. Returns the exit code: 0 after SIGTERM, 130 after SIGINT.

    `models` maps a name to an engine, or to a function that loads one (called once the port is ours). Port 0 takes a
    free one. `max_waiting` answers may wait beyond those being written; more are refused (worker.py). `say` gets the
    lines meant for the terminal (default: standard error). Raises UserError for a port that is taken or not allowed, an
    address that is not this machine's, and an empty key.
    """
    need("fastapi", "serve")
    need("uvicorn", "serve")
    say = say or _to_stderr
    keys = (api_key,) if isinstance(api_key, str) else tuple(api_key or ())
    if any(not key.strip() or not key.isascii() for key in keys):
        raise UserError("an API key is empty or not ASCII", "choose a long random one: openssl rand -hex 24")
    if events is None:
        events = Events()
        events.subscribe(lambda event: say(_failure(event)) if event["event"] == "failed" else None)
    listener = bind(host, port)
    with contextlib.closing(listener):
        from danlu.serve.app import ServerConfig, create_app

        address = listener.getsockname()
        if not _is_loopback(address[0]) and not keys:
            say(f"warning: listening on {host} without an API key: whoever reaches this port can use the models")
        engines = {name: model() if callable(model) else model for name, model in models.items()}
        config = ServerConfig(
            api_keys=keys,
            page=page,
            max_waiting=max_waiting,
            max_body_bytes=max_body_bytes,
            drain_seconds=drain_seconds,
            allowed_hosts=LOOPBACK_NAMES if _is_loopback(address[0]) else None,
        )
        app = create_app(engines, config, events=events)
        ready = f"serving {', '.join(app.state.danlu.models)} on http://{_url_host(host)}:{address[1]}  (Ctrl-C stops)"
        return _serve(app, listener, drain_seconds, ready, say)


def serve_models(
    paths: Mapping[str, str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    max_waiting: int = MAX_WAITING,
    replicas: int = 1,
    options: Mapping[str, Any] | None = None,
) -> None:
    """`danlu serve`: the models at these paths, by name, until a signal. Ctrl-C ends in KeyboardInterrupt.

    Each model has `replicas` engines, made with these `options` of Engine.
    """

    def loader(path: str | Path) -> Callable[[], Engine | Replicas]:
        def load() -> Engine | Replicas:
            from danlu.engine import Engine, Replicas

            if replicas == 1:
                return Engine(path, **options or {})
            return Replicas(path, replicas, **options or {})

        return load

    engines = {name: loader(path) for name, path in paths.items()}
    if run(engines, host, port, api_key, max_waiting=max_waiting) == 130:
        raise KeyboardInterrupt


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening. Raises UserError with the reason in words."""
    if not 0 <= port <= 65535:
        raise UserError(f"{port} is not a port", "ports are 0 to 65535; 0 takes a free one")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f'"{host}" is not an address of this machine', "try 127.0.0.1 or 0.0.0.0") from None
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hints = {
            errno.EADDRINUSE: (f"port {port} is taken", "stop the program that has it, or choose another with --port"),
            errno.EACCES: (f"port {port} needs more rights than this user has", "choose one from 1024 on with --port"),
            errno.EADDRNOTAVAIL: (f'"{host}" is not an address of this machine', "try 127.0.0.1 or 0.0.0.0"),
        }
        message, hint = hints.get(error.errno or 0, (f"cannot listen on {host}:{port}", os.strerror(error.errno or 0)))
        raise UserError(message, hint) from None
    return listener


def _serve(app: FastAPI, listener: socket.socket, drain_seconds: float, ready: str, say: Callable[[str], None]) -> int:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn, with signals that end in an exit code and not in a second death."""

        received: int | None = None

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.received is None:
                self.received = sig
                say("stopping: running requests finish first; once more stops at once")
                self.should_exit = True
            else:
                self.force_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(ready)

    logging.getLogger("uvicorn.error").addFilter(_Quiet())
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        timeout_keep_alive=30,
        ws_max_size=1 << 20,
    )
    server: Server = Server(config)
    server.run(sockets=[listener])
    for served in app.state.danlu.models.values():
        served.worker.close()  # a second signal skips the orderly end; a thread inside torch would abort the exit
    if not server.started:
        raise UserError("the server could not start", "see the lines above")
    return 130 if server.received == signal.SIGINT else 0


class _Quiet(logging.Filter):
    """Drops uvicorn's words about what a shutdown cut off: requests (their clients are told), and at a second signal
    the application's own orderly end."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "timeout graceful shutdown" not in message and not message.rstrip().endswith("CancelledError")


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _url_host(host: str) -> str:
    """What to type into a browser on this machine."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _failure(event: Event) -> str:
    """A failure for the terminal, when there is no other log."""
    return f"failed: {event.get('request_id', '')} {event['error']}\n{event.get('traceback', '')}".rstrip()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
