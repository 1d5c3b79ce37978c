"""`danlu compress` and `danlu export` as a person types them, wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from danlu.cli.main import main
from tests.compress.models import LLAMA, saved_corpus, saved_model

SHAPE = {**LLAMA, "head_dim": 32}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_STORE", str(tmp_path / "store"))
    saved_model(tmp_path / "float", SHAPE, hidden_size=128, intermediate_size=256, n_layers=2)
    return tmp_path


def danlu(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_settings_are_read_as_a_recipe_reads_them(here: Path) -> None:
    done = danlu("compress", "./float", "--method", "rtn", "--bits", "4", "--set", "group=64", "--set", "head_bits=16")
    assert done.exit_code == 0, done.output
    config = json.loads(next((here / "store" / "model").glob("*/artifact.json")).read_text())["config"]
    assert (config["group"], config["head_bits"]) == (64, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "rtn", "--bits", "0"], 'no method "rtn" with 0 bits'),
        (["--method", "rtn", "--bits", "8", "--set", "bits=4"], "bits = 8, and --set bits=4"),
        (["--method", "rtn", "--set", "method=gptq"], "method = rtn, and --set method=gptq"),
        (["--method", "rtn", "--set", "group=48"], "group: Input should be"),
        (["--method", "rtn", "--set", "seed=9223372036854775808"], "seed: Input should be less than"),
        (["--method", "rtn", "--name", ""], '"" cannot be a name'),
        (["--method", "rtn", "--name", "n" * 300], "too long"),
        (["--method", "rtn", "--calibration", "./corpus"], "rtn looks at no text"),
        (["--bits", "4"], "which method?"),
    ],
)
def test_what_is_refused(options: list[str], message: str, here: Path) -> None:
    saved_corpus(here / "corpus")
    done = danlu("compress", "./float", *options)
    assert done.exit_code == 2 and message in done.output
    assert "--debug" not in done.output and len(done.output.splitlines()) <= 4
    assert not list((here / "store" / "model").glob("*/artifact.json"))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("file/out", [], "the directory"),
        ("n" * 300, [], "File name too long"),
        ("out", ["--type", ""], 'no type ""'),
        ("out", ["--to", ""], 'no format ""'),
    ],
)
def test_exports_that_have_no_place(target: str, options: list[str], message: str, here: Path) -> None:
    (here / "file").write_text("mine")
    done = danlu("export", "./float", target, *options)
    assert done.exit_code == 2 and message in done.output and "--debug" not in done.output
    assert (here / "file").read_text() == "mine" and not (here / "out").exists()


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx"])
def test_a_model_of_low_rank_leaves_in_every_format(to: str, here: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnx")
    saved_corpus(here / "corpus")
    options = ["--calibration", "./corpus", "--set", "rows=2", "--set", "length=32", "--name", "pairs"]
    made = danlu("compress", "./float", "--method", "svd", *options)
    assert made.exit_code == 0, made.output
    done = danlu("export", "pairs", "out", "--to", to)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx"])
@pytest.mark.parametrize("name", ["norm", "embedding"])
def test_no_format_takes_nan(name: str, to: str, here: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnx")
    from danlu.model.hub import load, save_model

    model, tokenizer = load(here / "float")
    model.get_submodule(name).weight.data.view(-1)[3] = float("nan")
    save_model(model, here / "float", tokenizer)
    for arguments in (["export", "./float", "out", "--to", to], ["import", "./float", "--name", "x"]):
        done = danlu(*arguments)
        assert done.exit_code == 2 and f"{name}.weight has numbers that are not finite" in done.output
    assert not (here / "out").exists()
