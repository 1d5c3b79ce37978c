"""The tensors of a model directory, by their names, still in its files.

Opening reads headers alone. A tensor is read when `Stored.read` is called, as a view of the memory map; layouts of
other programs are the same table with other functions in it (quantized/layouts).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from danlu.core.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Stored(NamedTuple):
    """A tensor that can be read: not to be written, it may be the file itself."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Weights = dict[str, Stored]


def open_weights(path: Path) -> Weights:
    """The tensors of all weight files of a directory. Raises UserError for files that are missing or damaged."""
    weights: Weights = {}
    for file in _weight_files(path):
        try:
            opened: Any = safe_open(file, framework="pt")
        except FileNotFoundError:
            raise UserError(f"{path} lacks {file.name}", f"{INDEX} names it: copy the model again") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is truncated or damaged ({error})", "copy or download it again") from None
        for name in opened.keys():  # noqa: SIM118 - not a dict
            weights[name] = Stored(tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
    return weights


def _weight_files(path: Path) -> list[Path]:
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    if not (path / INDEX).exists():
        pickled = any(path.glob("pytorch_model*.bin"))
        hint = "convert pytorch_model.bin to safetensors first: danlu does not unpickle" if pickled else ""
        raise UserError(f"{path} has no {WEIGHTS}", hint or "copy the model again")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path / INDEX} is damaged ({error})", "copy the model again") from None
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UserError(f"{path / INDEX} names {outside[0]!r}, which is not a file of this directory")
    return [path / name for name in names]
