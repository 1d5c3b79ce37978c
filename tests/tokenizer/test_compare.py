"""Comparing tokenizers: numbers by hand where bytes are the tokens, and the stage."""

from __future__ import annotations

import json
from pathlib import Path

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun, get_stage
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.compare import DOMAINS, PARALLEL, CompareConfig, compare, compare_row, encoding_speed
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import TEXTS, documents, small_tokenizer, write_corpus


def test_a_vocabulary_of_bytes() -> None:
    row = compare_row(Tokenizer(train_bpe(["x"], vocab_size=256)), documents())
    assert {domain["bytes_per_token"] for domain in row["domains"].values()} == {1.0}
    zh, en = (sum(len(pair[side].encode()) for pair in PARALLEL) for side in (0, 1))
    assert row["parity"] == round(zh / en, 4)
    assert row["digits_alone"] == 1.0 and row["round_trip_errors"] == 0
    assert row["domains"]["numbers"]["tokens"] == sum(len(text) for text in DOMAINS["numbers"])


def test_a_trained_one_is_cheaper_and_joins_digits() -> None:
    learned = Tokenizer(train_bpe([*TEXTS, "12 34 56 78 99 10 24" * 3], vocab_size=400, min_frequency=1))
    row = compare_row(learned, documents())
    assert row["domains"]["zh classical"]["bytes_per_token"] > 1.3 and row["digits_alone"] < 1
    assert encoding_speed(learned, TEXTS, seconds=0.01) > 0


def test_stage(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents(), documents("v")[:3])
    small_tokenizer().save(tmp_path / "a")
    Tokenizer(train_bpe(TEXTS, vocab_size=300), {}).save(tmp_path / "b")
    first, second = (Artifact.from_path(tmp_path / name, "tokenizer") for name in "ab")
    assert get_stage("tokenizer.compare").optional == {"third"}
    metrics = compare(CompareConfig(), StageRun.for_test(tmp_path / "run"), corpus, first, second)
    assert metrics["tokenizer_bytes_per_token"] > metrics["other_bytes_per_token"] > 1
    assert metrics["other_megabytes_per_second"] > 0
    report = json.loads((tmp_path / "run/out/report.json").read_text())
    assert report["documents"] == 3 and set(report["tokenizers"]) == {"tokenizer", "other"}
    assert "speed" not in json.dumps(report), "a payload is the same on every machine"
    table = (tmp_path / "run/out/report.md").read_text()
    assert "| bytes/token, zh |" in table and "| parity zh/en |" in table
