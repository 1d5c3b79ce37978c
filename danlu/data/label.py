"""Labels from rules and people. Stage `data.label`.

    rules        one label each, for documents that a pattern finds      [{label: spam, pattern: "加微信|buy now"}, ...]
    annotations  exports of Label Studio; every person is a voter too
        -> label model (Dawid-Skene, or majority)  ->  meta.label, meta.label_probability
        -> queue.json: what people should look at next, as tasks for Label Studio

Rules are cheap and wrong, each in its own way; where several speak, the label model finds out how far each can be
trusted (`labelling/model`). The report gives for each voter how often it spoke, how often it agreed with the label, and
between people Krippendorff's alpha and every pair's kappa. What nobody voted on stays without a label.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from danlu.data.labelling.label_studio import Task


class Rule(StageConfig):
    """A labelling function: `label` for documents with at least `least` places that `pattern` finds."""

    label: str
    pattern: str
    """A regular expression, case ignored; lines are not told apart."""
    least: Annotated[int, Field(ge=1)] = 1
    below: bool = False
    """The other way round: for documents with fewer than `least`."""
    name: str = ""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value

    def votes_for(self, text: str) -> bool:
        found = itertools.islice(re.finditer(self.pattern, text, re.IGNORECASE), self.least)
        return (sum(1 for _ in found) < self.least) == self.below


class LabelConfig(StageConfig):
    rules: list[Rule] = []
    annotations: list[str] = []
    """Paths of Label Studio exports."""
    model: Literal["dawid_skene", "majority"] = "dawid_skene"
    field: str = "label"
    queue: Annotated[int, Field(ge=0)] = 100
    """Documents put into queue.json."""
    queue_from: Annotated[int, Field(ge=1)] = 5_000
    """They are chosen among so many that the label model doubts most."""


def _fingerprint(config: LabelConfig) -> Any:
    from danlu.core.artifact import sha256_file
    from danlu.core.errors import UserError

    for path in config.annotations:
        if not Path(path).is_file():
            raise UserError(f"there is no file {path}", "annotations are exports of Label Studio")
    return [sha256_file(Path(path)) for path in config.annotations]


@stage("data.label", makes="corpus", takes={"corpus": "corpus"}, version="1", fingerprint=_fingerprint)
def label(config: LabelConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Label documents by rules and people's annotations; choose what people should see next."""
    import numpy as np

    from danlu.core.errors import UserError
    from danlu.data.document import read_parquet
    from danlu.data.labelling.label_studio import read_tasks
    from danlu.data.labelling.model import ABSTAIN
    from danlu.data.rewriting import tasks_of, work_through

    tasks = {task.id: task for path in config.annotations for task in read_tasks(Path(path))}
    people = sorted({who for task in tasks.values() for who in task.votes})
    labels = sorted({r.label for r in config.rules} | {v for task in tasks.values() for v in task.votes.values()})
    if len(labels) < 2:
        raise UserError("there are fewer than two labels", "give rules of two labels, or annotations")
    number = {name: k for k, name in enumerate(labels)}
    with run.graceful():
        rules = [rule.model_dump(mode="json") for rule in config.rules]
        pieces = tasks_of({"corpus": corpus.path}, ["train"], rules=rules)
        folders = work_through("danlu.data.label:vote_piece", pieces, run)
        spoke = np.concatenate([np.empty((0, len(rules)), bool), *(np.load(f / "votes.npy") for f in folders)])
        by_rule = np.where(spoke, np.array([number[rule.label] for rule in config.rules], dtype=np.int64), ABSTAIN)
        by_people = [[ABSTAIN] * len(people)] * len(spoke)
        for row, identity in enumerate(row["id"] for row in read_parquet(corpus, "train", ["id"])) if people else ():
            if identity in tasks:
                votes = tasks[identity].votes
                by_people[row] = [number[votes[who]] if who in votes else ABSTAIN for who in people]
        matrix = np.hstack([by_rule, np.array(by_people, dtype=np.int64).reshape(len(spoke), len(people))])
        return _label(config, run, corpus, matrix, labels, people, tasks)


def vote_piece(task: dict[str, Any], folder: Path) -> None:
    """votes.npy: bool [D, rules], which rule speaks for which document of a piece."""
    import numpy as np

    from danlu.data.rewriting import batches

    rules = [Rule(**rule) for rule in task["rules"]]
    votes = [[rule.votes_for(row["text"]) for rule in rules] for _, rows in batches(task, ["text"]) for row in rows]
    np.save(folder / "votes.npy", np.array(votes, dtype=bool).reshape(len(votes), len(rules)))


