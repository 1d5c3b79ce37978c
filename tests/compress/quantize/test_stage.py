"""The stage compress.quantize: smaller, close, readable by every other room, and honest about what it cannot do."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from danlu.compress.quantize import METHODS, QuantizeConfig, choose, quantize, scheme_of
from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.data.document import Document, write_documents
from danlu.model.hub import load_model, save_model
from danlu.model.presets import resolve_model
from danlu.model.quantized import Scheme, schemes_of
from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.tokenizer import Tokenizer, make_config

TEXT = "the furnace burns day and night, and what goes in as ore comes out as iron. "


def corpus_of(directory: Path, texts: list[str]) -> Artifact:
    directory.mkdir()
    documents = [
        Document(id=f"{i}", text=text, language="en", source="test", licence="", meta={})
        for i, text in enumerate(texts)
    ]
    write_documents(directory, "train", documents)
    return Artifact.from_path(directory, "corpus")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("models") / "nano"
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        train_bpe([TEXT] * 3, vocab_size=300, special_tokens=["<|end|>"]),
        make_config(eos_token="<|end|>", special_tokens=["<|end|>"]),
    )
    save_model(Transformer(resolve_model("nano", 512)), path, tokenizer)
    (path / "report.json").write_text('{"context": 256, "loss": 1.0}')
    return Artifact.from_path(path, "model")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return corpus_of(tmp_path_factory.mktemp("corpora") / "c", [TEXT[i:] * 20 + str(i) for i in range(40)])


def run_in(directory: Path) -> StageRun:
    directory.mkdir(exist_ok=True)
    return StageRun.for_test(directory)


def warnings_of(directory: Path) -> list[str]:
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    return [event["message"] for event in events if event["event"] == "warning"]


SMALL: dict[str, Any] = {"rows": 4, "length": 64}  # of text


def damaged(model: Artifact, path: Path, name: str, value: float) -> Artifact:
    """A copy with one number that is `value`, or all of a matrix times it where that is finite."""
    shutil.copytree(model.path, path)
    tensors = load_file(path / "model.safetensors")
    if math.isfinite(value):
        tensors[name] *= value
    else:
        tensors[name].view(-1)[5] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return Artifact.from_path(path, "model")


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    method = METHODS[name]
    for bits in method.bits:
        run = run_in(tmp_path / str(bits))
        config = QuantizeConfig(method=name, bits=bits, **(SMALL if method.needs_text else {}))
        metrics = quantize(config, run, nano, corpus if method.needs_text else None)
        assert metrics["smaller_than_float32"] >= (0.70 if bits == 8 else 0.83)
        assert metrics["bytes_after"] == (run.out / "model.safetensors").stat().st_size
        assert 0 < metrics["mean_error"] <= metrics["max_error"] < (0.08 if bits == 8 else 0.3)
        report = json.loads((run.out / "report.json").read_text())
        assert report["context"] == 256 and len(report["blocks"]) == load_model(nano.path).config.n_layers
        again = load_model(run.out)
        assert set(schemes_of(again).values()) == {scheme_of(config), *({Scheme(8)} if bits == 4 else ())}
        ids = torch.arange(60).view(1, 60)
        with torch.no_grad():
            before, after = load_model(nano.path)(ids), again(ids)
        # random weights have no structure that rounding could spare
        assert (after - before).norm() / before.norm() < (0.2 if bits == 8 else 0.5)
        assert not list(run.work.iterdir())


def test_the_file_of_int8(nano: Artifact, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    quantize(QuantizeConfig(), run, nano)
    config = json.loads((run.out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and config["format"] == "int-quantized"
    tensors = load_file(run.out / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj"
    assert tensors[f"{name}.weight"].dtype == torch.int8
    assert tensors[f"{name}.weight_scale"].shape == (tensors[f"{name}.weight"].shape[0], 1)


def test_groups_zero_points_and_the_head(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    run = run_in(tmp_path / "a")
    quantize(QuantizeConfig(method="gptq", bits=4, group=64, symmetric=True, head_bits=16, **SMALL), run, nano, corpus)
    found = schemes_of(load_model(run.out))
    assert set(found.values()) == {Scheme(4, 64)} and "embedding" not in found
    run = run_in(tmp_path / "b")
    quantize(QuantizeConfig(method="rtn", bits=4, symmetric=False, head_bits=4), run, nano)
    assert set(schemes_of(load_model(run.out)).values()) == {Scheme(4, 32, False)}


def test_the_same_model_gives_the_same_bytes(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    runs = [run_in(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        quantize(QuantizeConfig(method="gptq", bits=4, **SMALL), run, nano, corpus)
    for file in runs[0].out.iterdir():
        assert file.read_bytes() == (runs[1].out / file.name).read_bytes()


@pytest.mark.parametrize("method", ["gptq", "awq", "rtn"])
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(
    method: str, nano: Artifact, corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = corpus if METHODS[method].needs_text else None
    config = QuantizeConfig(method=method, bits=4, **(SMALL if text else {}))
    whole, stopped = run_in(tmp_path / "whole"), run_in(tmp_path / "stopped")
    quantize(config, whole, nano, text)
    progress = stopped.progress

    def stop_after_two(done: int, total: int | None, unit: str) -> None:
        progress(done, total, unit)
        stopped.stop_requested = done == 2

    monkeypatch.setattr(stopped, "progress", stop_after_two)
    with pytest.raises(Interrupted, match="2 of"):
        quantize(config, stopped, nano, text)
    assert len(list(stopped.work.iterdir())) == 2 and not list(stopped.out.iterdir())
    monkeypatch.undo()
    stopped.stop_requested = False
    quantize(config, stopped, nano, text)
    for file in whole.out.iterdir():
        assert file.read_bytes() == (stopped.out / file.name).read_bytes(), file.name


def test_kill_9_between_blocks(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    """A process of its own, killed as soon as a block is done: the next one reads it and ends in the same bytes."""
    config = QuantizeConfig(method="gptq", bits=4, rows=16, length=128)
    whole = run_in(tmp_path / "whole")
    quantize(config, whole, nano, corpus)
    battered = tmp_path / "battered"
    script = (
        "import sys; from pathlib import Path; import torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from danlu.compress.quantize import QuantizeConfig, quantize\n"
        "from danlu.core.artifact import Artifact; from danlu.core.stage import StageRun\n"
        "model, corpus, where = sys.argv[1:]\n"
        f"config = QuantizeConfig(**{config.model_dump()!r})\n"
        "run = StageRun.for_test(Path(where))\n"
        "quantize(config, run, Artifact.from_path(Path(model), 'model'), Artifact.from_path(Path(corpus), 'corpus'))\n"
    )
    command = [sys.executable, "-c", script, str(nano.path), str(corpus.path), str(battered)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not list(battered.glob("work/*.safetensors")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = sorted(battered.glob("work/*.safetensors"))
    assert done and not list(battered.glob("out/*"))
    times = [file.stat().st_mtime_ns for file in done]
    again = StageRun.for_test(battered)
    clear, cleared = again.clear_work, []
    again.clear_work = lambda: (cleared.extend(f.stat().st_mtime_ns for f in done), clear())  # type: ignore[assignment]
    quantize(config, again, nano, corpus)
    assert cleared == times  # read, not written again
    for file in whole.out.iterdir():
        assert file.read_bytes() == (again.out / file.name).read_bytes(), file.name


def test_twice_is_a_mistake(nano: Artifact, tmp_path: Path) -> None:
    first, second = run_in(tmp_path / "a"), run_in(tmp_path / "b")
    quantize(QuantizeConfig(), first, nano)
    with pytest.raises(UserError, match="quantised already"):
        quantize(QuantizeConfig(), second, Artifact.from_path(first.out, "model"))
    assert not list(second.out.iterdir())


def test_unknown_methods_list_what_there_is() -> None:
    assert choose(QuantizeConfig(method="rtn")) is METHODS["rtn"]
    for name, bits in (("guess", 8), ("rtn", 3), ("awq", 8)):
        with pytest.raises(UserError, match="there is no method") as error:
            choose(QuantizeConfig(method=name, bits=bits))
        assert "rtn with 8 or 4 bits" in str(error.value.hint)
    with pytest.raises(UserError, match="groups and zero points of its own"):
        scheme_of(QuantizeConfig(method="nf4", bits=4, group=32))


def test_text_that_is_no_good(nano: Artifact, tmp_path: Path) -> None:
    config = QuantizeConfig(method="gptq", bits=4, **SMALL)
    with pytest.raises(UserError, match="needs text"):
        quantize(config, run_in(tmp_path / "a"), nano)
    with pytest.raises(UserError, match="no text to calibrate with"):
        quantize(config, run_in(tmp_path / "b"), nano, corpus_of(tmp_path / "empty", ["", "  \n"]))
    run = run_in(tmp_path / "c")
    quantize(config, run, nano, corpus_of(tmp_path / "little", ["the furnace burns day and night"]))
    assert any("of calibration text" in message for message in warnings_of(tmp_path / "c"))
    run = run_in(tmp_path / "d")
    quantize(config, run, nano, corpus_of(tmp_path / "foreign", ["炉火昼夜不息，矿石入而铁水出。" * 30]))
    assert any("hardly reads this text" in message for message in warnings_of(tmp_path / "d"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 5}, "rtn with 8 bits has no use for rows"),
        ({"damp": 0.5}, "no use for damp"),
        ({"trust": 0.1}, "no use for trust"),
        ({"refine": 7}, "no use for refine"),
        ({"budget_rows": 5}, "no use for budget_rows"),
        ({"head_bits": 16}, "no use for head_bits"),
        ({"method": "awq", "bits": 4, "refine": 7}, "awq with 4 bits has no use for refine"),
        ({"method": "awq+gptq", "bits": 4, "trust": 0.1}, "no use for trust"),
    ],
)
def test_settings_without_use(
    values: dict[str, Any], message: str, nano: Artifact, corpus: Artifact, tmp_path: Path
) -> None:
    config = QuantizeConfig(**values)
    run = run_in(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        quantize(config, run, nano, corpus if METHODS[config.method].needs_text else None)
    assert not list(run.out.iterdir())


def test_text_without_use(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rtn looks at no text"):
        quantize(QuantizeConfig(), run_in(tmp_path / "run"), nano, corpus)
    with pytest.raises(ValidationError, match="finite"):
        QuantizeConfig(method="gptq", bits=4, budget=math.inf)


@pytest.mark.parametrize(
    ("method", "bits", "name", "value", "message"),
    [
        (
            "rtn",
            8,
            "model.layers.1.mlp.down_proj.weight",
            math.nan,
            "blocks.1.mlp.down.weight has numbers that are not",
        ),
        ("gptq", 4, "model.layers.0.self_attn.o_proj.weight", math.inf, "blocks.0.attention.out.weight has numbers"),
        ("hqq", 4, "model.embed_tokens.weight", -math.inf, "embedding.weight has numbers that are not finite"),
        ("fp8", 8, "model.norm.weight", math.nan, "norm.weight has numbers that are not finite"),
        ("rtn", 4, "model.layers.1.mlp.down_proj.weight", 1e36, "the compressed model: blocks.1.mlp.down.weight_scale"),
    ],
)
def test_never_nan(
    method: str, bits: int, name: str, value: float, message: str, nano: Artifact, corpus: Artifact, tmp_path: Path
) -> None:
    model, run = damaged(nano, tmp_path / "model", name, value), run_in(tmp_path / "run")
    text = METHODS[method].needs_text
    with pytest.raises(UserError, match=message):
        quantize(
            QuantizeConfig(method=method, bits=bits, **(SMALL if text else {})), run, model, corpus if text else None
        )
    assert not list(run.out.iterdir())


def test_half_a_block_is_made_again(nano: Artifact, tmp_path: Path) -> None:
    whole, again = run_in(tmp_path / "whole"), run_in(tmp_path / "again")
    quantize(QuantizeConfig(), whole, nano)
    (again.work / "block-00000.safetensors").write_bytes(b"the machine stopped here")
    quantize(QuantizeConfig(), again, nano)
    assert (whole.out / "model.safetensors").read_bytes() == (again.out / "model.safetensors").read_bytes()
