"""Errors: who did what, in one sentence, with a hint.

There are three ways a command ends badly, and each has an exit code:

| class         | exit code | meaning                                                     |
|---------------|-----------|-------------------------------------------------------------|
| `UserError`   | 2         | the input is wrong; nothing was started or changed          |
| `StageFailed` | 1         | a stage could not finish; what it had saved is kept         |
| `Interrupted` | 130       | Ctrl-C or SIGTERM; the state is saved and a rerun continues |

A programming mistake is none of these: it is an `assert` or an ordinary exception, and it shows a traceback.
"""

from __future__ import annotations

import difflib
import importlib
import reprlib
from collections.abc import Iterable
from types import ModuleType


class DanluError(Exception):
    """Base of the errors that are shown as one sentence. `message` says what happened, `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message.rstrip(".")
        self.hint = hint.rstrip(".")

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}." if self.hint else f"{self.message}."


class UserError(DanluError):
    """The input of a person is wrong: a file, a key, a value, a name."""

    exit_code = 2


class StageFailed(DanluError):
    """A stage could not finish for a reason that lies in the run, not in the input (loss not finite, disk full)."""


class Interrupted(DanluError):
    """The user stopped the run and the state is saved."""

    exit_code = 130


def suggest(name: str, valid: Iterable[str]) -> str:
    """The nearest valid name, or the list of all when nothing is near.

    >>> suggest("vocab_sze", ["vocab_size", "seed"])
    'did you mean "vocab_size"?'
    >>> suggest("x", ["vocab_size", "seed"])
    'valid names: seed, vocab_size'
    """
    names = sorted(set(valid))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return "valid names: " + ", ".join(names) if names else "there are none"


def expect(name: str, value: object, kinds: type | tuple[type, ...], words: str) -> None:
    """For what comes from Python, where nothing has checked it: UserError unless `value` is one of these types.

    True and False are numbers to Python and hardly ever to the person who wrote them, so bool counts only where named.

    >>> expect("stop", 5, (str, list), "a string, or a list of strings")
    UserError: stop is 5. it must be a string, or a list of strings.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UserError(f"{name} is {shown(value)}", f"it must be {words}")


def shown(value: object) -> str:
    """A value in a few characters of one line, whatever it is."""
    return " ".join(reprlib.repr(value).split())


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra of danlu brings it.

    Raises UserError when the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and not module.startswith(error.name.split(".")[0]):
            raise
        raise UserError(f"{module} is not installed", f'pip install "danlu[{extra}]"') from None
