"""From sources to a measured corpus: stage `data.measure`.

Nothing is decided here; what cannot be read has its reason, everything else its numbers. This file is the form to fill
in; the work itself is in `measuring/`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact
from danlu.core.errors import shown
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.clean.document import CleanConfig
from danlu.data.safety.personal import PersonalConfig


class MeasureConfig(StageConfig):
    """Only `source` is needed, or an input `pages` (what `data.crawl` made)."""

    source: str | list[str] = []
    """A file, a folder, a URL, python:stdlib, npm:PACKAGE, debian:PACKAGE, or a list of them."""
    licence: str = ""
    """Licence of the texts; empty takes what the source says."""
    text_field: str | None = None
    """Field of jsonl, csv and parquet records that holds the text; by default the usual names are tried."""
    clean: CleanConfig = CleanConfig()
    """Steps of cleaning: clean.html=false, clean.convert=simplified, ..."""
    line_filter: bool = False
    """Take out lines as C4 does: without an end mark, too short, about cookies. It takes titles too."""
    personal: PersonalConfig | None = PersonalConfig()
    """What happens to personal data: replaced by <PHONE> and the like, masked, kept, or the document dropped."""
    neutralise_markers: bool = True
    """Write "<|im_start|>" and its kin apart in prose, so that a web page cannot speak as a user."""
    benchmarks: list[str] = []
    """Drop documents that hold items of these: NAME, or NAME=PATH; see `contamination.benchmarks`."""
    max_document_chars: Annotated[int, Field(ge=1_000)] = 100_000
    """Longer documents are cut into parts, which stay on one side of the split."""

    @field_validator("source")
    @classmethod
    def _some_source(cls, value: str | list[str]) -> str | list[str]:
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("name a file, a folder, python:stdlib or npm:PACKAGE")
        names = [value] if isinstance(value, str) else value
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{shown(twice)} is named twice")
        return value

    @field_validator("source", "text_field", "licence")
    @classmethod
    def _whole_characters(cls, value: str | list[str] | None) -> str | list[str] | None:
        for name in [value] if isinstance(value, str) else value or []:
            if any("\ud800" <= character <= "\udfff" for character in name) or "\0" in name:
                raise ValueError(
                    f"{shown(name)} is no text in UTF-8; a folder of that name can be read by the one above it"
                )
        return value

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)


def fingerprint(config: MeasureConfig) -> Any:
    """What stands for the content of the sources in the id of the artifact."""
    from danlu.data.sources.find import fingerprint as of_source

    sources = [of_source(spec) for spec in config.sources]
    if not config.benchmarks:
        return sources
    from danlu.data.contamination.benchmarks import fingerprint as of_benchmark

    return {"sources": sources, "benchmarks": [of_benchmark(spec) for spec in config.benchmarks]}


@stage("data.measure", makes="corpus", takes={"pages?": "pages"}, version="2", fingerprint=fingerprint)
def measure(config: MeasureConfig, run: StageRun, pages: Artifact | None = None) -> dict[str, Any]:
    """Read sources, clean and measure every text, decide nothing."""
    from danlu.data.measuring import measure_sources

    with run.graceful():
        report = measure_sources(config, run, run.out, pages)
    return {"texts": report["in"]["texts"], "bytes": report["in"]["bytes"], "files": report["in"]["files"]}
