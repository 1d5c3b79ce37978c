"""`danlu bench` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from danlu.cli.main import main
from tests.serve.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


def danlu(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


SMALL = ["--prompt-tokens", "40", "--max-tokens", "6", "--concurrency", "2", "--rounds", "1"]


def test_a_report_for_people_and_one_for_programs(model: Path) -> None:
    shown = danlu("bench", str(model), *SMALL)
    assert shown.exit_code == 0, shown.output
    for text in ("prefill", "decode", "2 at once", "between tokens, alone", "GB/s"):
        assert text in shown.stdout
    assert "run 1 of 2: prefill" in shown.stderr, "progress belongs to standard error"
    found = danlu("bench", str(model), *SMALL, "--json")
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["prompt_tokens"] == 40 and result["concurrent"]["requests"] == 2
    assert result["decode"]["share"] > 0 and result["kernels"] in (
        "torch",
        "plain",
        "avx2",
        "avx512-vnni",
        "neon-dotprod",
        "neon",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prompt-tokens", "9000"], "do not fit the context of 8192"),
        (["--max-tokens", "1"], "max tokens is 1"),
        (["--concurrency", "0"], "concurrency is 0"),
        (["--rounds", "-1"], "rounds is -1"),
        (["--prompt-tokens", "1" + "0" * 30], "do not fit the context of 8192"),
        (["--max-tokens", "1" + "0" * 30], "do not fit the context of 8192"),
        (["--concurrency", "1000000000"], "concurrency is 1000000000"),
        (["--rounds", "1000000000"], "rounds is 1000000000"),
    ],
)
def test_sizes_are_checked(model: Path, arguments: list[str], sentence: str) -> None:
    result = danlu("bench", str(model), *arguments)
    assert result.exit_code == 2 and sentence in result.stderr and "Traceback" not in result.output


def test_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = danlu("bench", "nothing")
    assert result.exit_code == 2 and 'no model "nothing"' in result.stderr
