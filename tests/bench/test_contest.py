"""The referee and its processes: answers, refusals, and the last words of those that cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import contest
from bench.contest import Contestant, Unavailable

ADDER = """
import sys; sys.path.insert(0, '.')
from bench import contest
print('{"noise": "of a library that is loaded"}', flush=True)
contest.serve(lambda request: print('noise of a library') or {'sum': request['a'] + request['b']})
"""


def python(code: str) -> Contestant:
    return Contestant("someone", [sys.executable, "-c", code])


def test_questions_and_a_refusal_that_is_not_the_end() -> None:
    adder = python(ADDER)
    assert adder.ask(a=1, b=2) == {"sum": 3}
    with pytest.raises(Unavailable, match="TypeError: unsupported operand"):
        adder.ask(a=1, b="x")
    assert adder.ask(a=2, b=2) == {"sum": 4}
    adder.close()


def test_the_last_words_of_one_that_cannot_start() -> None:
    broken = python("import sys; print('warming up', file=sys.stderr); raise ImportError('no such kernel: avx512')")
    with pytest.raises(Unavailable, match="ImportError: no such kernel: avx512"):
        broken.ask(about=True)
    broken.close()
    silent = python("raise SystemExit(3)")
    with pytest.raises(Unavailable, match="exit code 3"):
        silent.ask(about=True)
    silent.close()
    illegal = python("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(Unavailable, match="ended by SIGILL"):
        illegal.ask(about=True)
    illegal.close()


def test_one_that_never_answers_is_ended() -> None:
    asleep = python("import sys; sys.stdin.readline(); sys.stdin.readline()")
    with pytest.raises(Unavailable, match="no answer in 1 s"):
        asleep.ask(limit=1, about=True)
    assert asleep.process.returncode is not None
    asleep.close()


def test_a_package_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "ENVS", tmp_path)
    with pytest.raises(Unavailable, match="ERROR: "):
        contest.environment("nothing", ["--no-index", "no-such-package-at-all"])
    assert not (tmp_path / "nothing" / "requirements.txt").exists(), "it is tried again next time"


def test_one_line() -> None:
    assert contest.one_line("\n  first \n second") == "first"
    assert contest.one_line("") == "no message"
    assert len(contest.one_line("x" * 1000)) == 300
