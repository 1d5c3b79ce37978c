"""Tokenizers side by side: encoding and training, danlu beside tiktoken, tokenizers and rustbpe.

    python bench/tokenizer.py train      100 MB of mixed Chinese and English into 32,768 tokens: seconds, peak memory
    python bench/tokenizer.py encode     20 MB of it by the tokenizer that came out: MB/s on one thread and on two

The texts are the poems of npm:chinese-poetry and Python files (code, and English in docstrings and comments), half and
half in bytes, shuffled with a fixed seed, or `--texts FILE`, a JSON string a line. Everybody cuts by danlu's pattern
and encodes with the same vocabulary; ids are compared, and speed with other ids is an error. Peers live in
bench/.envs/tokenizer. Contestants stay loaded and take turns; the median is reported with the lowest and highest run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contest

VOCAB_SIZE = 32_768
TRAIN_BYTES, ENCODE_BYTES = 100_000_000, 20_000_000
PACKAGES = ("tiktoken", "tokenizers", "rustbpe")
STORE = contest.HERE / ".store"
TEXTS, FEW, MADE = STORE / "tokenizer-100.jsonl", STORE / "tokenizer-20.jsonl", STORE / "tokenizer-32k.json"
RESULT = contest.RESULTS / "tokenizer.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "encode"))
    parser.add_argument("--texts", type=Path, help="a JSON string a line, instead of the default texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=None, help="who takes part; default: all")
    args = parser.parse_args()
    from danlu.tokenizer.bpe import split_pattern

    STORE.mkdir(exist_ok=True)
    python = environment()
    about = prepare(args.texts)
    if args.what == "train":
        rows = train(python, split_pattern(), args.rounds, args.peers)
    else:
        rows = encode(python, split_pattern(), args.rounds, args.peers)
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    kept = {key: old[key] for key in ("train", "encode") if key in old and old.get("texts") == about}
    merged = {row["name"]: row for row in kept.get(args.what, [])} | {row["name"]: row for row in rows}
    result = kept | {args.what: list(merged.values())}
    versions = {p: subprocess.check_output([python, "-c", VERSION.format(p)], text=True).strip() for p in PACKAGES}
    what = f"byte-level BPE, {VOCAB_SIZE} tokens, on {contest.one_line(about['what'])}"
    print("wrote", contest.write_result("tokenizer", {"what": what, "texts": about, "peers": versions, **result}))


VERSION = "import importlib.metadata as m; print(m.version('{}'))"


def environment() -> str:
    """The interpreter of the peers' environment, made when it is not there."""
    folder = contest.ENVS / "tokenizer"
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)


def prepare(given: Path | None) -> dict[str, Any]:
    """Writes the texts and says what they are."""
    if given is None:
        poems, code = (list(take(source, TRAIN_BYTES // 2)) for source in (poem_texts(), python_texts()))
        texts = poems + code
        random.Random(0).shuffle(texts)
        what = "poems of npm:chinese-poetry and Python files, half and half"
    else:
        with open(given, encoding="utf-8") as handle:
            texts = list(take(map(json.loads, handle), TRAIN_BYTES))
        what = given.name
    few = list(take(iter(texts), ENCODE_BYTES))
    for path, some in ((TEXTS, texts), (FEW, few)):
        path.write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in some), encoding="utf-8")
    return {"what": what, "documents": len(texts), "bytes": size(texts), "encoded_bytes": size(few)}


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def take(texts: Iterator[str], n_bytes: int) -> Iterator[str]:
    done = 0
    for text in texts:
        done += len(text.encode("utf-8", "replace"))
        if done > n_bytes:
            return
        yield text.encode("utf-8", "replace").decode()


def poem_texts() -> Iterator[str]:
    from danlu.data.sources import npm

    for file in sorted(npm.fetch(npm.parse("chinese-poetry")).rglob("*.json")):
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            continue
        for row in rows if isinstance(rows, list) else []:
            lines = row.get("paragraphs") if isinstance(row, dict) else None
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                yield "\n".join([str(row.get("title", "")), *lines])


def python_texts() -> Iterator[str]:
    """Python files of the standard library, then of what is installed."""
    folders = [Path(json.__file__).parents[1], *(Path(p) for p in sys.path if p.endswith("site-packages"))]
    seen = set()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            if file not in seen and file.stat().st_size > 200:
                seen.add(file)
                try:
                    yield file.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def contestant(name: str, python: str) -> contest.Contestant:
    interpreter = sys.executable if name.startswith("danlu") else python
    return contest.Contestant(name, [interpreter, str(contest.HERE / "peers_tokenizer.py"), name])


def train(python: str, pattern: str, rounds: int, wanted: list[str] | None) -> list[dict[str, Any]]:
    names = [n for n in ("danlu", "rustbpe", "tokenizers") if wanted is None or n in wanted]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    request = {"texts": str(TEXTS), "vocab_size": VOCAB_SIZE, "pattern": pattern}
    for _ in range(rounds):
        for name in names:  # a process for each run: its peak of memory is its own
            process = contestant(name, python)
            answers[name].append(process.ask(train=request))
            process.close()
    rows = []
    for name, runs in answers.items():
        seconds = contest.spread([run["seconds"] for run in runs])
        peak = contest.spread([run["peak_bytes"] for run in runs])
        rows.append({"name": name, "seconds": seconds, "peak_bytes": peak, "vocab_size": runs[0]["vocab_size"]})
        print(f"{name:<12} {seconds['median']:6.1f} s  {peak['median'] / 1e9:5.2f} GB  {runs[0]['vocab_size']} tokens")
    return rows


def encode(python: str, pattern: str, rounds: int, wanted: list[str] | None) -> list[dict[str, Any]]:
    make_tokenizer()
    names = [n for n in ("danlu", "danlu, as lists", "tiktoken", "tokenizers") if wanted is None or n in wanted]
    processes = {name: contestant(name, python) for name in names}
    for process in processes.values():
        process.ask(load={"tokenizer": str(MADE), "texts": str(FEW), "pattern": pattern})
    n_bytes = FEW.stat().st_size and size([json.loads(line) for line in open(FEW, encoding="utf-8")])  # noqa: SIM115
    speeds: dict[tuple[str, int], list[float]] = {}
    found = set()
    for round_number in range(rounds + 1):  # the first one warms up
        for name, threads in ((n, t) for t in (1, 2) for n in names):
            answer = processes[name].ask(encode=threads)
            found.add(answer["sha256"])
            if round_number:
                speeds.setdefault((name, threads), []).append(n_bytes / 1e6 / answer["seconds"])
    for process in processes.values():
        process.close()
    if len(found) > 1:
        sys.exit("the contestants do not give the same ids: their speeds mean nothing")
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name}
        for threads in (1, 2):
            row[f"threads_{threads}"] = contest.spread(speeds[name, threads])
        rows.append(row)
        medians = [row[f"threads_{t}"]["median"] for t in (1, 2)]
        print(f"{name:<16} {medians[0]:6.1f} MB/s on one thread, {medians[1]:6.1f} on two")
    return rows


def make_tokenizer() -> None:
    from danlu.tokenizer.bpe import train_bpe

    with open(TEXTS, encoding="utf-8") as handle:
        text = train_bpe(map(json.loads, handle), vocab_size=VOCAB_SIZE, special_tokens=["<|endoftext|>"])
    MADE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
