"""From sources to a corpus: stage `data.prepare`.

    read      every file of the sources, every text in it                     sources, extract
    clean     characters that are no text; long documents cut into parts      clean, split.cut
    judge     language wanted? quality?                                       language, quality
    sample    at most so many documents, drawn by the hash of their id        ledger.Sample
    dedup     exactly equal, then nearly equal                                dedup
    split     groups of similar documents, each to one side                   split

Every document ends in exactly one of train-*, validation-* and rejected-*.parquet, or is counted as not drawn when a
sample was asked for. The rejected keep their text and carry the reason:

    encoding, unreadable, broken_line, no_text, unknown_format, ...    could not be read
    empty, language:other, quality:too_short, ...                      was not wanted
    duplicate:exact, duplicate:near                                    meta.duplicate_of names the one kept

This file is the form to fill in; the walk itself is in `pipeline`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from danlu.core.stage import StageConfig, StageRun, stage

Share = Annotated[float, Field(ge=0, le=1)]


class PrepareConfig(StageConfig):
    """Only `source` is needed. All lengths and thresholds have defaults meant for mixed Chinese, English and code."""

    source: str | list[str]
    """A file, a folder, python:stdlib, python:site-packages, npm:PACKAGE, or a list of them."""
    licence: str = ""
    """Licence of the texts; empty takes what the source says."""
    text_field: str | None = None
    """Field of jsonl, csv and parquet records that holds the text; by default the usual names are tried."""
    languages: list[str] | None = None
    """Keep only these: zh, en, ja, ko, other, code, or one programming language as code:python."""
    quality: bool = True
    """Apply the rules of `quality`; off keeps everything that can be read."""
    min_units: Annotated[int, Field(ge=0)] | None = None
    """Shortest document in units (Han characters, words); by default it depends on the language."""
    near_duplicates: Share = 0.7
    """Similarity from which the later of two documents is dropped; 1 drops only equal ones."""
    split_similarity: Share = 0.5
    """Similarity from which two documents must be on the same side of the split."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    max_document_chars: Annotated[int, Field(ge=1_000)] = 100_000
    """Longer documents are cut into parts, which stay on one side of the split."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many documents, by the hash of their ids: the same sample every time."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many bytes of text (UTF-8), in the same way."""

    @field_validator("source")
    @classmethod
    def _some_source(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and "" in value):
            raise ValueError("name a file, a folder, python:stdlib or npm:PACKAGE")
        return value

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> PrepareConfig:
        if self.split_similarity > self.near_duplicates:
            raise ValueError("split_similarity must not exceed near_duplicates")
        return self

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)


def _fingerprint(config: PrepareConfig) -> Any:
    from danlu.data.sources.find import fingerprint

    return [fingerprint(spec) for spec in config.sources]


@stage("data.prepare", makes="corpus", version="1", fingerprint=_fingerprint)
def prepare(config: PrepareConfig, run: StageRun) -> dict[str, Any]:
    """Read sources into a cleaned, deduplicated and split corpus."""
    from danlu.data.pipeline import run_pipeline

    return run_pipeline(config, run)
