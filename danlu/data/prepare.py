"""From sources to a corpus in one stage: `data.prepare` is `data.measure` and `data.select` in a row.

A recipe that will try several thresholds writes the two stages instead; then the first is built once.
"""

from __future__ import annotations

from typing import Any

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun, stage
from danlu.data.measure import MeasureConfig, fingerprint
from danlu.data.select import SelectConfig, run_selection


class PrepareConfig(MeasureConfig, SelectConfig):
    """The keys of both stages. Only `source` is needed, or an input `pages`."""


@stage("data.prepare", makes="corpus", takes={"pages?": "pages"}, version="4", fingerprint=fingerprint)
def prepare(config: PrepareConfig, run: StageRun, pages: Artifact | None = None) -> dict[str, Any]:
    """Read sources into a cleaned, deduplicated and split corpus."""
    from danlu.data.measuring import measure_sources

    with run.graceful():
        measured = run.work / "measured"
        measure_sources(config, run, measured, pages)
        return run_selection(config, run, measured)
