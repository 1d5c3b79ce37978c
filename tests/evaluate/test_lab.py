"""The lab: what it says of the rows, the front, the advice and the picture; and the recipe from end to end."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.recipe import load_recipe
from danlu.core.run import run_recipe
from danlu.core.stage import StageRun
from danlu.core.store import Store
from danlu.engine import Engine
from danlu.evaluate.lab import LabConfig, lab
from danlu.evaluate.lab.advice import advise, front, size, slowness
from danlu.evaluate.lab.picture import picture
from danlu.evaluate.speed import in_processes, speeds
from danlu.model.hub import load, save_model
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer
from tests.evaluate.conftest import tiny_config


def row(name: str, size: float, change: float, alone: float = 1.0, together: float = 1.0) -> dict[str, Any]:
    return {
        "name": name, "weight_bytes": size, "bits_per_byte": 1 + change, "bits_per_byte_change": change,
        "change_high": change + 0.005, "decode_tokens_per_second": alone, "batched_tokens_per_second": together,
    }  # fmt: skip


TRAINED = {"budget": "3 steps", "context": 32, "batch_tokens": 64}
ROWS = [
    row("original", 400e6, 0.0, 10, 40), row("eight", 100e6, 0.001, 30, 90), row("four", 60e6, 0.02, 50, 80),
    row("worse four", 61e6, 0.2, 50, 99), row("tiny", 20e6, 0.5, 90, 95),
]  # fmt: skip


def test_the_front_is_what_nobody_beats_in_both() -> None:
    assert [one["name"] for one in front(ROWS, size)] == ["tiny", "four", "eight", "original"]
    assert [one["name"] for one in front(ROWS, slowness)] == ["tiny", "four", "eight", "original"]
    twins = [row("one", 9, 0.1), row("other", 9, 0.1), row("worse", 9, 0.2)]
    assert [one["name"] for one in front(twins, size)] == ["one", "other"]


def test_advice_keeps_to_the_loss() -> None:
    said = advise(ROWS, 0.03)
    assert {use: one["choice"] for use, one in said.items()} == {"phone": "four", "laptop": "four", "server": "eight"}
    assert "57.2 MiB" in said["phone"]["because"] and "+2.00%" in said["phone"]["because"]
    assert {one["choice"] for one in advise(ROWS, 0.001).values()} == {"original"}
    assert advise(ROWS, 1.0)["server"]["choice"] == "worse four"


def test_advice_does_not_hang_on_the_noise_of_a_clock() -> None:
    rows = [row("original", 400e6, 0.0, 10, 40), row("a", 100e6, 0.002, 103, 90), row("b", 100e6, 0.001, 100, 85)]
    said = advise(rows, 0.03)
    assert {use: one["choice"] for use, one in said.items()} == {"phone": "b", "laptop": "b", "server": "a"}
    assert "of the 2 within 5% of it the one that loses least" in said["laptop"]["because"]
    assert "within 5%" not in said["server"]["because"]


def test_names_of_points_that_lie_together_lie_apart() -> None:
    rows = [row(f"candidate {n}", 100e6 + n, 0.01 + n / 1e5, 50) for n in range(12)]
    drawn = ET.fromstring(picture([row("original", 400e6, 0.0, 10), *rows]))
    texts = [node for node in drawn.iter() if node.tag.endswith("text") and "candidate" in str(node.text)]
    boxes = [(float(t.get("x", 0)), float(t.get("y", 0)), len(str(t.text))) for t in texts]
    assert len(boxes) == 24
    for at, (x, y, length) in enumerate(boxes):
        for other, above, long in boxes[:at]:
            assert x + 6 * length <= other or other + 6 * long <= x or abs(y - above) >= 11


def test_memory_is_that_of_the_process_and_not_of_its_parent(model_artifact: Artifact) -> None:
    ballast = bytearray(b"x") * 1_000_000_000
    found = in_processes({"tiny": (model_artifact.path, "")}, 8, 2, times=2)["tiny"]
    assert len(ballast) > found["peak_memory_bytes"] > 1e7
    assert 0 <= found["speed_spread"] < 1 and found["batched_tokens_per_second"] > 0


def test_a_disturbed_reading_does_not_make_writing_fast(
    model_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which the first token takes 100 s and each later one 1 s, whatever the machine does."""
    engine = Engine(model_artifact.path, max_sequences=1, prefix_cache=False, max_context=64)
    now, stream = 0.0, engine.stream

    def slow_stream(*arguments: Any) -> Iterator[Any]:
        nonlocal now
        for number, delta in enumerate(stream(*arguments)):
            now += 1.0 if number else 100.0
            yield delta

    monkeypatch.setattr(engine, "stream", slow_stream)
    monkeypatch.setattr("danlu.evaluate.speed.time.perf_counter", lambda: now)
    found = speeds(engine, 8)
    assert found["decode_tokens_per_second"] == 1.0 and found["prefill_tokens_per_second"] < 1


def test_the_picture_has_every_name_and_is_xml() -> None:
    drawn = ET.fromstring(picture([*ROWS, row("<&>", 50e6, -0.01)]))
    texts = ["".join(node.itertext()) for node in drawn.iter() if node.tag.endswith("text")]
    for one in ROWS:
        assert texts.count(one["name"]) == 2
    assert "<&>" in texts
    circles = [node for node in drawn.iter() if node.tag.endswith("circle")]
    assert len(circles) == 14  # two are the key
    assert all(0 < float(node.get("cx", 0)) < 1240 and 0 < float(node.get("cy", 0)) < 480 for node in circles)


