"""A tiny server that speaks the OpenAI protocol on loopback, scripted by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | tuple[int, Any]  # what the model says, or a status and a body


class Server:
    """`requests` are the bodies that came in; `reply(body, n)` answers the n-th."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply = reply
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def serve(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Server]:
    server = Server(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.requests.append(body)
                server.headers.append(dict(self.headers))
                number = len(server.requests) - 1
            said = server.reply(body, number)
            status, content = (200, {"choices": [{"message": {"content": said}}]}) if isinstance(said, str) else said
            data = json.dumps(content).encode() if not isinstance(content, bytes) else content
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])
