"""Embeddings with the official client against a running server."""

from __future__ import annotations

import base64
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from danlu.core.events import Event, Events
from danlu.engine import Replicas
from danlu.model.adapter import write_adapter
from danlu.serve.app import ServerConfig
from tests.adapters import make_adapter
from tests.serve import tiny
from tests.serve.test_app import error_of
from tests.serve.test_overload import gated

TEXTS = ["The furnace turns raw ore into gold", "床前明月光，疑是地上霜。", "def add(first, second):"]


def wanted(texts: Any, pooling: str = "last", **options: Any) -> list[list[float]]:
    return tiny.tiny_engine().embed(texts, pooling, **options).tolist()


def close(got: Sequence[float], expected: Sequence[float]) -> bool:
    return len(got) == len(expected) and max(abs(a - b) for a, b in zip(got, expected, strict=True)) < 1e-5


def test_a_text_and_several(client: OpenAI) -> None:
    several = client.embeddings.create(model="tiny", input=TEXTS)
    assert several.object == "list" and several.model == "tiny"
    assert [one.index for one in several.data] == [0, 1, 2]
    assert all(one.object == "embedding" for one in several.data)
    for one, vector in zip(several.data, wanted(TEXTS), strict=True):
        assert close(one.embedding, vector)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-5)
    tokens = sum(len(tiny.tiny_tokenizer().encode(text)) for text in TEXTS)
    assert several.usage.model_dump() == {"prompt_tokens": tokens, "total_tokens": tokens}
    alone = client.embeddings.create(model="tiny", input=TEXTS[1])
    assert len(alone.data) == 1 and close(alone.data[0].embedding, several.data[1].embedding)


def test_the_four_spellings_of_an_input_mean_the_same(client: OpenAI) -> None:
    ids = [tiny.tiny_tokenizer().encode(text) for text in TEXTS]
    spelled = [client.embeddings.create(model="tiny", input=one).data for one in (TEXTS, ids, TEXTS[0], ids[0])]
    assert [len(data) for data in spelled] == [3, 3, 1, 1]
    for data in spelled:
        for a, b in zip(data, spelled[0], strict=False):
            assert close(a.embedding, b.embedding)


def test_float_and_base64_are_the_same_numbers(server: str, client: OpenAI) -> None:
    body = {"model": "tiny", "input": TEXTS[0]}
    [plain] = httpx.post(f"{server}/v1/embeddings", json=body).json()["data"]
    [coded] = httpx.post(f"{server}/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
    assert list(struct.unpack("<64f", base64.b64decode(coded["embedding"]))) == plain["embedding"]
    by_client = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float").data[0].embedding
    assert by_client == plain["embedding"]


def test_danlu_s_own_fields(client: OpenAI) -> None:
    for pooling in ("last", "mean"):
        for normalize in (True, False):
            more = {"pooling": pooling, "normalize": normalize}
            got = client.embeddings.create(model="tiny", input=TEXTS, extra_body=more)
            for one, vector in zip(got.data, wanted(TEXTS, pooling, normalize=normalize), strict=True):
                assert close(one.embedding, vector)


def test_the_model_field_chooses_and_answers_share_the_steps(tmp_path: Path) -> None:
    config = tiny.tiny_model(tiny.tiny_tokenizer()).config
    write_adapter(make_adapter(config, seed=1), tmp_path / "poet", config)
    sources = {"poet": tmp_path / "poet"}
    own = tiny.tiny_engine(adapters=sources)
    vectors = {name: own.embed(TEXTS, adapter=adapter).tolist() for name, adapter in (("tiny", None), ("poet", "poet"))}
    assert not close(vectors["tiny"][0], vectors["poet"][0])
    with tiny.in_thread({"tiny": tiny.tiny_engine(adapters=sources)}) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        ask = {
            "model": "tiny",
            "prompt": "明月",
            "temperature": 0,
            "max_tokens": 60,
            "extra_body": {"ignore_eos": True},
        }
        alone = client.completions.create(**ask).choices[0].text  # type: ignore[call-overload]

        def one(number: int) -> bool:
            if number % 3 == 0:
                return bool(client.completions.create(**ask).choices[0].text == alone)  # type: ignore[call-overload]
            name = ("tiny", "poet")[number % 2]
            got = client.embeddings.create(model=name, input=TEXTS)
            pairs = zip(got.data, vectors[name], strict=True)
            return got.model == name and all(close(a.embedding, b) for a, b in pairs)

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(one, range(18)))


