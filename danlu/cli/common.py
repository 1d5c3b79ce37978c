"""What every command shares: the options, the way results are printed, and the way errors end.

Results go to standard output, progress and errors to standard error. With `--json` the last line of standard
output is one JSON object, whatever else was printed.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from danlu.core.errors import DanluError, UserError

if TYPE_CHECKING:
    from danlu.core.store import Store

WHOLE_PROCESS = object()  # of a click context whose command is all that this process does


def command(
    group: click.Group, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Register a command on `group` with the common options `--store`, `--json` and `--debug`.

    The function gets `store` (an opened Store) and returns the JSON object of the result, or an `AndThen`; text for
    people it prints itself when `as_json` is false.
    """

    def wrap(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(store_url: str | None, as_json: bool, debug: bool, **arguments: Any) -> None:
            sys.exit(guarded(lambda: _call(function, store_url, as_json, arguments), debug))

        for option in (
            click.option("--debug", is_flag=True, help="Show a traceback when something fails."),
            click.option(
                "--json", "as_json", is_flag=True, help="Print the result as one JSON object on the last line."
            ),
            click.option(
                "--store", "store_url", metavar="URL", help="Directory or URL of the store (default: .danlu)."
            ),
        ):
            run = option(run)
        return group.command(name or function.__name__.rstrip("_").replace("_", "-"), **settings)(run)

    return wrap


@dataclass(frozen=True)
class AndThen:
    """The result of a command that goes on after it is printed: a server runs until it is stopped."""

    result: dict[str, Any]
    action: Callable[[], None]


def _call(function: Callable[..., Any], store_url: str | None, as_json: bool, arguments: dict[str, Any]) -> int:
    from danlu.core.events import finite
    from danlu.core.store import open_store

    result = function(store=open_store(store_url), as_json=as_json, **arguments)
    last = result if isinstance(result, AndThen) else AndThen(result, lambda: None)
    if as_json:
        click.echo(json.dumps(finite(last.result), ensure_ascii=False, default=str))
    last.action()
    return 0


def guarded(action: Callable[[], int], debug: bool = False) -> int:
    """Run `action` and turn what it raises into one sentence and an exit code (see core.errors)."""
    try:
        return _to_its_end(action)
    except DanluError as error:
        if debug:
            traceback.print_exc()
        return _complain(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        return _complain("", "", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: not our error
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        sentence = str(error).strip().splitlines()
        return _complain(
            f"{type(error).__name__}: {sentence[0] if sentence else 'no message'}", "--debug shows where", 1
        )


def _to_its_end(action: Callable[[], int]) -> int:
    """Run `action`; after it, however it ended, Ctrl-C does nothing: Python would say where its own exit was.

    Only where the process ends with the command (main.py), and not where a command is called as a function.
    """
    try:
        return action()
    finally:
        if _is_whole_process():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _complain(message: str, hint: str, code: int) -> int:
    style = {"fg": "yellow"} if code == 130 else {"fg": "red"}
    label = "stopped" if code == 130 else "error"
    click.echo(click.style(label, **style) + (f": {message}" if message else ""), err=True)  # type: ignore[arg-type]
    if hint:
        click.echo(f"{click.style('hint', dim=True)}: {hint}", err=True)
    return code


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`--set a.b=1 --set c=x` as a mapping. Raises UserError on a setting without "="."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f'--set "{setting}" is not KEY=VALUE', "for example --set base.budget=1m")
        values[key.strip()] = value
    return values


def nested_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`--set model.n_layers=4` as `{"model": {"n_layers": 4}}`, values read as YAML. UserError where it is none."""
    import yaml

    values: dict[str, Any] = {}
    for key, text in parse_settings(settings).items():
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {key}: {parent} has a value already")
        try:
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f'--set {key}: "{text}" is not a YAML value', "put quotes around it") from None
    return values


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> None:
    """A plain table on standard output, cut to nothing: long ids stay whole so that they can be copied."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(_width(c) for c in column) for column in zip(columns, *cells, strict=True)]
    for number, row in enumerate([list(columns), *cells]):
        padded = (_pad(cell, width, i in right) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        line = "  ".join(padded).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def _width(text: str) -> int:
    """Columns a terminal needs: Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def drafter(store: Store, how: str | None) -> str | Path | None:
    """What `--speculate` names, for an engine: nothing, "lookup", or the path of a model."""
    if how == "":
        raise UserError("--speculate is empty", 'say "lookup", or name a smaller model')
    return how if how is None or how == "lookup" else store.resolve(how, "model").path


def engine_for(store: Store, model: str, adapter: str | None = None, **settings: Any) -> Any:
    """An engine for a model of the store or a path, and an adapter of it; raises UserError when there is none."""
    adapters = {adapter: store.resolve(adapter, "adapter").path} if adapter else None
    path = store.resolve(model, "model").path
    with _nothing_to_save():
        from danlu.engine import Engine

        return Engine(path, adapters=adapters, **settings)


@contextmanager
def _nothing_to_save() -> Iterator[None]:
    """Ctrl-C ends the process inside this block, at once. As an exception it could be lost: when it falls on an import
    of numpy, torch drops it and goes on without numpy.
    """
    if not _is_whole_process():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(Exception):
            _complain("", "", 130)
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_whole_process() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.find_root().obj is WHOLE_PROCESS
