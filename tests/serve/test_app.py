"""The HTTP surface: statuses, error bodies, keys, limits, metrics."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from danlu.core.events import Event, Events
from danlu.engine import Engine
from danlu.serve.app import ServerConfig
from tests.serve import tiny

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that the body is OpenAI's form and holds no traceback."""
    assert answer.headers["content-type"] == "application/json"
    assert "Traceback" not in answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        (
            "POST",
            "/v1/chat/completions",
            {"content": "{", "headers": {"content-type": "application/json"}},
            400,
            "invalid_json",
        ),
        ("POST", "/v1/chat/completions", {"content": "{}", "headers": {"content-type": "text/plain"}}, 415, None),
        ("POST", "/v1/chat/completions", {"data": {"model": "tiny"}}, 415, None),
        ("POST", "/v1/chat/completions", {"json": {"model": "tiny"}}, 400, "missing_required_parameter"),
        ("POST", "/v1/chat/completions", {"json": CHAT | {"model": "tinny"}}, 404, "model_not_found"),
        ("POST", "/v1/chat/completions", {"json": CHAT | {"model": "base"}}, 400, "model_has_no_chat_template"),
        ("POST", "/v1/chat/completions", {"json": CHAT | {"tools": []}}, 400, "invalid_value"),
        ("POST", "/v1/completions", {"json": {"model": "tiny", "prompt": [99999]}}, 400, "invalid_value"),
        (
            "POST",
            "/v1/completions",
            {"json": {"model": "tiny", "prompt": "a", "logit_bias": {"99999": 1}}},
            400,
            "invalid_value",
        ),
        ("GET", "/v1/models/none", {}, 404, "model_not_found"),
        ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", {}, 405, "method_not_allowed"),
        ("PUT", "/v1/completions", {"json": {}}, 405, "method_not_allowed"),
        ("POST", "/health", {}, 405, "method_not_allowed"),
        ("GET", "/v1/nothing", {}, 404, "unknown_url"),
        ("POST", "/v1/audio/speech", {"json": {}}, 404, "unknown_url"),
    ],
)
def test_what_is_wrong_gets_its_status(
    server: str, method: str, path: str, options: dict[str, Any], status: int, code: str | None
) -> None:
    answer = httpx.request(method, server + path, **options)
    assert answer.status_code == status, answer.text
    assert error_of(answer)["code"] == code
    if status == 405:
        assert answer.headers["allow"]


def test_the_official_client_sees_its_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"tinny.*did you mean"):
        client.completions.create(model="tinny", prompt="x")
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        client.chat.completions.create(**CHAT, reasoning_effort="high")


def test_context_limit_says_the_numbers(client: OpenAI) -> None:
    n = len(tiny.tiny_tokenizer().encode("明月 " * 3000))
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="明月 " * 3000, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    assert str(tiny.CONTEXT) in caught.value.message
    assert str(n) in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x", max_tokens=tiny.CONTEXT)
    assert caught.value.code == "context_length_exceeded"
    last = client.completions.create(model="tiny", prompt=[5] * (tiny.CONTEXT - 1), max_tokens=1)
    assert last.usage is not None
    assert last.usage.total_tokens == tiny.CONTEXT


def test_request_ids_and_safe_headers(server: str) -> None:
    mine = httpx.get(f"{server}/v1/models", headers={"x-request-id": "abc-1"})
    assert mine.headers["x-request-id"] == "abc-1"
    other = httpx.get(f"{server}/v1/models", headers={"x-request-id": "a b"})
    assert other.headers["x-request-id"].startswith("req-")
    assert "default-src 'self'" in other.headers["content-security-policy"]