def _label(
    config: LabelConfig,
    run: StageRun,
    corpus: Artifact,
    matrix: NDArray[np.int64],
    labels: list[str],
    people: list[str],
    tasks: dict[str, Task],
) -> dict[str, Any]:
    """From votes [D, voters] to the corpus, the queue and the report."""
    from dataclasses import replace

    import numpy as np

    from danlu.core.artifact import write_json
    from danlu.data.document import SCHEMA, ShardWriter, read_documents
    from danlu.data.labelling.label_studio import interface
    from danlu.data.labelling.model import ABSTAIN, Labels, dawid_skene, majority

    if config.model == "majority":
        shares = majority(matrix, len(labels))
        found = Labels(shares, np.empty(0), (matrix == ABSTAIN).all(axis=1))
    else:
        found = dawid_skene(matrix, len(labels))
    counts = dict.fromkeys([*labels, ""], 0)
    with ShardWriter(run.out, "train", SCHEMA) as train, ShardWriter(run.out, "validation", SCHEMA) as validation:
        for document, one, p in zip(read_documents(corpus), found.labels.tolist(), found.probabilities, strict=True):
            run.stop_if_asked()
            counts[labels[one] if one != ABSTAIN else ""] += 1
            given = (
                {}
                if one == ABSTAIN
                else {config.field: labels[one], f"{config.field}_probability": round(float(p[one]), 5)}
            )
            train.write(replace(document, meta=document.meta | given).row())
        for document in read_documents(corpus, "validation"):
            validation.write(document.row())
    queued = _write_queue(config, run, corpus, found.probabilities, labels, tasks)
    names = [rule.name or f"{rule.label}: {rule.pattern}" for rule in config.rules] + people
    report = {
        "labels": {name: n for name, n in counts.items() if name},
        "unlabelled": counts[""],
        "voters": _voters(names, matrix, found.labels),
        "agreement_of_people": _agreement(people, matrix[:, len(config.rules) :]),
        "queue": queued,
        "interface": interface(labels),
    }
    write_json(run.out / "report.json", report)
    return {"documents": len(matrix), "labelled": len(matrix) - counts[""], "queued": queued}


def _write_queue(
    config: LabelConfig,
    run: StageRun,
    corpus: Artifact,
    p: NDArray[np.float64],
    labels: list[str],
    tasks: dict[str, Task],
) -> int:
    """queue.json: the documents to look at next, of those no person has seen."""
    import numpy as np

    from danlu.data.document import read_documents
    from danlu.data.labelling.label_studio import Task, write_tasks
    from danlu.data.labelling.queue import choose, uncertainty

    doubt = uncertainty(p) if len(p) else np.empty(0)
    order = np.lexsort((np.arange(len(doubt)), -doubt))
    wanted = set(order[: config.queue_from].tolist())
    near = [(i, d) for i, d in enumerate(read_documents(corpus)) if i in wanted and d.id not in tasks]
    chosen = choose([d.text for _, d in near], doubt[[i for i, _ in near]], config.queue)
    queue = []
    for i, document in (near[k] for k in chosen):
        best = int(p[i].argmax())
        queue.append(Task(document.id, document.text, labels[best], round(float(p[i, best]), 4)))
    return write_tasks(run.out / "queue.json", queue)


def _voters(names: list[str], votes: NDArray[np.int64], labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    from danlu.data.labelling.model import ABSTAIN

    found = []
    for name, column in zip(names, votes.T, strict=True):
        spoke = column != ABSTAIN
        agreed = float((column == labels)[spoke].mean()) if spoke.any() else None
        found.append({"voter": name, "votes": int(spoke.sum()), "agrees": None if agreed is None else round(agreed, 4)})
    return found


def _agreement(people: list[str], votes: NDArray[np.int64]) -> dict[str, Any]:
    import numpy as np

    from danlu.data.labelling.agreement import cohen_kappa, krippendorff_alpha
    from danlu.data.labelling.model import ABSTAIN

    if len(people) < 2:
        return {}
    alpha = krippendorff_alpha(np.where(votes == ABSTAIN, np.nan, votes.astype(np.float64)))
    pairs = []
    for (i, one), (j, other) in itertools.combinations(enumerate(people), 2):
        both = (votes[:, i] != ABSTAIN) & (votes[:, j] != ABSTAIN)
        kappa = cohen_kappa(votes[both, i], votes[both, j])
        pairs.append({"people": [one, other], "documents": int(both.sum()), "kappa": _number(kappa)})
    return {"krippendorff_alpha": _number(alpha), "pairs": pairs}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
