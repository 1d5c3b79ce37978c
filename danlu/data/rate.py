"""A model rates a sample of documents for their educational value. Stage `data.rate`.

    corpus -> sample (by the hash of ids) -> question -> model behind the OpenAI protocol -> meta.education = 0 .. 5

The result is a corpus of the rated sample: what `data.train_classifier` learns from, with

    data.train_classifier --set corpus=RATED --set label=education --set good_from=3

and `data.score` then rates everything with the classifier. Answers that hold no rating, and questions that were not
answered, are in rejected-*.parquet ("rating:unclear", "rating:failed"). A killed run goes on: answers are kept.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun, stage
from danlu.data.remote import Asker, Endpoint


class RateConfig(Endpoint):
    documents: Annotated[int, Field(ge=1)] = 10_000
    """Of the sample; fewer when the corpus has fewer."""
    field: str = "education"
    """Name of the rating in `meta`."""


@stage("data.rate", makes="corpus", takes={"corpus": "corpus"}, version="1")
def rate(config: RateConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Have a model rate a sample of documents, 0 to 5, for what one can learn from them."""
    from collections import Counter
    from dataclasses import replace

    from danlu.core.artifact import write_json
    from danlu.core.errors import Interrupted
    from danlu.data.document import REJECTED_SCHEMA, SCHEMA, ShardWriter
    from danlu.data.quality.educational import question, read_rating

    counts: Counter[str] = Counter()
    with (
        run.graceful(),
        Asker(config, run.work / "answers.sqlite") as asker,
        ShardWriter(run.out, "train", SCHEMA) as kept,
        ShardWriter(run.out, "rejected", REJECTED_SCHEMA) as rejected,
    ):
        sample = draw_sample(corpus, config.documents)
        answers = asker.ask_all(question(document.text, document.language) for document in sample)
        for document, answer in zip(sample, answers, strict=True):
            if run.stop_requested:
                raise Interrupted("stopped while rating; the answers so far are kept")
            rating = read_rating(answer.text)
            if answer.error or rating is None:
                reason = "rating:failed" if answer.error else "rating:unclear"
                named = replace(document, meta=document.meta | {"answer": answer.error or answer.text})
                rejected.write({**named.row(), "reason": reason})
            else:
                reason = f"{rating:.0f}"
                kept.write(replace(document, meta=document.meta | {config.field: rating}).row())
            counts[reason] += 1
            run.progress(counts.total(), len(sample), "documents")
    write_json(run.out / "report.json", {"model": config.model, "ratings": dict(sorted(counts.items()))})
    failed = {name: counts[name] for name in ("rating:failed", "rating:unclear")}
    return {
        "documents": counts.total() - sum(failed.values()),
        "failed": failed["rating:failed"],
        "unclear": failed["rating:unclear"],
    }


def draw_sample(corpus: Artifact, most: int) -> list[Any]:
    """At most so many training documents, those with the smallest draws, in the order of their draws."""
    import heapq

    from danlu.data.document import read_documents
    from danlu.data.split import draw

    numbered = ((draw(document.id, "rate"), document.id, document) for document in read_documents(corpus))
    return [document for _, _, document in heapq.nsmallest(most, numbered, key=lambda one: one[:2])]
