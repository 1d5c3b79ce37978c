"""Folders in the two layouts of Hugging Face datasets.

    save_to_disk      dataset_dict.json                        hub layout    README.md   a card with YAML in its head
                      train/state.json                                       data/train-00000-of-00001.parquet
                      train/dataset_info.json                                .gitattributes
                      train/data-00000-of-00001.arrow
                      train/cache-1f3a.arrow       leftovers of `map`

The texts are in the tables. The rest is book-keeping and is passed over; the licence in the card is that of the files.
"""

from __future__ import annotations

import re
from pathlib import Path

_SAVED = frozenset({"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})
_LICENCE = re.compile(r"^license:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([\w.+-]+)", re.M)
_CARD_BYTES = 100_000


def is_bookkeeping(file: Path) -> bool:
    """Whether a file of such a folder holds no texts of its own."""
    if file.suffix == ".arrow":
        return file.name.startswith("cache-") and (file.parent / "state.json").is_file()
    if file.name in _SAVED:
        folder = file.parent
        return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")) or _has_tables(folder)
    return file.name == "README.md" and _has_tables(file.parent) and bool(_card(file.parent))


def card_licence(folder: Path) -> str:
    """The licence that the card of a dataset names, or ""."""
    found = _LICENCE.search(_card(folder)) if _has_tables(folder) else None
    return found[1] if found else ""


def _card(folder: Path) -> str:
    """The YAML in the head of README.md, or ""."""
    try:
        with (folder / "README.md").open("rb") as stream:
            text = stream.read(_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return text[4:].partition("\n---")[0] if text.startswith("---\n") else ""


def _has_tables(folder: Path) -> bool:
    return any(next(folder.glob(f"{below}*.{kind}"), None) for below in ("", "*/") for kind in ("parquet", "arrow"))
