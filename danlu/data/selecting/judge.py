"""Keep or why not: the thresholds of a config, applied to thousands of measured documents at once.

A reason is a number while documents are many and a text once one of them is written down: `codes` gives int16 [D],
0 to keep, and `reasons[code]` and `detail` say what that means. The first test that fails gives the reason:

    it could not be read -> licence, opt-out -> language, how sure -> safety -> the rules of quality, in their order

Only numbers and short columns are looked at, never a text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from danlu.data.language import threshold
from danlu.data.measured import SCORE, read_measured
from danlu.data.quality.measure import COLUMNS
from danlu.data.quality.rules import Rule, judge_all, rules_of
from danlu.data.safety.licence import judge_licence
from danlu.data.select import SelectConfig

_REASONS = 10_000  # different ones with their details; int16 has room for three times as many
_SAMPLE = 20_000  # scores of a language that its threshold is taken from


class Judge:
    """The decisions of one config on one measured corpus.

    columns   what `codes` and `detail` need of a batch
    reasons   by code; grows as reasons turn up
    """

    def __init__(self, config: SelectConfig, measured: Path) -> None:
        self.config = config
        self.reasons: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self._rules: tuple[Rule, ...] = ()
        if config.quality:
            thresholds = dict(config.thresholds)
            if config.min_units is not None:
                thresholds.setdefault("too_short", float(config.min_units))
            self._rules = rules_of(config.rules, thresholds)
        self._scores = [SCORE + name for name in COLUMNS]
        self._safety = [SCORE + name for name in config.safety]
        self.columns = [
            "reason", "language", "licence", SCORE + "opt_out", SCORE + "confidence", *self._safety, *self._scores,
        ]  # fmt: skip
        self._sure = self._least_confidence(measured)

    def codes(self, batch: pa.RecordBatch) -> NDArray[np.int16]:
        """int16 [D]: the number of the reason to drop each row, 0 to keep it."""
        codes = self._by_value(batch["reason"], lambda reason: reason)
        self._apply(codes, self._by_value(batch["licence"], self._forbidden))
        if self.config.licences.honour_opt_out:
            self._mark(codes, _numbers(batch, SCORE + "opt_out") > 0, "robots")
        self._apply(codes, self._by_value(batch["language"], self._unwanted))
        if self._sure:
            least = np.array([self._sure.get(name, 0.0) for name in batch["language"].to_pylist()])
            self._mark(codes, _numbers(batch, SCORE + "confidence") < least, "language:unsure")
        for name, limit in self.config.safety.items():
            self._mark(codes, _numbers(batch, SCORE + name) > limit, f"safety:{name}")
        rows = np.flatnonzero(codes == 0)
        for row, rule in zip(rows.tolist(), self._failed_rules(batch.take(rows)).tolist(), strict=True):
            if rule >= 0:
                codes[row] = self._number(f"quality:{self._rules[rule].name}")
        return codes

    def details(self, codes: NDArray[np.int16], batch: pa.RecordBatch, rows: NDArray[np.int64]) -> list[str]:
        """What was wrong in numbers ("3 < 20") with each of `rows` of a batch, whose codes are int16 [D]; "" where the
        reason says it all. All at once: judging row by row costs more than everything else."""
        kinds = [self.reasons[code].partition(":")[::2] for code in codes[rows].tolist()]
        found = [self._detail(kind, name, batch, row) for (kind, name), row in zip(kinds, rows.tolist(), strict=True)]
        places = [i for i, (kind, _) in enumerate(kinds) if kind == "quality"]
        if places:
            part = batch.take(rows[places])
            verdicts = judge_all(self._measures(part), part["language"].to_pylist(), self._rules)
            for i, place in enumerate(places):
                found[place] = verdicts[i][1]
        return found

    def _detail(self, kind: str, name: str, batch: pa.RecordBatch, row: int) -> str:
        if kind == "safety" and name in self.config.safety:
            return f"{batch[SCORE + name][row].as_py():.4g} > {self.config.safety[name]:g}"
        if (kind, name) == ("language", "unsure"):
            return f"{batch[SCORE + 'confidence'][row].as_py():.4g} < {self._sure[batch['language'][row].as_py()]:.4g}"
        return ""

    def _failed_rules(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        if not len(batch) or not self._rules:
            return np.full(len(batch), -1)
        return judge_all(self._measures(batch), batch["language"].to_pylist(), self._rules).first

    def _measures(self, batch: pa.RecordBatch) -> NDArray[np.float32]:
        return np.stack([_numbers(batch, name) for name in self._scores], axis=1)  # [D, M]

    def _unwanted(self, language: str) -> str:
        wanted = self.config.languages
        if wanted is None or {language, language.partition(":")[0]} & set(wanted):
            return ""
        return f"language:{language}"

    def _forbidden(self, licence: str) -> str:
        return judge_licence(licence, self.config.licences)[0]

    def _least_confidence(self, measured: Path) -> dict[str, float]:
        """language -> least confidence; with "auto" from a sample of the corpus itself."""
        wanted = self.config.confidence
        if wanted is None or isinstance(wanted, dict):
            return dict(wanted or {})
        samples: dict[str, list[float]] = {}
        for batch in read_measured(measured, ["language", SCORE + "confidence"]):
            for name, score in zip(*(batch[i].to_pylist() for i in range(2)), strict=True):
                sample = samples.setdefault(name, [])
                if name and len(sample) < _SAMPLE:
                    sample.append(score)
        return {name: threshold(sample) if wanted == "auto" else float(wanted) for name, sample in samples.items()}

    def _by_value(self, column: pa.Array, reason_of: Callable[[str], str]) -> NDArray[np.int16]:
        """The reason that follows from a value alone, worked out once for each distinct value."""
        coded = column.dictionary_encode()
        table = np.array([self._number(reason_of(value)) for value in coded.dictionary.to_pylist()], dtype=np.int16)
        return table[coded.indices.to_numpy(zero_copy_only=False)]

    def _mark(self, codes: NDArray[np.int16], failing: NDArray[np.bool_], reason: str) -> None:
        codes[failing & (codes == 0)] = self._number(reason)

    @staticmethod
    def _apply(codes: NDArray[np.int16], more: NDArray[np.int16]) -> None:
        codes[codes == 0] = more[codes == 0]

    def _number(self, reason: str) -> int:
        if reason not in self._numbers and len(self.reasons) >= _REASONS:
            reason = reason.partition(":")[0]  # what a text claims to be must not overflow a number
        if reason not in self._numbers:
            self._numbers[reason] = len(self.reasons)
            self.reasons.append(reason)
        return self._numbers[reason]


def _numbers(batch: pa.RecordBatch, name: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = batch[name].to_numpy(zero_copy_only=False)
    return values
