"""Mixing: several corpora into one, so much of each, in an order that was decided. Stage `data.mix`.

    corpora   ->  groups      by corpus, source, language, bucket of a quality score
              ->  shares      weights, temperature, epoch caps                            mixing/allocate
              ->  documents   drawn by hash, repeated epoch by epoch, phase by phase      mixing/plan, mixing/streams
              ->  plan.json   what of which group, in integers that add up; then the rows in that order

The same corpora and config give the same plan and the same bytes. A document that comes a second time is a row of its
own, because a corpus has no two rows of one id and a range of tokens must lead to one row: the first has the id it
always had, the second `ID~2`, the third `ID~3`, and `meta.copy_of` names the first. What stands before "~" is the
document.

What two corpora share is taken from the first by name; what one of them holds out is not trained on because another
has it. Both are written to rejected-*.parquet ("duplicate:id", "held_out"). Held-out rows of all corpora are kept, each
once: they measure, and weights have no say there.

Tokens can be counted only above this room, so a budget of tokens is turned into bytes by `bytes_per_token`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

Key = Literal["corpus", "source", "language", "bucket"]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Phase(StageConfig):
    """A part of the whole with its own mixture, as the last tenth of a run with the best text only."""

    share: Positive
    """Of the budget, relative to the other phases."""
    weights: dict[str, Weight] = {}
    temperature: Positive | None = None
    order: Literal["shuffle", "ascending", "descending"] = "shuffle"
    """Inside the phase: drawn, or each epoch by `order_by`."""


class MixConfig(StageConfig):
    """With no more than corpora, everything is taken once, shuffled."""

    by: list[Key] = ["corpus"]
    """What makes a group; its name is the values joined by "/": by [corpus, language] gives "web/zh"."""
    weights: dict[str, Weight] = {}
    """Group (or pattern, "web/*") -> weight; a group that is not named gets nothing. Empty: every group counts 1."""
    temperature: Positive | None = None
    """T of share ~ weight * size^(1/T); without it weights are the shares, and without weights sizes are."""
    bytes: Annotated[int, Field(ge=1)] | None = None
    """Budget in bytes of text. Without any budget: as much as keeps the shares within `max_epochs`."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    documents: Annotated[int, Field(ge=1)] | None = None
    """Budget in documents; sizes and shares are then counted in documents too."""
    bytes_per_token: Positive = 4.0
    max_epochs: Positive | dict[str, Positive] = 1.0
    """How often a group may be read: for all, or by group or pattern (1 where none fits)."""
    rehydrate: dict[int, Annotated[int, Field(ge=1)]] = {}
    """Up-sampling by `meta.copies`: {2: 2, 5: 3} reads documents of 2 to 4 copies twice, of 5 or more three times."""
    bucket_by: str = "quality"
    """Field of `meta` (a number) whose quantiles make the buckets 0, 1, ... of `by: [bucket]`."""
    buckets: Annotated[int, Field(ge=2, le=100)] = 4
    order_by: str = "length"
    """What curricula order by: "length", or a field of `meta` that is a number."""
    order: Literal["shuffle", "ascending", "descending"] = "shuffle"
    phases: list[Phase] = []
    """Mixtures one after the other; empty means one phase of the weights, temperature and order above."""
    seed: int = 0

    @field_validator("by")
    @classmethod
    def _each_once(cls, value: list[Key]) -> list[Key]:
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one of corpus, source, language and bucket, each once")
        return value

    @field_validator("documents")
    @classmethod
    def _one_budget(cls, value: int | None, info: Any) -> int | None:
        if sum(b is not None for b in (value, info.data.get("bytes"), info.data.get("tokens"))) > 1:
            raise ValueError("bytes, tokens and documents are three ways to say one budget: give one")
        return value

    @property
    def all_phases(self) -> list[Phase]:
        whole = Phase(share=1.0, weights=self.weights, temperature=self.temperature, order=self.order)
        return self.phases or [whole]


@stage("data.mix", makes="corpus", takes={"corpora*": "corpus"}, version="1")
def mix(config: MixConfig, run: StageRun, corpora: dict[str, Artifact]) -> dict[str, Any]:
    """Mix corpora: weights, temperature, epoch caps, budgets and curricula, with an exact plan."""
    from danlu.core.artifact import write_json
    from danlu.data.document import COLUMNS, read_parquet
    from danlu.data.mixing.catalogue import Catalogue
    from danlu.data.mixing.plan import make_plan
    from danlu.data.mixing.scatter import in_order, scatter_rows
    from danlu.data.rewriting import Outlets, rows_in

    with run.graceful(), Outlets(run.out) as out:
        catalogue = Catalogue.read(corpora, config, run)
        plan, placement = make_plan(catalogue, config)
        write_json(run.out / "plan.json", plan)
        folders, stretch_of = scatter_rows(catalogue, placement, corpora, run)
        counts: Counter[str] = Counter()

        def put(kind: str, row: dict[str, Any]) -> None:
            run.stop_if_asked()
            counts[kind] += 1
            if kind in ("train", "validation"):
                out.put(kind, row)
            else:
                out.put("rejected", {**row, "reason": kind})

        for file in (file for folder in folders for file in sorted(folder.glob("rejected-*.parquet"))):
            for row in rows_in(file):
                put(row["reason"], row)
        seen: set[str] = set()
        for row in (row for corpus in corpora.values() for row in read_parquet(corpus, "validation", COLUMNS)):
            put("duplicate:id" if row["id"] in seen else "validation", row)
            seen.add(row["id"])
        for row in in_order([folder / "scattered.arrow" for folder in folders], stretch_of):
            put("train", row)
    dropped = {kind: n for kind, n in sorted(counts.items()) if kind not in ("train", "validation")}
    report = {"groups": plan["groups"], "dropped": dropped, "validation_documents": counts["validation"]}
    write_json(run.out / "report.json", report)
    for group, numbers in plan["groups"].items():
        if numbers["capped"]:
            run.events.emit(
                "warning", message=f"{group} is read {numbers['epochs']} times, its cap; others got its rest"
            )
    return {
        "documents": counts["train"] + counts["validation"],
        "train_documents": counts["train"],
        "validation_documents": counts["validation"],
        "bytes": sum(numbers["bytes"] for numbers in plan["groups"].values()),
        "groups": len(plan["groups"]),
        "rejected": sum(dropped.values()),
    }
