"""The stage `evaluate.report`: a model's report card.

    model, corpus (+ a second model)  --->  report.json, report.md

`report.json` has every task's result as `tasks.py` gives it; `report.md` is the same as a table that a person
reads: for each capability the trivial baseline, the model, the oracle, with n and the interval. Nothing in them is a
time or a speed, so the same model gives the same report.

The cases are held-out documents of `corpus`; its training documents train the n-gram. With `other` (a second model,
for instance the one before a change) each task is run on both, on the same cases.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.errors import UserError, suggest
from danlu.core.stage import StageConfig, StageRun, stage

_TASK_NAMES = ("perplexity", "python", "poems")  # tests keep it equal to tasks.TASKS, which imports more


class ReportConfig(StageConfig):
    tasks: list[str] = ["perplexity"]
    max_bytes: int = Field(default=500_000, ge=1)  # of held-out text, in whole documents
    cases: int = Field(default=64, ge=1)  # of each task that generates
    context: int | None = Field(default=None, ge=2)  # positions per window; None: as in training
    seed: int = 0

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        for task in tasks:
            if task not in _TASK_NAMES:
                raise ValueError(f'there is no task "{task}": {suggest(task, _TASK_NAMES)}')
        if not tasks:
            raise ValueError(f"name at least one of {', '.join(_TASK_NAMES)}")
        return tasks


@stage("evaluate.report", makes="report", takes={"model": "model", "corpus": "corpus", "other?": "model"}, version="2")
def report(
    config: ReportConfig, run: StageRun, model: Artifact, corpus: Artifact, other: Artifact | None = None
) -> dict[str, Any]:
    """Judge a model on tasks, each beside a trivial baseline and an oracle."""
    from danlu.evaluate import samples
    from danlu.evaluate.tasks import Bench, get_task, load_judged, trained_context

    documents = samples.held_out(corpus, config.max_bytes, config.seed)
    judged = {"model": model} | ({"other": other} if other is not None else {})
    results: dict[str, dict[str, Any]] = {}
    for role, artifact in judged.items():
        loaded, tokenizer = load_judged(artifact)
        context = config.context or trained_context(artifact)
        bench = Bench(
            loaded, tokenizer, documents, corpus, context, config.cases, config.seed,
            lambda done, total: run.progress(done, total, "windows and texts"),
        )  # fmt: skip
        results[role] = {}
        for name in config.tasks:
            try:
                results[role][name] = {"task": name} | get_task(name).run(bench)
            except UserError as error:
                raise UserError(f"task {name}: {error.message}", error.hint) from None
    payload = {"models": {role: a.id for role, a in judged.items()}, "corpus": corpus.id, "results": results}
    write_json(run.out / "report.json", payload)
    atomic_write(run.out / "report.md", markdown(payload).encode())
    return flat_metrics(results)


def flat_metrics(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The metrics of the manifest: the values that `danlu ls` shows, and the baselines beside them."""
    flat: dict[str, Any] = {}
    for role, tasks in results.items():
        before = "" if role == "model" else f"{role}_"
        for name, result in tasks.items():
            for key in _columns(name):
                flat[f"{before}{key}"] = result["metrics"].get(key)
                for row, values in result["baselines"].items():
                    if key in values and role == "model" and "," not in row:
                        flat[f"{row}_{key}"] = values[key]
    return flat


def markdown(payload: dict[str, Any]) -> str:
    """The report as tables, one for each task."""
    lines = [f"# {payload['models']['model']}", "", f"Held-out text of {payload['corpus']}."]
    tasks = payload["results"]["model"]
    for name, result in tasks.items():
        columns = _columns(name)
        lines += ["", f"## {name} (n = {result['n']} {result['unit']})", ""]
        lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        rows = {"model": result["metrics"]}
        if "other" in payload["results"]:
            rows["other model"] = payload["results"]["other"][name]["metrics"]
        before = [row for row in result["baselines"] if row != "oracle"]
        ordered = {row: result["baselines"][row] for row in before} | rows
        if "oracle" in result["baselines"]:
            ordered["oracle (the held-out text)"] = result["baselines"]["oracle"]
        for row, values in ordered.items():
            lines.append(f"| {row} | " + " | ".join(_cell(values, column) for column in columns) + " |")
        for sample in result.get("samples", [])[:1]:
            lines += ["", "A sample of the model:", "", *("    " + line for line in sample.split("\n"))]
    return "\n".join(lines) + "\n"


def _columns(task: str) -> tuple[str, ...]:
    from danlu.evaluate.tasks import TASKS

    return TASKS[task].columns


def _cell(values: dict[str, Any], column: str) -> str:
    """ "1.234 (1.2 to 1.3)": the value and, where it was measured, its interval."""
    if column not in values:
        return ""
    text = f"{values[column]:.3f}"
    low = values.get(f"{column}_low", values.get("interval_low") if column == "bits_per_byte" else None)
    high = values.get(f"{column}_high", values.get("interval_high") if column == "bits_per_byte" else None)
    return text if low is None or high is None else f"{text} ({low:.3f} to {high:.3f})"
