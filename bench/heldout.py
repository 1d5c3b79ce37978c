"""The text that perplexity is measured on: English, Chinese and Python that every machine with this repository has.

    English   the reference of the Python language, as `help()` carries it (pydoc_data.topics)
    Chinese   heldout_zh.txt: stories, explanations, a letter, a recipe, written for this bench and never changed
    Python    argparse.py of the standard library

About 8 KB of each, the same wherever the same Python is. Another version of Python may have changed the first or the
last, so a result says their SHA-256, and slices of one contest are joined only where it is equal. No document that the
project goes on writing is among them.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

ENGLISH_TOPICS = ("execmodel", "exceptions", "objects", "attribute-access", "naming")
BYTES = 8192  # of each language
WINDOW = 512  # tokens that are read at once; the first is context only

# What methods that need text are shown: other text of other authors, the settings of data.prepare.
CALIBRATION = {"source": ["debian:manpages", "debian:manpages-dev"], "max_bytes": 6_000_000}


def texts() -> dict[str, str]:
    from pydoc_data.topics import topics

    whole = {
        "English": "\n".join(topics[name] for name in ENGLISH_TOPICS if name in topics),
        "Chinese": Path(__file__).with_name("heldout_zh.txt").read_text(encoding="utf-8"),
        "Python": Path(argparse.__file__).read_text(encoding="utf-8"),
    }
    return {name: text.encode()[:BYTES].decode("utf-8", "ignore") for name, text in whole.items()}


def windows(ids: list[int]) -> list[list[int]]:
    """Cut into pieces of WINDOW ids; one of a single id predicts nothing and is left out."""
    pieces = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    return [piece for piece in pieces if len(piece) > 1]


def sha256() -> str:
    return hashlib.sha256("\0".join(texts().values()).encode()).hexdigest()
