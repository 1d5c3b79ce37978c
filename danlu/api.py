"""danlu from Python: the commands that are more than one room, without the shell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.core.artifact import Artifact
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer


def load_model(path_or_id: str | Path) -> tuple[Transformer, Tokenizer | None]:
    """A model and its tokenizer from a Hugging Face directory, a `.gguf` file, or anything the store knows.

    The tokenizer is None for a directory without one. Raises UserError when nothing is there or it is damaged.
    """
    from danlu.model.hub import load

    return load(path_or_id)


def run(
    recipe: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    budget: str | None = None,
    only: list[str] | None = None,
    store: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Artifact]:
    """Build a recipe (a file or a bundled name) and return the artifact of every stage.

    `overrides` maps "stage.key" to a value, as `--set` does. Raises UserError, StageFailed, Interrupted.
    """
    from danlu.core.errors import expect
    from danlu.core.progress import TerminalView
    from danlu.core.recipe import load_recipe
    from danlu.core.run import new_run_log, run_recipe
    from danlu.core.store import open_store

    expect("a recipe", recipe, (str, Path), "a file or the name of a bundled one")
    expect("overrides", overrides, (Mapping, type(None)), 'a mapping of "stage.key" to values')
    for key in overrides or ():
        expect("a key of the overrides", key, str, 'text like "stage.key"')
    expect("only", only, (list, tuple, type(None)), "a list of stages")
    for stage in only or ():
        expect("a stage", stage, str, "the name of one")
    expect("store", store, (str, Path, type(None)), "a directory or URL")
    place = open_store(str(store) if store is not None else None)
    loaded = load_recipe(recipe, overrides, budget)
    events = new_run_log(place, loaded.name)
    with TerminalView() as view:
        if not quiet:
            events.subscribe(view)
        return run_recipe(loaded, place, only, events).artifacts
