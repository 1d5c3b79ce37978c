"""From a measured corpus to the one to train on: stage `data.select`.

    judge     licence, language, safety, quality: thresholds on what was measured       quality.rules
    sample    at most so many documents, drawn by the hash of their id                  selecting
    dedup     exactly equal, then nearly equal                                          dedup
    split     groups of similar documents, each to one side                             split

Every document ends in exactly one of train-*, validation-* and rejected-*.parquet, or is counted as not drawn when a
sample was asked for. The rejected keep their text and carry the reason:

    encoding, unreadable, broken_line, no_text, unknown_format, ...    could not be read
    empty, language:other, quality:too_short, ...                      was not wanted
    duplicate:exact, duplicate:near                                    meta.duplicate_of names the one kept

scores-*.parquet has every number that was measured, a row for each document of the other files, with the place it went
to: what a threshold would have changed can be seen there before it is changed.

This file is the form to fill in; the work itself is in `selecting/`, what is said about it in `report/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError, shown, suggest
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.safety.licence import LicenceConfig
from danlu.data.safety.safe import LIMITS, SCORES

Share = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(gt=0, le=1)]
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|math|other|code:[a-z0-9+#._-]{1,32}")


class SelectConfig(StageConfig):
    """All thresholds have defaults meant for mixed Chinese, English and code."""

    languages: list[str] | None = None
    """Keep only these: zh, en, ja, ko, other, code, or one programming language as code:python."""
    confidence: Share | Literal["auto"] | dict[str, Share] | None = None
    """How sure the language must be: for all, by language, or auto: what is usual for it in this corpus (FineWeb2)."""
    licences: LicenceConfig = LicenceConfig()
    """Groups or SPDX names that are allowed or denied; pages that opted out of training are left out."""
    safety: dict[str, Annotated[float, Field(ge=0)]] = LIMITS
    """Limits on the scores of safety: toxic words per 1,000 units, injection from 0 to 1, pieces of personal data."""
    quality: bool = True
    """Apply the rules of `quality`; off keeps everything that can be read."""
    rules: list[str] = ["danlu", "spam"]
    """Sets of rules, or single ones: danlu, spam, gopher, c4, fineweb, fineweb2."""
    thresholds: dict[str, float | dict[str, float | None] | None] = {}
    """Limits to change: {too_short: 20, symbols: {zh: 0.2}, advertising: null}."""
    min_units: Annotated[int, Field(ge=0)] | None = None
    """Shortest document in units (Han characters, words); by default it depends on the language."""
    url_duplicates: bool = True
    """Of pages with the same address (meta.url, without tracking parameters) keep one."""
    near_duplicates: Similarity = 0.7
    """Similarity from which the later of two documents is dropped; 1 drops only equal ones."""
    split_similarity: Similarity = 0.5
    """Similarity from which two documents must be on the same side of the split."""
    semantic_duplicates: Similarity | None = None
    """Cosine of two documents' vectors from which the second is dropped; 0.95 is usual. Reads all texts twice."""
    repeated_lines: Annotated[int, Field(ge=1)] | None = None
    """Lines in more than so many documents are taken out of all of them (Llama 3: 6). Not from code."""
    repeated_passages: Annotated[int, Field(ge=20)] | None = None
    """Passages of at least so many units stay only where they are first; 100 is usual. Not in code."""
    topics: Annotated[int, Field(ge=0, le=200)] = 12
    """Clusters of a sample of the prose, with their words, for the report; 0 leaves it out."""
    memory_mb: Annotated[int, Field(ge=64)] = 1_024
    """For sorting while duplicates are found; more than this goes through files. It changes no result."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many documents, by the hash of their ids: the same sample every time."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many bytes of text (UTF-8), in the same way."""

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: list[str] | None) -> list[str] | None:
        for name in value or []:
            if not _LANGUAGE.fullmatch(name):
                raise ValueError(
                    f"{shown(name)} is no language; write zh, en, ja, de, code, code:python, math or other"
                )
        if value == []:
            raise ValueError("name at least one language")
        return value

    @field_validator("confidence", "thresholds")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if any(number != number for number in _numbers_in(value)):
            raise ValueError("not a number")
        return value

    @model_validator(mode="after")
    def _known_rules(self) -> SelectConfig:
        from danlu.data.quality.rules import rules_of

        try:
            rules_of(self.rules, self.thresholds)
        except UserError as error:
            message = f"{error.message}; {error.hint[:200]}"
            raise ValueError(message.encode("utf-8", "backslashreplace").decode()) from None
        return self

    @field_validator("safety")
    @classmethod
    def _known_scores(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in SCORES:
                raise ValueError(f"there is no score {name}; {suggest(name, SCORES)}")
        return value

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> SelectConfig:
        if self.split_similarity > self.near_duplicates:
            raise ValueError("split_similarity must not exceed near_duplicates")
        return self


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers_in(inner)
    elif isinstance(value, float):
        yield value


@stage("data.select", makes="corpus", takes={"corpus": "corpus"}, version="2")
def select(config: SelectConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Decide what of a measured corpus is kept, and what is held out."""
    with run.graceful():
        return run_selection(config, run, corpus.path)


def run_selection(config: SelectConfig, run: StageRun, measured: Path) -> dict[str, Any]:
    """Fill `run.out` with the corpus and its report; returns the metrics. UserError when nothing would be left."""
    from danlu.data.report import write_report
    from danlu.data.selecting import select_documents

    books, fate = select_documents(config, run, measured)
    return write_report(run, measured, books, fate)
