"""A full server refuses new work with 503 and a time, and goes on with what it has."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from danlu.core.events import Events
from danlu.engine import Engine, Sampling
from danlu.serve.app import ServerConfig
from danlu.serve.worker import RETRY_SECONDS, RETRY_UNKNOWN, WAITING_CACHES, EngineWorker, Overloaded
from tests.serve import tiny

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 40, "ignore_eos": True, "stream": True}
SHORT: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 4}


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60)


def gated(engine: Engine) -> threading.Event:
    """While the event is not set the engine makes no step, so that nobody inside finishes."""
    gate, step = threading.Event(), engine.step

    def step_behind_the_gate() -> Any:
        gate.wait()
        return step()

    engine.step = step_behind_the_gate  # type: ignore[method-assign]
    return gate


def test_a_full_queue_is_503_with_retry_after_in_openai_s_form() -> None:
    config, engine = ServerConfig(page=False, max_waiting=0), tiny.tiny_engine(max_sequences=1)
    gate = gated(engine)
    with tiny.in_thread({"tiny": engine}, config) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as running:
            busy = post(url, SHORT)
            assert busy.status_code == 503
            assert busy.headers["retry-after"] == str(RETRY_UNKNOWN), "nobody has left yet"
            error = busy.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == ("server_error", "overloaded")
            client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            with pytest.raises(openai.InternalServerError, match="try again in"):
                client.completions.create(**SHORT)
            assert post(url, SHORT | {"n": 2}).status_code == 400, "what can never fit is no matter of waiting"
            assert tiny.metric(url, "danlu_overloaded_total", reason="queue") == 2
            assert tiny.metric(url, "danlu_overloaded_total", reason="memory") == 0
            gate.set()
            assert len([line for line in running.iter_lines() if line]) > 2, "who is inside goes on"
        assert post(url, SHORT).status_code == 200


def test_prompts_beyond_several_caches_are_503_and_an_empty_server_takes_what_fits() -> None:
    engine = tiny.tiny_engine(max_sequences=1, kv_bytes=1 << 20)
    gate = gated(engine)
    big = {"model": "tiny", "prompt": [5] * (engine.cache.capacity - 8), "max_tokens": 8}
    stream = big | {"stream": True}
    with tiny.in_thread({"tiny": engine}) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=stream | {"n": WAITING_CACHES + 2}) as alone:
            assert alone.status_code == 200, "more than may wait, and nobody else is there"
        tiny.until(lambda: tiny.metric(url, "danlu_requests_total", outcome="cancelled") == 1)
        with contextlib.ExitStack() as stack:
            for _ in range(1 + WAITING_CACHES):
                inside = stack.enter_context(httpx.stream("POST", f"{url}/v1/completions", json=stream, timeout=60))
                assert inside.status_code == 200
            refused = post(url, big)
            assert refused.status_code == 503
            assert "memory" in refused.json()["error"]["message"]
            assert tiny.metric(url, "danlu_overloaded_total", reason="memory") == 1
            gate.set()
        assert post(url, SHORT).status_code == 200


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_retry_after_is_how_many_must_leave_over_how_many_leave_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("danlu.serve.worker.time", clock)

    async def scenario() -> None:
        worker = EngineWorker("tiny", tiny.tiny_engine(max_sequences=2), max_waiting=2)  # not started: nobody moves
        one, two = Sampling(max_tokens=2), Sampling(max_tokens=2, n=2)

        def seconds(sampling: Sampling) -> int:
            with pytest.raises(Overloaded) as caught:
                worker.submit([[5]], sampling)
            return int(caught.value.headers["Retry-After"])

        tickets = [worker.submit([[5]], sampling) for sampling in (one, two, one)]
        assert seconds(one) == RETRY_UNKNOWN
        for _ in range(3):  # one leaves every four seconds
            worker.cancel(tickets.pop(0))
            clock.now += 4
            tickets.append(worker.submit([[5]], one))
        while worker.pending < worker.limit:
            tickets.append(worker.submit([[5]], one))
        # 1, 2 and 1 choices left at 100, 104 and 108; it is 112: three in twelve seconds after the first.
        assert seconds(one) == 4
        assert seconds(two) == 8
        clock.now += 10_000
        assert seconds(one) == RETRY_SECONDS[1]
        for ticket in tickets:
            worker.cancel(ticket)
        tickets = [worker.submit([[5]], one) for _ in range(worker.limit)]
        assert seconds(one) == RETRY_UNKNOWN, "what was before an idle time does not count"

    asyncio.run(scenario())


def test_a_flood_with_cancels_loses_nothing_and_ends_empty() -> None:
    """Many clients, a small cache and a short queue; some hang up at once, some read a little, some wait."""
    engine = tiny.tiny_engine(max_sequences=3, kv_bytes=1 << 19, block_size=16)
    config = ServerConfig(page=False, max_waiting=4)
    alone = next(iter(engine.generate("明月", Sampling(seed=3, max_tokens=20)))).text
    counts: dict[int, int] = {}
    lock = threading.Lock()

    def count(status: int) -> None:
        with lock:
            counts[status] = counts.get(status, 0) + 1

    def client(url: str, number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(timeout=60) as http:
            for _ in range(8):
                kind = chance.choice(["whole", "whole", "read", "leave"])
                body = {
                    "model": "tiny",
                    "prompt": "明月",
                    "seed": 3,
                    "max_tokens": 20,
                    "priority": chance.choice([0, 1]),
                }
                if kind == "whole":
                    answer = http.post(f"{url}/v1/completions", json=body)
                    count(answer.status_code)
                    if answer.status_code == 200:
                        assert answer.json()["choices"][0]["text"] == alone
                    else:
                        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
                    continue
                big = body | {"prompt": [5] * chance.randint(1, 300), "max_tokens": 200, "stream": True, "n": 2}
                with http.stream("POST", f"{url}/v1/completions", json=big) as stream:
                    count(stream.status_code)
                    if kind == "read":
                        for _, _line in zip(range(5), stream.iter_lines(), strict=False):
                            pass

    with tiny.in_thread({"tiny": engine}, config) as url:
        run_all([lambda number=number: client(url, number) for number in range(12)])  # type: ignore[misc]
        tiny.until(lambda: tiny.metric(url, "danlu_requests_running") == 0)
        tiny.until(lambda: tiny.metric(url, "danlu_requests_waiting") == 0)
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
        refused = sum(tiny.metric(url, "danlu_overloaded_total", reason=reason) for reason in ("queue", "memory"))
        assert refused == counts[503]
        assert post(url, SHORT).status_code == 200
    assert set(counts) == {200, 503}
    assert engine.cache.n_used == 0
    engine.cache.check([])


def run_all(calls: list[Callable[[], None]]) -> None:
    """All at once; what one of them raises is raised here."""
    problems: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    if problems:
        raise problems[0]


def test_a_lower_priority_number_is_answered_first() -> None:
    order: list[str] = []
    events = Events()
    events.subscribe(lambda event: order.append(event["user"]) if "user" in event else None)
    engine = tiny.tiny_engine(max_sequences=1)
    gate = gated(engine)
    with tiny.in_thread({"tiny": engine}, events=events) as url:
        threads = []
        for number, (user, priority) in enumerate([("low", 3), ("a", 0), ("vip", -2), ("b", 0)], start=1):
            threads.append(threading.Thread(target=post, args=(url, SHORT | {"user": user, "priority": priority})))
            threads[-1].start()
            tiny.until(lambda number=number: tiny.metric(url, "danlu_requests_waiting") == number)
        gate.set()
        for thread in threads:
            thread.join(timeout=60)
    assert order == ["vip", "a", "b", "low"]
