from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import StageFailed, UserError
from danlu.data.remote import Asker, Endpoint
from tests.data.endpoint import asked, serve


def endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint(base_url=url, model="m", **more)


def test_answers_come_in_order_and_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with serve(lambda body, n: asked(body).upper()) as server:
        config = endpoint(server.url, key_variable="SOME_KEY")
        with Asker(config, tmp_path / "answers") as asker:
            texts = [f"word{i}" for i in range(50)]
            assert [a.text for a in asker.ask_all(texts)] == [t.upper() for t in texts]
        assert server.requests[0] == {
            "model": "m", "messages": [{"role": "user", "content": "word0"}],
            "temperature": 0.0, "max_tokens": 256, "seed": 0,
        } or len(server.requests) == 50  # fmt: skip
        assert {h["authorization" if "authorization" in h else "Authorization"] for h in server.headers} == {
            "Bearer secret"
        }
        with Asker(config, tmp_path / "answers") as asker:
            again = list(asker.ask_all([*texts, "new"]))
        assert [a.cached for a in again] == [True] * 50 + [False] and len(server.requests) == 51
        with Asker(endpoint(server.url, temperature=1.0), tmp_path / "answers") as asker:
            assert not asker.ask("word0").cached  # other parameters, another question
    assert b"secret" not in (tmp_path / "answers").read_bytes()


def test_later_means_later() -> None:
    def reply(body: dict[str, Any], n: int) -> Any:
        return [(503, {}), (429, {}), "at last"][n]

    with serve(reply) as server, Asker(endpoint(server.url), first_wait=0.001) as asker:
        assert asker.ask("?").text == "at last" and len(server.requests) == 3


@pytest.mark.parametrize("wrong", [(400, {"error": "too long"}), (200, {"choices": []}), (200, b"<html>"), (200, [])])
def test_a_question_that_cannot_be_answered_is_an_error_not_a_guess(wrong: Any) -> None:
    with serve(lambda body, n: wrong if "bad" in asked(body) else "fine") as server:
        with Asker(endpoint(server.url), first_wait=0.001) as asker:
            bad, good = asker.ask_all(["bad", "good"])
            assert bad.error and not bad.text and good.text == "fine"
        assert len(server.requests) == 2


def test_a_wrong_key_or_address_ends_the_run() -> None:
    with serve(lambda body, n: (401, {"error": "no"})) as server, Asker(endpoint(server.url)) as asker:
        with pytest.raises(UserError, match="OPENAI_API_KEY"):
            asker.ask("?")
    with Asker(endpoint("http://127.0.0.1:1/v1", retries=0, concurrency=2)) as asker:
        with pytest.raises(StageFailed, match="does not answer"):
            list(asker.ask_all("?" * 100))


def test_no_more_questions_are_under_way_than_allowed() -> None:
    now, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(3, timeout=10)

    def reply(body: dict[str, Any], n: int) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()  # passes only when three are here at once
        with lock:
            now -= 1
        return "x"

    with serve(reply) as server, Asker(endpoint(server.url, concurrency=3)) as asker:
        assert len(list(asker.ask_all(str(i) for i in range(12)))) == 12
    assert most == 3
