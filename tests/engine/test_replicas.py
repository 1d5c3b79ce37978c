"""Several engines as one: the same answers, requests where their prefix is, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.engine import Delta, Engine, Sampling
from danlu.engine.child import ProcessLost
from danlu.engine.replicas import ANSWER, Replicas, _chain, _Replica, total
from danlu.model.adapter import write_adapter
from danlu.model.hub import save_model
from danlu.tokenizer.tokenizer import Tokenizer
from tests.adapters import make_adapter
from tests.engine.models import make_model, random_prompt
from tests.engine.processes import children_after_kill, is_gone, until

LONG = Sampling(max_tokens=900, ignore_eos=True, seed=1)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("replicas") / "model"
    save_model(make_model("gqa", family="llama", vocab_size=tokenizer.vocab_size, max_position=1024), path, tokenizer)
    return path


@pytest.fixture(scope="module")
def replicas(model_path: Path) -> Iterator[Replicas]:
    with Replicas(model_path, 2, max_sequences=8, kv_bytes=1 << 24) as engines:
        yield engines


def drain(engines: Replicas) -> dict[str, list[Delta]]:
    """Step until nothing is left; the deltas by request."""
    made: dict[str, list[Delta]] = defaultdict(list)
    deadline = time.monotonic() + 60
    while engines.has_work:
        assert time.monotonic() < deadline
        for delta in engines.step():
            made[delta.request_id].append(delta)
    return made


def alive(engines: Replicas) -> list[_Replica]:
    return [replica for replica in engines._replicas if replica.alive]


def test_answers_are_those_of_one_engine(replicas: Replicas, model_path: Path) -> None:
    prompts = [random_prompt(n, seed=n) for n in (1, 40, 7, 90, 3, 21, 64, 5)]
    settings = [Sampling(temperature=0.9, seed=i, max_tokens=20, n=1 + i % 3) for i in range(8)]
    with Engine(model_path) as engine:
        wanted = list(engine.generate(prompts, settings))
    requests = [replicas.submit(p, s) for p, s in zip(prompts, settings, strict=True)]
    assert [len(replica.open) > 2 for replica in replicas._replicas] == [True, True], "both have their share"
    made = drain(replicas)
    for answer in wanted:
        number = int(answer.request_id.removeprefix("request-"))
        mine = [d for d in made[requests[number].id] if d.index == answer.index]
        assert tuple(t for d in mine for t in d.token_ids) == answer.token_ids
        assert "".join(d.text for d in mine) == answer.text
        assert mine[-1].finish_reason == answer.finish_reason
    assert replicas.stats.generated_tokens == sum(len(answer.token_ids) for answer in wanted)


def test_a_shared_beginning_is_read_by_one_replica(replicas: Replicas) -> None:
    before = replicas.stats
    opening, other = random_prompt(160, seed=100), random_prompt(160, seed=101)
    for i in range(4):
        for start in (opening, other):
            replicas.submit([*start, i], Sampling(temperature=0, max_tokens=2))
        drain(replicas)
    after = replicas.stats
    assert after.prefix_hits - before.prefix_hits == 2 * 3 * 160, "read once each, by one of the two"
    homes = [{i for i, r in enumerate(replicas._replicas) if next(_chain(p, 16)) in r.known} for p in (opening, other)]
    assert sorted(map(len, homes)) == [1, 1] and homes[0] != homes[1]


def test_a_replica_with_much_more_to_do_gives_requests_away() -> None:
    busy, idle = (_Replica(None, 100, 16) for _ in range(2))  # type: ignore[arg-type]
    blocks = list(_chain(list(range(10 * 16)), 16))
    busy.known.update(dict.fromkeys(blocks[:8]))  # 128 tokens, worth two answers of 64
    assert ANSWER == 64
    busy.open = {"a": {0}}
    assert busy.cost(blocks) < idle.cost(blocks)
    busy.open = {"a": {0, 1, 2}}
    assert busy.cost(blocks) > idle.cost(blocks)
    assert busy.cost(list(_chain([5, *range(10 * 16)], 16))) > idle.cost([]), "another beginning is another prompt"


def test_the_front_desk_refuses_as_an_engine_does(replicas: Replicas, model_path: Path) -> None:
    engine = Engine(model_path, max_sequences=8, kv_bytes=1 << 24)
    assert engine.max_context == replicas.max_context and engine.stop_ids == replicas.stop_ids
    assert engine.encode("床前") == replicas.encode("床前")
    for prompt, sampling in (
        ([], Sampling()),
        ([99999], Sampling()),
        ([1] * 2000, Sampling()),
        ([1], Sampling(logit_bias={99999: 1})),
    ):
        with pytest.raises(UserError) as ours:
            replicas.submit(prompt, sampling)
        with pytest.raises(UserError) as theirs:
            engine.submit(prompt, sampling)
        assert str(ours.value) == str(theirs.value)
    assert not replicas.has_work


def test_a_cancelled_request_stops(replicas: Replicas) -> None:
    request = replicas.submit([1, 2, 3], LONG)
    until(lambda: replicas.step() and replicas.stats.running == 1)
    replicas.cancel(request.id)
    assert not replicas.has_work
    until(lambda: replicas.step() == [] and replicas.stats.kv_blocks_used == 0)
    assert replicas.stats.finished.get("cancelled") == 1


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    """Adapters of the model."""
    config = make_model("gqa", family="llama", vocab_size=tokenizer.vocab_size, max_position=1024).config
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("poet", "lawyer")):
        write_adapter(make_adapter(config, seed=seed), folder / name, config)
    return {name: folder / name for name in ("poet", "lawyer")}


def ask(engines: Replicas, names: list[str | None], prompt: list[int]) -> list[tuple[int, ...]]:
    """The tokens of a greedy answer for each adapter."""
    requests = [engines.submit(prompt, Sampling(temperature=0, max_tokens=9), adapter=name) for name in names]
    made = drain(engines)
    return [tuple(token for delta in made[request.id] for token in delta.token_ids) for request in requests]


def test_adapters_answer_as_in_one_engine_and_outlive_a_replica(
    replicas: Replicas, model_path: Path, sources: dict[str, Path]
) -> None:
    for name, source in sources.items():
        replicas.load_adapter(name, source)
    names = [None, "poet", "lawyer"] * 3
    prompt = random_prompt(40, seed=3)
    with Engine(model_path, adapters=sources) as engine:
        wanted = [out.token_ids for out in engine.generate([prompt] * 9, Sampling(temperature=0, max_tokens=9), names)]
    assert len(set(wanted)) == 3
    assert ask(replicas, names, prompt) == wanted
    victim = replicas._replicas[0]
    os.kill(victim.child.process.pid, signal.SIGKILL)
    until(lambda: replicas.step() == [] and victim not in replicas._replicas and len(alive(replicas)) == 2, seconds=180)
    assert ask(replicas, names, prompt) == wanted, "the new one was told of them"
    replicas.unload_adapter("lawyer")
    with pytest.raises(UserError, match='no adapter "lawyer"'):
        replicas.submit(prompt, LONG, adapter="lawyer")
    replicas.load_adapter("lawyer", sources["poet"])
    assert ask(replicas, ["lawyer", None], prompt) == [wanted[1], wanted[0]]
    for name in sources:
        replicas.unload_adapter(name)
    assert replicas.adapters.names == ()


def test_an_adapter_that_does_not_fit_is_refused_and_told_to_nobody(replicas: Replicas, tmp_path: Path) -> None:
    config = make_model("gqa", family="llama", hidden_size=64).config
    write_adapter(make_adapter(config), tmp_path, config)
    with pytest.raises(UserError, match="does not fit"):
        replicas.load_adapter("foreign", tmp_path)
    assert replicas.adapters.names == () and replicas._adapters == {}
    with pytest.raises(UserError, match='no adapter "foreign"'):
        replicas.submit([1], LONG, adapter="foreign")


def test_replicas_of_two_ranks_with_an_adapter(model_path: Path, sources: dict[str, Path]) -> None:
    """Data parallel, tensor parallel and adapters at once; named from the start."""
    prompt = random_prompt(12)
    with Engine(model_path, block_size=8, adapters=sources) as engine:
        sampling = Sampling(temperature=0, max_tokens=9)
        wanted = [out.token_ids for out in engine.generate([prompt] * 2, sampling, ["poet", None])]
    with Replicas(model_path, 1, tensor_parallel=2, adapters=sources, kv_bytes=1 << 24) as engines:
        assert engines.adapters.names == ("poet", "lawyer")
        assert ask(engines, ["poet", None], prompt) == wanted


def test_a_beginning_under_an_adapter_is_another() -> None:
    plain, one, two = (set(_chain(list(range(64)), 16, root)) for root in (0, 1, 2))
    assert not plain & one and not one & two and len(plain) == 4


def test_stats_are_added_up() -> None:
    one = replace(total([]), running=2, kv_blocks=10, kv_blocks_used=5, last_step_seconds=0.5, finished={"stop": 1})
    two = replace(total([]), running=1, kv_blocks=30, kv_blocks_used=5, last_step_seconds=0.1, finished={"stop": 2})
    both = total([one, two])
    assert (both.running, both.kv_used, both.last_step_seconds, both.finished) == (3, 0.25, 0.5, {"stop": 3})


def test_a_killed_replica_loses_its_answers_alone_and_comes_back(replicas: Replicas) -> None:
    requests = [replicas.submit(random_prompt(20, seed=i), replace(LONG, n=2)) for i in range(4)]
    victim, other = replicas._replicas
    mine, kept = set(victim.open), set(other.open)
    assert len(mine) == len(kept) == 2
    generated = replicas.stats.generated_tokens
    os.kill(victim.child.process.pid, signal.SIGKILL)
    made = drain(replicas)
    for request in requests:
        ends = sorted((d.index, d.finish_reason) for d in made[request.id] if d.finish_reason)
        reason = "lost" if request.id in mine else "length"
        assert ends == [(0, reason), (1, reason)]
    assert replicas.stats.generated_tokens >= generated + 2 * 2 * 900, "counters only grow"
    request = replicas.submit([1, 2], Sampling(max_tokens=3, ignore_eos=True))
    assert drain(replicas)[request.id][-1].finish_reason == "length"
    until(lambda: len(alive(replicas)) == 2)


def test_without_a_running_replica_a_request_is_refused(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_replicas", [])
    with pytest.raises(ProcessLost, match="no replica"):
        replicas.submit([1, 2], LONG)


def test_what_no_engine_takes_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        Replicas(tmp_path, 1)
    with pytest.raises(UserError, match="replicas is 0"):
        Replicas(tmp_path, 0)


SCRIPT = """
import sys
from danlu import Sampling
from danlu.engine import Replicas
engines = Replicas(sys.argv[1], 1)
engines.submit([1, 2, 3], Sampling(max_tokens=900, ignore_eos=True))
engines.step()
print("children", *(replica.child.process.pid for replica in engines._replicas), flush=True)
while True:
    engines.step()
"""


def test_no_replica_outlives_its_front_desk(model_path: Path) -> None:
    (pid,) = children_after_kill(SCRIPT, str(model_path))
    until(lambda: is_gone(pid))
