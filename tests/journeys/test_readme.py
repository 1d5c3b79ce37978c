"""The READMEs are executed: their recipe runs, their Python runs, their commands exist, in both languages.

Only amounts are changed, so that it takes seconds: the budgets, and how much of the corpus is read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import danlu
from tests.journeys.test_kill import SMALL

ROOT = Path(danlu.__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")


def fenced(readme: str, language: str) -> str:
    """The one fenced block of that language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


def uncommented(readme: str, language: str) -> str:
    """The block without its remarks, which are in the language of the README."""
    return re.sub(r" *#.*", "", fenced(readme, language))


def shell_lines(readme: str) -> list[str]:
    """Every indented line that begins with a command of ours, without its remark."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.findall(r"^    ((?:\.venv/bin/)?(?:danlu|make|python) .*)$", text, re.MULTILINE)
    return [re.split(r"  +", line)[0].removeprefix(".venv/bin/") for line in found]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DANLU_STORE": str(folder / "store")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.journey
def test_the_recipe_runs(tmp_path: Path) -> None:
    assert uncommented(READMES[0], "yaml") == uncommented(READMES[1], "yaml")
    (tmp_path / "documents").mkdir()
    for number in range(12):
        text = "\n".join(f"第{number}篇第{line}行：丹炉里的火。Line {line * number} of many." for line in range(40))
        (tmp_path / "documents" / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(fenced(READMES[0], "yaml"), encoding="utf-8")
    small = ["--set", "tokenizer.vocab_size=512", "--set", "base.batch_tokens=256", "--set", "base.context=32"]
    run("-m", "danlu.cli.main", "run", "mine.yaml", "--budget", "4 steps", *small, folder=tmp_path)
    assert "mine.base" in run("-m", "danlu.cli.main", "ls", folder=tmp_path).stdout


@pytest.mark.journey
def test_the_python_runs(tmp_path: Path) -> None:
    code = fenced(READMES[0], "python")
    assert uncommented(READMES[0], "python") == uncommented(READMES[1], "python")
    small = {**SMALL, "base.budget": "4 steps", "chat.budget": "4 steps"}
    changed = code.replace('{"base.budget": "1m"}', repr(small))
    assert changed != code
    run("-c", changed + "\nassert model(__import__('torch').tensor([[1, 2]])).shape[:2] == (1, 2)", folder=tmp_path)


@pytest.mark.parametrize("readme", READMES)
def test_the_commands_exist(readme: str) -> None:
    from click.testing import CliRunner

    from danlu.cli.main import main

    lines = shell_lines(readme)
    assert len(lines) >= 10
    for line in lines:
        program, *words = line.split()
        if program == "make":
            subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
        elif program == "python":
            assert (ROOT / words[0]).is_file(), line
        else:
            commands = [words[0]] + [words[i + 1] for i, word in enumerate(words[:-1]) if word == "·"]
            options = re.findall(r"--[a-z-]+", line)
            for command in commands:
                shown = CliRunner().invoke(main, [command, "--help"])
                assert shown.exit_code == 0, f"{line}: {shown.output}"
                assert all(option in shown.output for option in options), line
