"""A client that goes away frees its slot at once, whatever stage its request is in."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import httpx

from danlu.serve.app import ServerConfig
from tests.serve import tiny

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 8000, "ignore_eos": True}


def running(url: str) -> float:
    return tiny.metric(url, "danlu_requests_running")


def waiting(url: str) -> float:
    return tiny.metric(url, "danlu_requests_waiting")


def test_a_closed_stream_frees_its_slot() -> None:
    with tiny.in_thread({"tiny": tiny.tiny_engine(max_sequences=1)}) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG | {"stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert running(url) == 1
        tiny.until(lambda: running(url) == 0)
        assert tiny.metric(url, "danlu_kv_cache_used_ratio") == 0
        assert tiny.metric(url, "danlu_requests_total", outcome="cancelled") == 1
        assert tiny.metric(url, "danlu_generated_tokens_total") < 8000


def test_a_closed_connection_frees_its_slot_without_streaming() -> None:
    with tiny.in_thread({"tiny": tiny.tiny_engine(max_sequences=1)}) as url:
        client = httpx.Client(timeout=60)
        thread = threading.Thread(target=lambda: _ignore(lambda: client.post(f"{url}/v1/completions", json=LONG)))
        thread.start()
        tiny.until(lambda: running(url) == 1)
        _hang_up(client)
        tiny.until(lambda: running(url) == 0)
        tiny.until(lambda: tiny.metric(url, "danlu_requests_total", outcome="cancelled") == 1)
        thread.join(timeout=30)


def test_a_request_that_still_waits_leaves_the_queue() -> None:
    with tiny.in_thread({"tiny": tiny.tiny_engine(max_sequences=1)}) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG | {"stream": True}) as first:
            lines = first.iter_lines()
            next(lines)
            with httpx.stream("POST", f"{url}/v1/completions", json=LONG | {"stream": True, "n": 3}):
                tiny.until(lambda: waiting(url) == 3)
            tiny.until(lambda: waiting(url) == 0)
            assert running(url) == 1, "the first one goes on"


def test_answers_do_not_depend_on_who_else_is_served() -> None:
    engine = tiny.tiny_engine(max_sequences=8)
    ask = {"model": "tiny", "prompt": "明月", "seed": 3, "max_tokens": 30}
    with tiny.in_thread({"tiny": engine}, ServerConfig(page=False)) as url:
        alone = httpx.post(f"{url}/v1/completions", json=ask).json()["choices"]
        answers: list[Any] = [None] * 8

        def one(index: int) -> None:
            more = {"prompt": ask["prompt"] if index % 2 else "def", "seed": 3 if index % 2 else index}
            answers[index] = httpx.post(f"{url}/v1/completions", json=ask | more, timeout=60).json()["choices"]

        threads = [threading.Thread(target=one, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answers[index] == alone for index in range(1, 8, 2))


def _hang_up(client: httpx.Client) -> None:
    """Close the sockets under a request that is waiting for its answer in another thread."""
    import socket

    for connection in client._transport._pool.connections:  # type: ignore[attr-defined]
        stream = connection._connection._network_stream
        stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _ignore(call: Any) -> None:
    with contextlib.suppress(httpx.HTTPError):
        call()
