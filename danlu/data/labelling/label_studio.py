"""Label Studio's JSON, out and in: documents go to people as tasks, what people chose comes back.

    [{"data": {"id": "9f86d081884c7d65", "text": "..."},
      "predictions": [{"model_version": "rules", "score": 0.7, "result": [CHOICE]}],
      "annotations": [{"completed_by": 3, "result": [CHOICE]}]}]

    CHOICE = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["good"]}}

The labelling interface that fits is in `interface(labels)`: paste it into the project's settings. A round trip keeps
ids, texts, predictions and every annotator's choice; annotations that were cancelled, or choose nothing, are no votes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from danlu.core.errors import UserError


@dataclass(frozen=True)
class Task:
    """One document for people. `votes`: annotator -> label. `suggested`: what a model would say, with its score."""

    id: str
    text: str
    suggested: str = ""
    score: float | None = None
    votes: dict[str, str] = field(default_factory=dict)


def interface(labels: Sequence[str]) -> str:
    """Label Studio's configuration for choosing one of `labels` for a text."""
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    head = '<View><Text name="text" value="$text"/><Choices name="label" toName="text" choice="single">'
    return f"{head}{choices}</Choices></View>"


def write_tasks(path: Path, tasks: Iterable[Task]) -> int:
    """Write tasks for import; returns how many."""
    rows = [_row(task) for task in tasks]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def read_tasks(path: Path) -> list[Task]:
    """Read an export of Label Studio ("JSON", not "JSON-MIN"). Raises UserError when it is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_task(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path.name} is no export of Label Studio ({type(error).__name__}: {error})", "export the project as JSON"
        ) from None


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}


def _row(task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {"data": {"id": task.id, "text": task.text}}
    if task.suggested:
        score = {} if task.score is None else {"score": task.score}
        row["predictions"] = [{"model_version": "danlu", **score, "result": [_choice(task.suggested)]}]
    if task.votes:
        row["annotations"] = [{"completed_by": who, "result": [_choice(label)]} for who, label in task.votes.items()]
    return row


def _task(row: dict[str, Any]) -> Task:
    data = row["data"]
    votes = {}
    for number, annotation in enumerate(row.get("annotations") or []):
        label = _chosen(annotation)
        if label and not annotation.get("was_cancelled"):
            who = annotation.get("completed_by", number)
            who = who.get("email", who.get("id")) if isinstance(who, dict) else who
            votes[str(who)] = label
    predictions = row.get("predictions") or [{}]
    score = predictions[0].get("score")
    return Task(str(data["id"]), str(data["text"]), _chosen(predictions[0]), score, votes)


def _chosen(annotation: dict[str, Any]) -> str:
    for one in annotation.get("result") or []:
        if one.get("type") == "choices" and one["value"].get("choices"):
            return str(one["value"]["choices"][0])
    return ""
