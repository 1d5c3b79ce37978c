"""The books of `data.measure`: what came in, and what cleaning changed. Counts of pieces add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """What was counted while the texts went by, before anything was dropped."""

    texts: int = 0
    bytes: int = 0
    by_source: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    cleaned: Counter[str] = field(default_factory=Counter)  # step of cleaning -> texts it changed

    def take_in(self, source: str, size: int) -> None:
        """One text of `size` bytes came from `source`."""
        self.texts += 1
        self.bytes += size
        counts = self.by_source[source]
        counts["texts"] += 1
        counts["bytes"] += size

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts,
            "bytes": self.bytes,
            "by_source": {name: dict(counts) for name, counts in sorted(self.by_source.items())},
            "cleaned": dict(sorted(self.cleaned.items())),
        }

    @classmethod
    def sum(cls, parts: Iterable[dict[str, Any]]) -> Counts:
        """The counts of several pieces together."""
        total = cls()
        for part in parts:
            total.texts += part["texts"]
            total.bytes += part["bytes"]
            total.cleaned.update(part["cleaned"])
            for name, counts in part["by_source"].items():
                total.by_source[name].update(counts)
        return total
