"""Keep or why not: the thresholds of a config, applied to thousands of measured documents at once.

A reason is a number while documents are many and a text once one of them is written down: `codes` gives int16 [D],
0 to keep, and `reasons[code]` and `detail(code, ...)` say what that means. The first test that fails gives the reason,
in this order: it could not be read, it is in no wanted language, the quality rules as their table has them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from danlu.data.measured import SCORE
from danlu.data.quality.rules import RULES, kind_of
from danlu.data.select import SelectConfig


class Judge:
    """The decisions of one config. `columns` are what `codes` needs of a measured corpus."""

    def __init__(self, config: SelectConfig) -> None:
        self.config = config
        self.reasons: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self._rules = RULES if config.quality else ()
        self.columns = ["reason", "language", *(SCORE + rule.reason for rule in self._rules)]

    def codes(self, batch: pa.RecordBatch) -> NDArray[np.int16]:
        """int16 [D]: the number of the reason to drop each row, 0 to keep it."""
        codes = self._by_value(batch["reason"], lambda reason: reason)
        languages = batch["language"]
        self._apply(codes, self._by_value(languages, self._unwanted))
        kinds = np.array(self._kinds(languages))
        for rule in self._rules:
            low, high = self._limits(rule.reason)
            values = batch[SCORE + rule.reason].to_numpy(zero_copy_only=False)
            failing = np.zeros(len(values), bool)
            for kind in np.unique(kinds).tolist():
                mine = kinds == kind
                if kind in low:
                    failing |= mine & (values < np.float32(low[kind]))
                if kind in high:
                    failing |= mine & (values > np.float32(high[kind]))
            codes[failing & (codes == 0)] = self._number(f"quality:{rule.reason}")
        return codes

    def detail(self, code: int, language: str, scores: dict[str, float]) -> str:
        """What was wrong, in numbers ("3 < 20"); "" where the reason says it all."""
        name = self.reasons[code].removeprefix("quality:")
        if name == self.reasons[code] or name not in scores:
            return ""
        low, high = self._limits(name)
        kind, value = kind_of(language), scores[name]
        if kind in low and value < low[kind]:
            return f"{value:.4g} < {low[kind]:g}"
        return f"{value:.4g} > {high[kind]:g}"

    def _limits(self, name: str) -> tuple[dict[str, float], dict[str, float]]:
        rule = next(rule for rule in RULES if rule.reason == name)
        low, high = dict(rule.at_least or {}), dict(rule.at_most or {})
        if name == "too_short" and self.config.min_units is not None:
            low = dict.fromkeys(low, float(self.config.min_units))
        return low, high

    def _unwanted(self, language: str) -> str:
        wanted = self.config.languages
        if wanted is None or {language, language.partition(":")[0]} & set(wanted):
            return ""
        return f"language:{language}"

    def _by_value(self, column: pa.Array, reason_of: object) -> NDArray[np.int16]:
        """The reason that follows from a value alone, worked out once for each distinct value."""
        coded = column.dictionary_encode()
        assert callable(reason_of)
        table = np.array([self._number(reason_of(value)) for value in coded.dictionary.to_pylist()], dtype=np.int16)
        return table[coded.indices.to_numpy(zero_copy_only=False)]

    def _kinds(self, languages: pa.Array) -> list[str]:
        coded = languages.dictionary_encode()
        names = [kind_of(language) for language in coded.dictionary.to_pylist()]
        return [names[i] for i in coded.indices.to_pylist()]

    @staticmethod
    def _apply(codes: NDArray[np.int16], more: NDArray[np.int16]) -> None:
        codes[codes == 0] = more[codes == 0]

    def _number(self, reason: str) -> int:
        if reason not in self._numbers:
            self._numbers[reason] = len(self.reasons)
            self.reasons.append(reason)
        return self._numbers[reason]