def test_health_and_metrics(server: str, client: OpenAI) -> None:
    assert httpx.get(f"{server}/health").json() == {"status": "ok", "models": {"tiny": "ok", "base": "ok"}}
    labels = {"model": "base", "endpoint": "/v1/completions", "outcome": "length"}
    before = tiny.metric(server, "danlu_requests_total", **labels)
    made = tiny.metric(server, "danlu_generated_tokens_total", model="base")
    client.completions.create(model="base", prompt="x", max_tokens=7, extra_body={"ignore_eos": True})
    assert tiny.metric(server, "danlu_requests_total", **labels) == before + 1
    assert tiny.metric(server, "danlu_generated_tokens_total", model="base") == made + 7
    answer = httpx.get(f"{server}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert answer.headers["content-type"].startswith("text/plain")
    for name in ("requests_running", "requests_waiting", "kv_cache_used_ratio", "time_to_first_token_seconds"):
        assert families[f"danlu_{name}"].samples
    assert families["danlu_time_to_first_token_seconds"].type == "histogram"


def test_api_keys() -> None:
    config = ServerConfig(page=False, api_keys=("first-key", "second-key"))
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, config) as url:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "first-key"},
            {"authorization": "Basic first-key"},
        ):
            for path in ("/v1/models", "/v1/nothing"):
                answer = httpx.get(url + path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert error_of(answer)["code"] == "invalid_api_key"
        body = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"})
        assert body.status_code == 401
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        for key in config.api_keys:
            assert [model.id for model in OpenAI(base_url=f"{url}/v1", api_key=key).models.list()] == ["tiny"]
        assert httpx.get(f"{url}/health").status_code == 200


def test_body_limits() -> None:
    config = ServerConfig(page=False, max_body_bytes=1000, body_seconds=0.3)
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, config) as url:
        long = json.dumps({"model": "tiny", "prompt": "x" * 1000}).encode()
        headers = {"content-type": "application/json"}
        told = httpx.post(f"{url}/v1/completions", content=long, headers=headers)
        assert told.status_code == 413
        assert "1000 bytes" in error_of(told)["message"]
        untold = httpx.post(f"{url}/v1/completions", content=iter([long[:600], long[600:]]), headers=headers)
        assert untold.status_code == 413
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 9\r\n\r\n{")
            assert b"408" in slow.recv(4096)


def test_other_host_names_are_refused_when_told_so() -> None:
    config = ServerConfig(page=False, allowed_hosts=("127.0.0.1", "[::1]"))
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, config) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/health", headers={"host": "[::1]:80"}).status_code == 200
        refused = httpx.get(f"{url}/v1/models", headers={"host": "evil.example"})
        assert refused.status_code == 421
        assert error_of(refused)["code"] == "unknown_host"


def test_a_failure_inside_is_500_with_the_log_and_without_a_traceback() -> None:
    seen: list[Event] = []
    events = Events()
    events.subscribe(seen.append)
    engine = tiny.tiny_engine()
    with tiny.in_thread({"tiny": engine}, events=events) as url:
        step, engine.step = engine.step, broken  # type: ignore[method-assign]
        answer = httpx.post(
            f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}, headers={"x-request-id": "q1"}
        )
        assert answer.status_code == 500
        error = error_of(answer)
        assert "secret" not in answer.text
        assert "q1" in error["message"]
        assert error["type"] == "server_error"
        with httpx.stream(
            "POST", f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "stream": True}
        ) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
        engine.step = step  # type: ignore[method-assign]
        tiny.until(
            lambda: httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}).status_code != 500
        )
    failed = [event for event in seen if event["event"] == "failed"]
    assert any("secret" in event["traceback"] for event in failed)
    assert any(event.get("request_id") == "q1" for event in failed)


def broken() -> list[Any]:
    raise ValueError("the secret of the engine")


def test_a_model_that_gives_nan_is_an_error_and_not_an_answer() -> None:
    import torch

    tokenizer = tiny.tiny_tokenizer()
    model = tiny.tiny_model(tokenizer)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with tiny.in_thread({"tiny": Engine((model, tokenizer), kv_bytes=64 << 20)}) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"})
        assert answer.status_code == 500
        assert error_of(answer)["code"] == "model_error"


def test_who_asked_is_in_the_event_log() -> None:
    seen: list[Event] = []
    events = Events()
    events.subscribe(seen.append)
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, events=events) as url:
        httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"user": "ann", "metadata": {"job": "7"}, "max_tokens": 3})
    (request,) = [event for event in seen if event["event"] == "request"]
    assert request["user"] == "ann"
    assert request["metadata"] == {"job": "7"}
    assert request["completion_tokens"] <= 3
    assert "hi" not in json.dumps(request["metadata"])


def test_a_model_without_tokenizer_takes_and_gives_ids() -> None:
    from danlu.engine import Engine

    engine = Engine((tiny.tiny_model(tiny.tiny_tokenizer()), None), kv_bytes=16 << 20)
    with tiny.in_thread({"bare": engine}) as url:
        ids = httpx.post(
            f"{url}/v1/completions", json={"model": "bare", "prompt": [1, 2], "logprobs": 0, "max_tokens": 3}
        )
        assert ids.status_code == 200
        assert all(token.isdigit() for token in ids.json()["choices"][0]["logprobs"]["tokens"])
        text = httpx.post(f"{url}/v1/completions", json={"model": "bare", "prompt": "hi"})
        assert text.status_code == 400
        assert "tokenizer" in error_of(text)["message"]
        chat = httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"model": "bare"})
        assert chat.status_code == 400
