"""The report, with numbers done by hand."""

from __future__ import annotations

import json

from danlu.data.document import Document
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.report import LanguageTable, tokenizer_report
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import documents, small_tokenizer


def document(text: str, language: str) -> Document:
    return Document(id=text, text=text, language=language, source="t")


def test_by_hand() -> None:
    """Bytes only, no merges: a Han character is 3 tokens and 1 unit, "ab" is 2 tokens and 1 unit."""
    tokenizer = Tokenizer(train_bpe(["x"], vocab_size=256))
    report = tokenizer_report(
        tokenizer, [document("明月", "zh"), document("ab", "en"), document("b", "en")], max_bytes=100
    )
    assert report["languages"]["zh"] == {
        "documents": 1, "bytes": 6, "tokens": 6, "bytes_per_token": 1.0, "units": 2, "tokens_per_unit": 3.0,
    }  # fmt: skip
    assert report["languages"]["en"]["tokens_per_unit"] == 1.5
    assert report["total"] == {"documents": 3, "bytes": 9, "tokens": 9, "bytes_per_token": 1.0}
    assert report["vocabulary_used"] == round(len(set("明月".encode()) | {*b"ab"}) / 256, 4)
    assert report["round_trip_errors"] == 0


def test_stops_at_max_bytes() -> None:
    rows = [document("a" * 10, "en")] * 1000
    report = tokenizer_report(small_tokenizer(), rows, max_bytes=45)
    assert report["total"]["documents"] == 5


def test_every_language_is_there_and_merges_pay() -> None:
    report = tokenizer_report(small_tokenizer(), documents(), max_bytes=10**6)
    assert set(report["languages"]) == {"zh", "code:python", "en", "other"}
    assert all(row["bytes_per_token"] > 1.2 for row in report["languages"].values())
    assert report["special_tokens"] == 4


def test_a_lossy_tokenizer_is_caught() -> None:
    data = json.loads(small_tokenizer()._json)
    data["normalizer"] = {"type": "Lowercase"}
    report = tokenizer_report(Tokenizer(json.dumps(data)), documents(), max_bytes=10**6)
    assert report["round_trip_errors"] == 2  # the two texts with capital letters


def test_empty() -> None:
    assert LanguageTable().total() == {"documents": 0, "bytes": 0, "tokens": 0, "bytes_per_token": 0.0}
    report = tokenizer_report(small_tokenizer(), [], max_bytes=10)
    assert report["languages"] == {} and report["vocabulary_used"] == 0.0