def test_what_is_wrong_gets_its_status(server: str, client: OpenAI) -> None:
    def post(**fields: Any) -> httpx.Response:
        return httpx.post(f"{server}/v1/embeddings", json={"model": "tiny", "input": "x"} | fields)

    for fields, status, code, param in (
        ({"model": "tinny"}, 404, "model_not_found", "model"),
        ({"dimensions": 8}, 400, "unsupported_parameter", "dimensions"),
        ({"input": [5, 99999]}, 400, "invalid_value", None),
        ({"input": ["x", [5]]}, 400, "invalid_value", "input"),
        ({"input": ["x", "明月" * 5000]}, 400, "context_length_exceeded", "input"),
        ({"input": ["x"] * 200}, 400, None, None),
    ):
        answer = post(**fields)
        assert answer.status_code == status, answer.text
        error = error_of(answer)
        assert (error["code"], error["param"]) == (code, param)
    assert "200 texts" in error["message"]
    with pytest.raises(openai.BadRequestError, match=rf"{tiny.CONTEXT} tokens, but text 1 of the input has 10000"):
        client.embeddings.create(model="tiny", input=["x", "明月" * 5000])
    longest = client.embeddings.create(model="tiny", input=[5] * tiny.CONTEXT)
    assert longest.usage.total_tokens == tiny.CONTEXT, "nothing needs room behind it"
    refused = httpx.get(f"{server}/v1/embeddings")
    assert refused.status_code == 405 and refused.headers["allow"] == "POST"


def test_a_key_is_asked_for() -> None:
    with tiny.in_thread({"tiny": tiny.tiny_engine()}, ServerConfig(page=False, api_keys=("k",))) as url:
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": "x"}).status_code == 401
        mine = OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        assert len(mine.embeddings.create(model="tiny", input="x").data) == 1


def test_a_full_server_refuses_and_counts() -> None:
    seen: list[Event] = []
    events = Events()
    events.subscribe(seen.append)
    engine = tiny.tiny_engine(max_sequences=1)
    gate = gated(engine)
    body: dict[str, Any] = {"model": "tiny", "input": ["x", "y"], "user": "ann"}
    with tiny.in_thread({"tiny": engine}, ServerConfig(page=False, max_waiting=1), events) as url:
        answers: list[httpx.Response] = []
        first = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/embeddings", json=body, timeout=60))
        )
        first.start()
        tiny.until(lambda: tiny.metric(url, "danlu_requests_waiting") == 2)
        busy = httpx.post(f"{url}/v1/embeddings", json=body)
        assert busy.status_code == 503 and int(busy.headers["retry-after"]) >= 1
        assert error_of(busy)["code"] == "overloaded"
        gate.set()
        first.join(timeout=60)
        assert answers[0].status_code == 200 and len(answers[0].json()["data"]) == 2
        labels = {"model": "tiny", "endpoint": "/v1/embeddings"}
        assert tiny.metric(url, "danlu_requests_total", **labels, outcome="stop") == 1
        assert tiny.metric(url, "danlu_requests_total", **labels, outcome="refused") == 1
        assert tiny.metric(url, "danlu_prompt_tokens_total", model="tiny") == 2
        assert tiny.metric(url, "danlu_time_to_first_token_seconds_count", model="tiny") == 0, "there is no token"
    [request] = [event for event in seen if event["event"] == "request"]
    assert (request["user"], request["endpoint"], request["completion_tokens"]) == ("ann", "/v1/embeddings", 0)


def test_who_hangs_up_frees_the_slots() -> None:
    engine = tiny.tiny_engine(max_sequences=1)
    gate = gated(engine)
    with tiny.in_thread({"tiny": engine}) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": [[5] * 4000] * 3}, timeout=0.5)
        tiny.until(lambda: tiny.metric(url, "danlu_requests_total", outcome="cancelled") == 1)
        gate.set()
        tiny.until(lambda: tiny.metric(url, "danlu_requests_waiting") == 0)
    assert engine.cache.n_used == 0


def test_a_model_that_gives_nan_is_an_error(tmp_path: Path) -> None:
    import torch

    engine = tiny.tiny_engine()
    with torch.no_grad():
        engine.model.norm.weight.fill_(float("nan"))
    engine = type(engine)((engine.model, engine.tokenizer), kv_bytes=16 << 20)
    with tiny.in_thread({"tiny": engine}) as url:
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": ["x", "y"]})
        assert answer.status_code == 500 and error_of(answer)["code"] == "model_error"
        scored = httpx.post(
            f"{url}/v1/completions",
            json={"model": "tiny", "prompt": [1, 2], "echo": True, "max_tokens": 0, "logprobs": 0},
        )
        assert scored.status_code == 500 and error_of(scored)["code"] == "model_error"


def test_replicas(model_paths: dict[str, Path]) -> None:
    engines = Replicas(model_paths["tiny"], 2, max_sequences=4, kv_bytes=16 << 20)
    with tiny.in_thread({"tiny": engines}) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        got = client.embeddings.create(model="tiny", input=TEXTS * 2, extra_body={"pooling": "mean"})
        for one, vector in zip(got.data, wanted(TEXTS * 2, "mean"), strict=True):
            assert close(one.embedding, vector)
        echoed = client.completions.create(model="tiny", prompt=TEXTS[1], echo=True, logprobs=1, max_tokens=0)
        assert echoed.choices[0].text == TEXTS[1]
        [scores] = tiny.tiny_engine().score(TEXTS[1])
        assert echoed.choices[0].logprobs is not None and echoed.choices[0].logprobs.token_logprobs is not None
        assert close(echoed.choices[0].logprobs.token_logprobs[1:], [score.logprob for score in scores])
