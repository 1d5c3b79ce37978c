"""One pass over a batch of texts (interim)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.minhash import DEFAULT_SHINGLE_UNITS, SHINGLE_UNITS, Signatures, UnitHashes
from danlu.data.quality.rules import RULES, Measured

NAMES = tuple(rule.reason for rule in RULES)
_HASHES = UnitHashes()


@dataclass(frozen=True)
class Scanned:
    measures: NDArray[np.float32]
    signatures: NDArray[np.uint32]
    empty: NDArray[np.bool_]


def scan(texts: Sequence[str], languages: Sequence[str]) -> Scanned:
    signatures = Signatures()
    measures = np.zeros((len(texts), len(NAMES)), np.float32)
    for i, (text, language) in enumerate(zip(texts, languages, strict=True)):
        measured = Measured(text)
        measures[i] = [rule.measure(measured) if text.strip() else 0.0 for rule in RULES]
        units = measured.units
        hashes = np.fromiter(map(_HASHES.__getitem__, units), dtype=np.uint64, count=len(units))
        signatures.add(hashes, SHINGLE_UNITS.get(language, DEFAULT_SHINGLE_UNITS))
    found, empty = signatures.finish()
    return Scanned(measures, found, empty)
