"""An n-gram model of clean text, for the perplexity filter. Stage `data.train_perplexity`.

See `quality/perplexity`. Some tens of megabytes of clean text in the languages of interest are enough. The report gives
the bits per byte of documents that were held out of the corpus, at the percentiles where thresholds are looked for.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

_JUDGED = 2_000  # held-out documents


class TrainPerplexityConfig(StageConfig):
    bytes: Annotated[int, Field(ge=1)] = 50_000_000
    """Of text that is counted at most, from the start of the corpus."""
    slots: Annotated[int, Field(ge=1 << 10, le=1 << 26)] = 1 << 21
    """Entries for the runs of each length, a power of two; 8 bytes each."""


@stage("data.train_perplexity", makes="report", takes={"corpus": "corpus"}, version="1")
def train_perplexity(config: TrainPerplexityConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Count an n-gram model of characters on a clean corpus."""
    import itertools
    from collections.abc import Iterator

    import numpy as np

    from danlu.core.artifact import write_json
    from danlu.core.errors import UserError
    from danlu.data.document import read_documents
    from danlu.data.quality.perplexity import NgramModel

    if config.slots & (config.slots - 1):
        raise UserError(f"slots: {config.slots} is no power of two")

    def counted() -> Iterator[str]:
        size = 0
        for document in read_documents(corpus):
            size += len(document.text.encode("utf-8", "surrogatepass"))
            if size > config.bytes:
                return
            run.progress(size, config.bytes, "bytes")
            yield document.text

    model = NgramModel.train(counted(), config.slots)
    model.save(run.out)
    held = [d.text for d in itertools.islice(read_documents(corpus, "validation"), _JUDGED)]
    bits = model.bits_per_byte(held)
    cuts = {f"p{p}": round(float(np.nanpercentile(bits, p)), 4) for p in (1, 5, 25, 50, 75, 95, 99)} if held else {}
    write_json(run.out / "report.json", {"held_out_documents": len(held), "bits_per_byte": cuts})
    return {"held_out_documents": len(held)} | ({"bits_per_byte": cuts["p50"]} if cuts else {})
