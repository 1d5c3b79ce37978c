from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact, sha256_file
from danlu.core.errors import UserError
from danlu.core.stage import StageRun, get_stage
from danlu.data.dataset import read_rows
from danlu.data.document import Document, write_documents
from danlu.data.instruct import InstructConfig, instruct


def _source(name: str, filler: int = 1) -> str:
    lines = "".join(f"    total += {i}\n" for i in range(filler))
    docstring = f'"""Give the {name} of a value to its caller."""'
    return f"def {name}(value):\n    {docstring}\n    total = value\n{lines}    return total\n"


def _corpus(path: Path, train: dict[str, str], validation: dict[str, str], language: str = "code:python") -> Artifact:
    path.mkdir()
    for split, texts in (("train", train), ("validation", validation)):
        write_documents(path, split, (Document(i, text, language, "python:stdlib") for i, text in texts.items()))
    return Artifact.from_path(path, kind="corpus")


def _run(
    tmp_path: Path, corpus: Artifact | None = None, name: str = "run", **config: Any
) -> tuple[Path, dict[str, Any]]:
    run = StageRun.for_test(tmp_path / name)
    return run.out, instruct(InstructConfig(**config), run, corpus=corpus)


def test_docstrings_of_a_corpus_keep_their_side(tmp_path: Path) -> None:
    train = {"a": _source("one") + "\n" + _source("two"), "b": "x = 1\n", "c": "def broken(:\n", "d": _source("held")}
    corpus = _corpus(tmp_path / "corpus", train, {"e": _source("held"), "f": _source("long", 500)})
    out, metrics = _run(tmp_path, corpus)
    report = json.loads((out / "report.json").read_text())
    assert {(row.meta["document"], row.meta["function"]) for row in read_rows(out)} >= {("a", "one"), ("a", "two")}
    assert {row.meta["document"] for row in read_rows(out, "validation")} == {"e"}
    assert report["documents"] == {"used": 4, "without_docstrings": 1, "not_parsed": 1}
    assert report["dropped"]["too_long"] == 2
    held_out = {row.id for row in read_rows(out, "validation")}
    assert not held_out & {row.id for row in read_rows(out)}
    assert metrics["rows"] == report["rows"]["train"] == len(list(read_rows(out)))


def test_equal_rows_are_dropped_and_the_held_out_one_stays(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", {"a": _source("one"), "b": _source("two")}, {"a": _source("one")})
    out, metrics = _run(tmp_path, corpus)
    assert metrics == {"rows": 2, "validation_rows": 2, "dropped": 2}
    rejected = pq.read_table(out / "rejected-00000.parquet").to_pylist()
    assert [row["reason"] for row in rejected] == ["duplicate"] * 2


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", {f"d{i}": _source(f"f{i}") for i in range(20)}, {"v": _source("v")})
    one, two = (_run(tmp_path, corpus, name)[0] for name in ("one", "two"))
    names = sorted(path.name for path in one.iterdir())
    assert "train-00000.parquet" in names
    assert [sha256_file(one / n) for n in names] == [sha256_file(two / n) for n in names]


def test_a_number_of_rows_is_drawn(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", {f"d{i}": _source(f"f{i}") for i in range(20)}, {})
    out, metrics = _run(tmp_path, corpus, max_rows=7)
    assert metrics["rows"] == 7 and json.loads((out / "report.json").read_text())["not_drawn"] == 33


def test_conversations_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    records: list[Any] = [{"instruction": f"问题{i}", "output": f"回答{i}"} for i in range(50)]
    records += [{"instruction": f"问题{i}", "output": "另一个回答"} for i in range(50)]  # equal questions
    records += [{"prompt": "p", "completion": "c"}] * 2 + [{"text": "no chat"}]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n{broken\n")
    out, metrics = _run(tmp_path, how="file", source=str(path), validation_share=0.2)
    sides = {side: {row.messages[0]["content"] for row in read_rows(out, side)} for side in ("train", "validation")}
    assert not sides["train"] & sides["validation"] and len(sides["validation"]) >= 8
    assert metrics["rows"] + metrics["validation_rows"] == 101 and metrics["dropped"] == 3
    rejected = {
        row["reason"]: json.loads(row["meta"]) for row in pq.read_table(out / "rejected-00000.parquet").to_pylist()
    }
    assert rejected["broken_line"]["path"] == "chats.jsonl:104"
    assert rejected["no_conversation"]["path"] == "chats.jsonl:103"
    assert "duplicate" in rejected


@pytest.mark.parametrize(
    ("lines", "message"),
    [("", "no conversation could be used"), ('{"text": "x"}\n{broken', r"1 no_conversation, 1 broken_line")],
)
def test_a_file_without_conversations_says_what_one_looks_like(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message) as caught:
        _run(tmp_path, how="file", source=str(tmp_path / "a.jsonl"))
    assert '"messages"' in caught.value.hint


def test_a_corpus_without_python_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives no instruction rows"):
        _run(tmp_path, _corpus(tmp_path / "corpus", {"a": "春眠不覺曉"}, {}, "zh"))
    with pytest.raises(UserError, match="needs a corpus"):
        _run(tmp_path, name="none")
    with pytest.raises(ValidationError, match="needs source"):
        InstructConfig(how="file")
    with pytest.raises(ValidationError, match="only read with"):
        InstructConfig(source="x.jsonl")


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    stage = get_stage("data.instruct")
    assert stage.makes == "dataset" and stage.optional == {"corpus"} and stage.fingerprint is not None
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    config = InstructConfig(how="file", source=str(path))
    before = stage.fingerprint(config)
    path.write_text("two")
    assert stage.fingerprint(config) != before and stage.fingerprint(InstructConfig()) is None
