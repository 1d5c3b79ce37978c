"""The contest of engines, played for real with danlu on a model of a few thousand parameters."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import engine as contest_of_engines
from bench import workloads
from bench.contest import Contestant, Unavailable
from bench.engine import Entry, Seat, Wanted, add, equal_beginning, judge, perplexity, take, tolerance, turn
from bench.workloads import Play, Workload
from danlu.engine.measure import Job, throughput
from danlu.evaluate.perplexity import score_ids
from danlu.model.hub import load
from tests.engine.models import greedy
from tests.serve.tiny import write_model

WINDOWS = [[random.Random(n).randrange(300) for _ in range(length)] for n, length in enumerate((300, 2, 40))]
SMALL = {
    "concurrent": Workload(lambda rng: Play(small(workloads.concurrent(rng, 4, (3, 30), (2, 9)).jobs)), throughput, ""),
    "uncached": Workload(lambda rng: Play([Job([1, 2, 3], 2)], cache=False), throughput, ""),
}


def small(jobs: list[Job]) -> list[Job]:
    return [Job([token % 300 for token in job.prompt], job.new, job.after) for job in jobs]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def danlu(model: Path) -> Iterator[Seat]:
    command = [sys.executable, "-m", "bench.peers.danlu", str(model)]
    process = Contestant("danlu", command)
    yield Seat(Entry("danlu", "danlu", "float32", "float32"), "danlu", command, process, process.ask(about=True))
    process.close()


def test_a_contestant_plays_and_its_tokens_are_the_models(danlu: Seat, model: Path) -> None:
    reference, _ = load(model)
    jobs = small(workloads.intruder(random.Random(1), streams=2, prompt=5, new=8, long=60, after=3).jobs)
    traces = take(danlu.process, Play(jobs, warm=[Job([5, 6, 7], 1)]))
    assert [trace.tokens for trace in traces] == [greedy(reference, job.prompt, job.new) for job in jobs]
    assert traces[2].submitted >= traces[0].arrived[2]


def test_perplexity_is_that_of_the_model(danlu: Seat, model: Path) -> None:
    reference, _ = load(model)
    nats = sum(score_ids(reference, [ids[1:]], start=ids[0], length=8192)[0] for ids in WINDOWS)
    found = perplexity(danlu, WINDOWS)
    assert found == pytest.approx(math.exp(nats / sum(len(ids) - 1 for ids in WINDOWS)), rel=1e-4)
    assert danlu.about["weight_bytes"] == 4 * reference.n_params and danlu.about["alone"] == ""


def test_turns_are_counted_and_refusals_are_kept(danlu: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest_of_engines, "WORKLOADS", SMALL)
    for number in range(2):
        turn(danlu, "concurrent", number)
    turn(danlu, "uncached", 0)
    turn(danlu, "start", 0)
    assert len(danlu.runs["concurrent"]) == 2 and all(rate > 0 for rate in danlu.runs["concurrent"])
    assert 0.1 < danlu.runs["start"][0] < 60 and "uncached" in danlu.runs and not danlu.left_out
    lonely = Seat(danlu.entry, "lonely", danlu.command, danlu.process, danlu.about | {"alone": "one at a time"})
    turn(lonely, "concurrent", 0)
    turn(lonely, "concurrent", 1)
    assert lonely.left_out == {"concurrent": "one at a time"} and not lonely.runs


def test_a_contestant_whose_weights_are_missing(tmp_path: Path) -> None:
    process = Contestant("danlu", [sys.executable, "-m", "bench.peers.danlu", str(tmp_path / "nothing")])
    with pytest.raises(Unavailable, match=r"UserError: .*nothing"):
        process.ask(about=True)
    process.close()


def row(name: str, bits: float, perplexity: float | None) -> dict[str, Any]:
    facts = {"arithmetic": "int8" if bits < 16 else "float32", "weight_bytes": 1000}
    return {"name": name, "bits_per_weight": bits, "perplexity": perplexity} | facts


def result_of(rows: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    rates = {"bandwidth": 2e6, "products": {"float32": 100.0, "int8": 300.0}, "prefill_flops": 512}
    return {"rows": rows, "reference": reference} | rates


def test_the_gate() -> None:
    rows = [
        row("oracle", 32, 20.0),
        row("exact", 32, 20.1),
        row("careless", 16, 20.5),
        row("int8", 8.1, 20.5),
        row("int4", 4.5, 24.0),
        row("broken", 4.5, 40.0),
        row("too good", 4.5, 10.0),
        row("silent", 8, None),
    ]
    judge(result_of(rows, "oracle"))
    assert [r["name"] for r in rows if r["ranked"]] == ["oracle", "exact", "int8", "int4"]
    assert rows[4]["perplexity_change"] == pytest.approx(0.2) and rows[7]["perplexity_change"] is None
    assert [tolerance(bits) for bits in (32, 16, 8, 5.8, 4.5)] == [0.01, 0.01, 0.03, 0.3, 0.3]
    assert [rows[i]["prefill_limit"] for i in (0, 3)] == [100, 300]
    judge(result_of(rows, ""))
    assert not any(r["ranked"] for r in rows), "without float32 nobody is"


def test_equal_beginning() -> None:
    assert equal_beginning([1, 2, 3], [1, 2, 3]) == 3
    assert equal_beginning([1, 9, 3], [1, 2, 3]) == 1


def test_only() -> None:
    wanted = Wanted(["decode", "danlu int4", "LLAMA", "Qwen"])
    assert wanted.workload("decode") and not wanted.workload("prefill")
    assert wanted.contestant("danlu int4") and wanted.contestant("llama.cpp Q4_K_M")
    assert not wanted.contestant("danlu int8")
    assert wanted.subject("Qwen2.5-Coder-0.5B-Instruct") and not wanted.subject("SmolLM2-135M-Instruct")
    assert Wanted([]).workload("start") and Wanted([]).contestant("anybody")
    exact = Wanted(["steady", "s"])
    assert exact.workload("shared") and exact.workload("steady")
    with pytest.raises(SystemExit, match='nothing is called "dekode"'):
        Wanted(["dekode"])


def test_a_result_is_added_to_an_earlier_one() -> None:
    def result(model: str, name: str, **figures: float) -> dict[str, Any]:
        own = row(name, 32, 20.0) | {
            "figures": dict(figures),
            "left_out": {} if "prefill" in figures else {"prefill": "no"},
        }
        part = result_of([own], name) | {"model": model, "unavailable": {"vllm": "no"}}
        return {"machine": "here", "rounds": 2, "text_sha256": "a", "models": [part]}

    smollm2, qwen = (subject.name for subject in contest_of_engines.SUBJECTS)
    both = add(result(qwen, "danlu", decode=1.0), result(smollm2, "danlu", decode=2.0))
    assert [model["model"] for model in both["models"]] == [smollm2, qwen]
    more = add(both, result(smollm2, "danlu", prefill=3.0, decode=2.5))
    assert more["models"][0]["rows"][0]["figures"] == {"decode": 2.5, "prefill": 3.0}
    assert more["models"][0]["rows"][0]["left_out"] == {}
    faster = result(smollm2, "vllm", decode=4.0)
    faster["models"][0]["products"] = {"float32": 4e9, "int8": 0.0}
    other = add(more, faster)
    assert [row["name"] for row in other["models"][0]["rows"]] == ["danlu", "vllm"]
    assert len({row["prefill_limit"] for row in other["models"][0]["rows"]}) == 1, "one machine, one limit"
    assert all(row["ranked"] for row in other["models"][0]["rows"])
    assert other["models"][0]["unavailable"] == {} and other["models"][0]["reference"] == "danlu"
    with pytest.raises(SystemExit, match="another machine"):
        add(both, result(qwen, "danlu") | {"machine": "there"})
