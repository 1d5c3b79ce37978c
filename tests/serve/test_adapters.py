"""Adapters over HTTP: a model name like any other, with a parent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from danlu.core.artifact import Manifest, describe_files
from danlu.core.errors import UserError
from danlu.core.store import Store
from danlu.engine import Engine, Replicas, Sampling
from danlu.model.adapter import write_adapter
from danlu.serve.app import create_app
from danlu.serve.server import serve_models
from tests.adapters import make_adapter
from tests.serve import tiny

MESSAGES: Any = [{"role": "user", "content": "Where is the moon? 明月"}]
STORED = "adapter-0123456789abcdef"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the tiny model; one lies in a store."""
    root = tmp_path_factory.mktemp("adapters")
    config = tiny.tiny_model(tiny.tiny_tokenizer()).config
    write_adapter(make_adapter(config, seed=1), root / "poet", config)
    store = Store(root / "store")
    with store.new_directory(STORED) as folder:
        write_adapter(make_adapter(config, seed=2, rank=9), folder, config)
        stored = store.publish(folder, Manifest("adapter", STORED, "toys.x", "1", {}, {}, describe_files(folder)))
    return {"poet": root / "poet", "lawyer": stored.path}


@pytest.fixture(scope="module")
def url(sources: dict[str, Path]) -> Iterator[str]:
    with tiny.in_thread({"tiny": tiny.tiny_engine(adapters=sources)}) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_each_is_listed_with_its_parent(client: OpenAI) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert {name: card.parent for name, card in cards.items()} == {"tiny": None, "poet": "tiny", "lawyer": "tiny"}
    assert cards["poet"].chat is True and cards["poet"].context_length == tiny.CONTEXT
    assert client.models.retrieve("poet").parent == "tiny"


def test_the_model_field_chooses(client: OpenAI, sources: dict[str, Path]) -> None:
    """All three at once, whole and streamed, are what the engine says of each."""
    engine = tiny.tiny_engine(adapters=sources)
    greedy = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
    wanted = {
        name: "".join(d.text for d in engine.stream(MESSAGES, greedy, None if name == "tiny" else name))
        for name in ("tiny", "poet", "lawyer")
    }
    assert len(set(wanted.values())) == 3

    def ask(name: str, stream: bool) -> tuple[str, str, str | None]:
        options: Any = {"model": name, "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
        options["extra_body"] = {"ignore_eos": True}
        if not stream:
            answer = client.chat.completions.create(**options)
            return answer.model, str(answer.choices[0].message.content), answer.system_fingerprint
        chunks = list(client.chat.completions.create(**options, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return chunks[0].model, text, chunks[0].system_fingerprint

    asked = [(name, stream) for name in wanted for stream in (False, True)] * 2
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda a: ask(*a), asked))
    for (name, _), answer in zip(asked, answers, strict=True):
        assert answer == (name, wanted[name], STORED if name == "lawyer" else None)


def test_counted_under_its_own_name_and_gauges_under_the_base(client: OpenAI, url: str) -> None:
    before = tiny.metric(url, "danlu_generated_tokens_total", model="poet")
    client.completions.create(model="poet", prompt="x", max_tokens=7, extra_body={"ignore_eos": True})
    assert tiny.metric(url, "danlu_generated_tokens_total", model="poet") == before + 7
    text = httpx.get(f"{url}/metrics").text
    assert 'danlu_requests_running{model="tiny"}' in text and 'danlu_requests_running{model="poet"}' not in text
    assert httpx.get(f"{url}/health").json()["models"] == {"tiny": "ok", "poet": "ok", "lawyer": "ok"}


def test_a_name_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"poett.*did you mean .*poet"):
        client.completions.create(model="poett", prompt="x")


def test_an_adapter_that_was_unloaded_is_a_400_and_the_base_answers(sources: dict[str, Path]) -> None:
    engine = tiny.tiny_engine(adapters=sources)
    with tiny.in_thread({"tiny": engine}) as url:
        mine = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        engine.unload_adapter("poet")
        with pytest.raises(openai.BadRequestError, match='no adapter "poet"'):
            mine.completions.create(model="poet", prompt="x", max_tokens=2)
        for name in ("tiny", "lawyer"):
            assert mine.completions.create(model=name, prompt="x", max_tokens=2).model == name


def test_one_name_cannot_mean_two_things(sources: dict[str, Path]) -> None:
    with pytest.raises(UserError, match='served as "poet"'):
        create_app({"poet": tiny.tiny_engine(adapters=sources)})


def test_a_wrong_adapter_ends_the_command_before_it_serves(sources: dict[str, Path], tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model")
    (tmp_path / "broken").mkdir()
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        serve_models({"tiny": model}, port=0, options={"adapters": {"broken": tmp_path / "broken"}})
    assert Engine(model, adapters=sources).adapters.names == ("poet", "lawyer")


@pytest.mark.parametrize("processes", ["replicas", "ranks"])
def test_engines_of_several_processes_serve_them_too(processes: str, sources: dict[str, Path], tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model")
    names: list[str | None] = [None, "poet", "lawyer"]
    with Engine(model, adapters=sources) as engine:
        sampling = Sampling(temperature=0, max_tokens=8, ignore_eos=True)
        wanted = [out.text for out in engine.generate(["春眠"] * 3, sampling, names)]
    assert len(set(wanted)) == 3
    several = (
        Replicas(model, 2, adapters=sources, kv_bytes=16 << 20)
        if processes == "replicas"
        else Engine(model, tensor_parallel=2, adapters=sources)
    )
    with tiny.in_thread({"tiny": several}) as url:
        options = {"prompt": "春眠", "max_tokens": 8, "ignore_eos": True, "temperature": 0}
        got = [
            httpx.post(f"{url}/v1/completions", json={"model": name or "tiny", **options}, timeout=60).json()
            for name in names
        ]
    assert [answer["choices"][0]["text"] for answer in got] == wanted
