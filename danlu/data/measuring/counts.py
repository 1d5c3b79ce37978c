"""The books of `data.measure`: what came in, and what was changed on the way. Counts of pieces add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from danlu.data.clean.document import Cleaned, diff_sample
from danlu.data.contamination.index import Hit
from danlu.data.safety.personal import PersonalConfig, treat

_HITS = 1_000  # of benchmarks that the report names; rejected rows name more
_LINES = 3  # samples of removed lines a reason


@dataclass
class Counts:
    """What was counted while the texts went by, before anything was dropped."""

    texts: int = 0
    bytes: int = 0
    by_source: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    cleaned: Counter[str] = field(default_factory=Counter)  # step of cleaning -> texts it changed
    diffs: dict[str, dict[str, Any]] = field(default_factory=dict)  # step -> the first text it changed
    lines: Counter[str] = field(default_factory=Counter)  # reason -> lines that a filter took out
    line_samples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    personal: Counter[str] = field(default_factory=Counter)  # kind -> finds
    contamination: list[dict[str, Any]] = field(default_factory=list)  # hits of benchmarks, the first ones
    contaminated: Counter[str] = field(default_factory=Counter)  # benchmark -> hits

    def take_in(self, source: str, size: int) -> None:
        """One text of `size` bytes came from `source`."""
        self.texts += 1
        self.bytes += size
        counts = self.by_source[source]
        counts["texts"] += 1
        counts["bytes"] += size

    def clean(self, path: str, before: str, cleaned: Cleaned, personal: PersonalConfig | None) -> None:
        """One text was cleaned. Samples are of what it was before personal data is treated: they are treated too."""
        self.cleaned.update(cleaned.changes.keys())
        self.remove_lines(cleaned.removed_lines, personal)
        for step in cleaned.changes:
            if step not in self.diffs:
                lines = diff_sample(before, cleaned.text, max_lines=8)
                self.diffs[step] = {"path": path, "diff": [_shown(line, personal) for line in lines]}

    def remove_lines(self, removed: Iterable[tuple[str, str]], personal: PersonalConfig | None) -> None:
        for reason, line in removed:
            self.lines[reason] += 1
            if len(self.line_samples[reason]) < _LINES:
                self.line_samples[reason].append(_shown(line.strip(), personal)[:160])

    def contaminate(self, document: str, hits: Sequence[Hit]) -> None:
        """A document holds items of benchmarks."""
        for hit in hits:
            self.contaminated[hit.benchmark] += 1
            if len(self.contamination) < _HITS:
                self.contamination.append({"document": document, **asdict(hit)})

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts,
            "bytes": self.bytes,
            "by_source": {name: dict(counts) for name, counts in sorted(self.by_source.items())},
            "cleaned": dict(sorted(self.cleaned.items())),
            "diffs": self.diffs,
            "lines": dict(sorted(self.lines.items())),
            "line_samples": dict(sorted(self.line_samples.items())),
            "personal": {kind: count for kind, count in sorted(self.personal.items()) if count},
            "contaminated": dict(sorted(self.contaminated.items())),
            "contamination": self.contamination,
        }

    @classmethod
    def sum(cls, parts: Iterable[dict[str, Any]]) -> Counts:
        """The counts of several pieces together, samples of the first ones."""
        total = cls()
        for part in parts:
            total.texts += part["texts"]
            total.bytes += part["bytes"]
            total.cleaned.update(part["cleaned"])
            total.lines.update(part["lines"])
            total.personal.update(part["personal"])
            total.contaminated.update(part["contaminated"])
            total.contamination = (total.contamination + part["contamination"])[:_HITS]
            for name, counts in part["by_source"].items():
                total.by_source[name].update(counts)
            total.diffs = part["diffs"] | total.diffs
            for reason, lines in part["line_samples"].items():
                total.line_samples[reason] = (total.line_samples[reason] + lines)[:_LINES]
        return total

    def report(self, files: int) -> dict[str, Any]:
        """The first half of a corpus's report.json."""
        data = self.to_json()
        return {
            "in": {"files": files, **{name: data[name] for name in ("texts", "bytes", "by_source")}},
            "cleaned_texts_by_step": data["cleaned"],
            "cleaning_samples": data["diffs"],
            "removed_lines": data["lines"],
            "removed_line_samples": data["line_samples"],
            "personal": data["personal"],
            "contamination": {"hits": data["contaminated"], "listed": data["contamination"]},
        }


def _shown(line: str, personal: PersonalConfig | None) -> str:
    """A line for the report. Nobody asked for masks or drops there: personal data is replaced."""
    return line if personal is None else treat(line, PersonalConfig(addresses=personal.addresses)).text