@pytest.mark.parametrize("fastest", [12, 900, 40_000, 63e9])
def test_names_of_ticks_lie_apart(fastest: float) -> None:
    drawn = ET.fromstring(picture([row("original", 400e6, 0.0, 10), row("fast", 100e6, 0.01, fastest)]))
    middle = [node for node in drawn.iter() if node.get("text-anchor") == "middle"]
    places = [(float(node.get("x", 0)), 6.6 * len(str(node.text))) for node in middle]
    for (x, width), (after, wide) in pairwise(places):
        assert after < x or x + width / 2 < after - wide / 2


@pytest.fixture
def int8(model_artifact: Artifact, tmp_path: Path) -> Artifact:
    model, tokenizer = load(model_artifact.path)
    quantize_(model, 8)
    save_model(model, tmp_path / "int8", tokenizer)
    return Artifact.from_path(tmp_path / "int8", "model")


def test_rows_of_a_model_and_its_candidates(
    model_artifact: Artifact, int8: Artifact, tokenizer: Tokenizer, corpus: Artifact, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    save_model(Transformer(tiny_config(tokenizer.vocab_size)), tmp_path / "other", tokenizer)
    other = Artifact.from_path(tmp_path / "other", "model")
    run = StageRun.for_test(tmp_path)
    config = LabConfig(max_bytes=2000, context=32, speed_tokens=8, requests=2, rounds=1)
    metrics = lab(config, run, model_artifact, corpus, {"int8": int8, "other": other})
    report = json.loads((run.out / "report.json").read_text())
    rows = {one["name"]: one for one in report["rows"]}
    assert list(rows) == ["original", "original, int8 KV", "other", "int8"]
    assert rows["original"]["bits_per_byte_change"] == 0 and rows["original"]["agreement"]["value"] == 1.0
    assert rows["int8"]["agreement"]["value"] > 0.8 > rows["other"]["agreement"]["value"]
    assert rows["int8"]["smaller_than_float32"] > 0.6 and abs(rows["int8"]["bits_per_byte_change"]) < 0.02
    assert abs(rows["original, int8 KV"]["bits_per_byte_change"]) < 0.02
    for one in rows.values():
        assert one["decode_tokens_per_second"] > 0 and one["batched_tokens_per_second"] > 0
        assert one["peak_memory_bytes"] > 1e6
    assert metrics["candidates"] == 2 and metrics["int8_bits_per_byte"] == rows["int8"]["bits_per_byte"]
    page = (run.out / "report.html").read_text()
    assert "<svg" in page and "original, int8 KV" in page and "phone" in page
    assert (run.out / "report.md").read_text().count("\n| ") == 5  # a head and four rows


def test_a_corpus_that_cannot_judge_is_refused_before_anything_is_made(
    model_artifact: Artifact, corpus: Artifact, tmp_path: Path
) -> None:
    for file in corpus.path.glob("train-*"):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / file.name).write_bytes(file.read_bytes())
    given = {"model": str(model_artifact.path), "corpus": str(tmp_path / "corpus"), "lab.candidates": "[$int8]"}
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"no held-out documents.*share of documents for validation"):
        run_recipe(load_recipe("compression-lab", given), store)
    assert not store.manifests()


def test_trained_scales_are_candidates() -> None:
    nodes = load_recipe("compression-lab", {"model": "m", "corpus": "c"}).nodes
    tuned = nodes["gptq4-tuned"].config.model_dump()
    assert tuned == nodes["gptq4"].config.model_dump() | {"tune": 48}
    assert nodes["gptq4-head4"].config.model_dump() == tuned | {"head_bits": 4, "rows": 80}
    assert {"candidates.gptq4-tuned", "candidates.gptq4-head4"} <= set(nodes["lab"].inputs)


def test_the_recipe_from_end_to_end(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    """Some of its candidates on a tiny model, of which one does not fit it; the others are not built."""
    store = Store(tmp_path / "store")
    recipe = load_recipe(
        "compression-lab",
        {
            "model": str(model_artifact.path), "corpus": str(corpus.path),
            "lab.candidates": "[$int8, $gptq4, $qat4, $channels, $heads, $sparsegpt-recovered, $low-rank, $students]",
            "students": str(model_artifact.path), "lab.rounds": 1, "lab.max_bytes": 1000,
            "lab.speed_tokens": 8, "lab.requests": 2, "lab.context": 32,
            "gptq4.rows": 4, "gptq4.length": 32, "channels.share": 0.5, "channels.rows": 4, "channels.length": 32,
            "low-rank.rows": 4, "low-rank.length": 32, "sparsegpt.rows": 4, "sparsegpt.length": 32,
            **{f"{name}.{key}": value for name in ("qat4", "sparsegpt-recovered") for key, value in TRAINED.items()},
        },
    )  # fmt: skip
    done = run_recipe(recipe, store, only=["lab"])
    named = {"int8", "gptq4", "qat4", "channels", "sparsegpt-recovered", "low-rank"}
    assert set(done.artifacts) == named | {"tokens", "sparsegpt", "lab"}
    assert "1 groups of heads" in done.failed["heads"]  # which cannot lose one
    report = json.loads((done.artifacts["lab"].path / "report.json").read_text())
    made = {one["name"]: one.get("how", "") for one in report["rows"]}
    (student,) = set(made) - named - {"original", "original, int8 KV"}
    assert named < set(made) and report["rows"][0]["bits_per_byte"] == next(
        one["bits_per_byte"] for one in report["rows"] if one["name"] == student
    )
    assert made["qat4"] == "qat, 4 bits" and made["sparsegpt-recovered"] == "recover"
    assert made["int8"] == "rtn, 8 bits, a scale a row" and made["channels"] == "channels, 50% gone"
    assert made["gptq4"] == "gptq, 4 bits, groups of 32, zero points"
    assert "gptq, 4 bits" in (done.artifacts["lab"].path / "report.html").read_text()
