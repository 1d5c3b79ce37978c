"""A scheme for each matrix: the budget is kept, and what is said to be sensitive is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.compress.quantize import QuantizeConfig, quantize, sensitivity
from danlu.compress.quantize.mixed import choose_options
from danlu.compress.quantize.sensitivity import Option, options_of
from danlu.compress.walk.blockwise import Source
from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load_model
from danlu.model.quantized import Scheme, quantize_, schemes_of
from tests.compress.models import GPT2, LLAMA, saved_corpus, saved_model

SMALL: dict[str, Any] = {"rows": 8, "length": 64, "bits": 4}


def test_the_example_of_the_docstring() -> None:
    small, middle, large = Scheme(4, 128), Scheme(4, 32), Scheme(8)
    options = {
        "A": [Option(small, 2, 9), Option(middle, 4, 3), Option(large, 8, 1)],
        "B": [Option(small, 2, 4), Option(middle, 4, 1)],
    }
    assert {name: own.bytes for name, own in choose_options(options, 10).items()} == {"A": 4, "B": 4}
    assert {name: own.bytes for name, own in choose_options(options, 12).items()} == {"A": 8, "B": 4}
    with pytest.raises(UserError, match="the smallest plan takes 4 bytes"):
        choose_options(options, 3)


def test_only_steps_of_the_hull_are_taken() -> None:
    """4 bytes save little and 8 much: a greedy walk over all three would stop at 4."""
    options = {"A": [Option(Scheme(4, 128), 2, 9), Option(Scheme(4, 32), 4, 8.9), Option(Scheme(8), 8, 0)]}
    assert choose_options(options, 7)["A"].bytes == 2
    assert choose_options(options, 8)["A"].bytes == 8


def test_a_large_step_may_come_first() -> None:
    """B saves most in all, a little less a byte than A: after A it no longer fits."""
    small, large = Scheme(4, 32), Scheme(8)
    options = {"A": [Option(small, 1, 3), Option(large, 2, 0)], "B": [Option(small, 10, 21), Option(large, 20, 1)]}
    assert {name: own.bytes for name, own in choose_options(options, 21).items()} == {"A": 1, "B": 20}


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_estimate_is_near_runs_with_one_matrix_rounded(family: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    artifact = saved_model(tmp_path / "model", family, vocab_size=424, tie_embeddings=False)
    source, ids = Source(artifact), torch.randint(0, 424, (16, 48))
    options = options_of(source, ids, None, StageRun.for_test(tmp_path / "run"))
    with torch.no_grad():
        before = load_model(artifact.path)(ids).log_softmax(-1)
    said, seen = [], []
    for name, own in options.items():
        option = next(option for option in own if option.scheme == Scheme(4, 32))
        model = load_model(artifact.path)
        quantize_(model, {name: option.scheme})
        with torch.no_grad():
            after = model(ids).log_softmax(-1)
        seen.append(float((before.exp() * (before - after)).sum(-1).mean()))
        said.append(option.loss)
    ratio = torch.tensor(said).log() - torch.tensor(seen).log()
    together = torch.stack([torch.tensor(said).log(), torch.tensor(seen).log()])
    print("said / seen", ratio.exp().min().item(), ratio.exp().max().item(), torch.corrcoef(together)[0, 1].item())
    assert float(torch.corrcoef(together)[0, 1]) > 0.9
    assert float(ratio.abs().max()) < torch.tensor(2.0).log()


def test_more_bits_lose_less_and_gptq_loses_less_than_nearest(tmp_path: Path) -> None:
    source, ids = Source(saved_model(tmp_path / "model")), torch.arange(512).remainder(420).view(8, 64)
    nearest = options_of(source, ids, None, StageRun.for_test(tmp_path / "a"))
    made_up = options_of(source, ids, 0.01, StageRun.for_test(tmp_path / "b"))
    for name, own in nearest.items():
        loss, less = ({option.scheme: option.loss for option in found} for found in (own, made_up[name]))
        assert 50 * loss[Scheme(8)] < loss[Scheme(4, 32)] and 50 * less[Scheme(8)] < less[Scheme(4, 32)]
        assert name == "embedding" or less[Scheme(4, 32)] < loss[Scheme(4, 32)]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_budget_is_kept_and_used(method: str, tmp_path: Path) -> None:
    model, corpus = saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus")
    weights = load_model(model.path).n_params
    sizes, expected = [], []
    for bits in (5.6, 6.5, 8.0):
        run = StageRun.for_test(tmp_path / str(bits))
        metrics = quantize(QuantizeConfig(method=method, budget=bits, **SMALL), run, model, corpus)
        report = json.loads((run.out / "report.json").read_text())
        found = schemes_of(load_model(run.out))
        assert {n: s.bits for n, s in found.items()} == {n: own["bits"] for n, own in report["plan"].items()}
        numbers = sum(own["bytes"] for own in report["plan"].values())
        assert numbers <= bits * weights / 8 and set(report["plan"]["embedding"]["sensitivity"]) >= {"8 bits, row"}
        sizes.append(numbers)
        expected.append(metrics["expected_loss"])
        assert report["group"] == "mixed" and not list(run.work.iterdir())
    assert sizes == sorted(set(sizes)) and expected == sorted(set(expected), reverse=True)


def test_stopped_while_it_measures_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is read by the next try, which ends in the same bytes."""
    model, corpus = saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus")
    config = QuantizeConfig(method="gptq", budget=6.0, **SMALL)
    whole, stopped = StageRun.for_test(tmp_path / "whole"), StageRun.for_test(tmp_path / "stopped")
    quantize(config, whole, model, corpus)
    for unit, when in (("blocks measured", 2), ("blocks", 1)):

        def stop(done: int, total: int | None, of: str, unit: str = unit, when: int = when) -> None:
            stopped.stop_requested = (of, done) == (unit, when)

        monkeypatch.setattr(stopped, "progress", stop)
        with pytest.raises(Interrupted):
            quantize(config, stopped, model, corpus)
        stopped.stop_requested = False
    assert (stopped.work / "options.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(sensitivity, "_options", lambda *_: pytest.fail("measured again"))
    quantize(config, stopped, model, corpus)
    for file in whole.out.iterdir():
        assert file.read_bytes() == (stopped.out / file.name).read_bytes(), file.name


def test_what_is_refused(tmp_path: Path) -> None:
    model, corpus, run = saved_model(tmp_path / "m"), saved_corpus(tmp_path / "c"), StageRun.for_test(tmp_path / "run")
    with pytest.raises(UserError, match="needs text"):
        quantize(QuantizeConfig(method="rtn", bits=4, budget=6.0), run, model)
    with pytest.raises(UserError, match="no use for awq"):
        quantize(QuantizeConfig(method="awq", bits=4, budget=6.0), run, model, corpus)
    with pytest.raises(UserError, match="no use for rtn with 8"):
        quantize(QuantizeConfig(budget=6.0), run, model, corpus)
    with pytest.raises(UserError, match="chooses group"):
        quantize(QuantizeConfig(method="rtn", bits=4, budget=6.0, group=64), run, model, corpus)
    with pytest.raises(UserError, match="the smallest plan"):
        quantize(QuantizeConfig(method="rtn", bits=4, budget=3.0, rows=8, length=64), run, model, corpus)
    quantize(QuantizeConfig(), run, model)
    with pytest.raises(UserError, match="quantised already"):
        Source(Artifact.from_path(run.out, "model"))
