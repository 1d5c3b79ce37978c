"""The stage tokenizer.pack: every document is found again in the shards, whole and under its id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.document import Document
from danlu.tokenizer import pack as pack_module
from danlu.tokenizer.pack import PackConfig, pack
from danlu.tokenizer.shards import TokenShards, read_summary
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import documents, small_tokenizer, write_corpus

TOKENIZER = small_tokenizer()


def saved(directory: Path, tokenizer: Tokenizer = TOKENIZER) -> Artifact:
    tokenizer.save(directory)
    return Artifact.from_path(directory, "tokenizer")


def run(directory: Path, corpus: Artifact, tokenizer: Artifact, **config: Any) -> tuple[dict[str, Any], Path]:
    return pack(PackConfig(**config), StageRun.for_test(directory), corpus, tokenizer), directory / "out"


@pytest.mark.parametrize("tokens_per_shard", [1, 60, 1_000_000])
def test_documents_come_back_by_id(tmp_path: Path, tokens_per_shard: int) -> None:
    train, held_out = documents(), documents("v")[:3]
    corpus = write_corpus(tmp_path / "corpus", train, held_out)
    metrics, out = run(tmp_path / "run", corpus, saved(tmp_path / "tok"), tokens_per_shard=tokens_per_shard)
    for split, originals in (("train", train), ("validation", held_out)):
        shards = TokenShards.open(out, split, tokenizer=TOKENIZER.fingerprint)
        assert metrics[f"{split}_tokens"] == len(shards)
        assert shards.n_documents == len(originals)
        position = 0
        for original in originals:
            name, start, end = shards.document_at(position)
            ids = shards.read(start, end - start).tolist()
            assert (name, start) == (original.id, position)
            assert TOKENIZER.decode(ids[:-1]) == original.text
            assert ids[-1] == TOKENIZER.eos_id
            position = end
        assert position == len(shards)
    assert len(TokenShards.open(out).shards) == {1: 5, 60: 3, 1_000_000: 1}[tokens_per_shard]


def test_summary_report_and_tokenizer_lie_beside_the_shards(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents())
    metrics, out = run(tmp_path / "run", corpus, saved(tmp_path / "tok"))
    summary = read_summary(out)
    assert summary["tokenizer"] == TOKENIZER.fingerprint == Tokenizer.load(out / "tokenizer").fingerprint
    assert (summary["vocab_size"], summary["dtype"], summary["separator"]) == (420, "uint16", 0)
    assert summary["splits"]["train"]["tokens"] == metrics["train_tokens"]
    assert summary["splits"]["train"]["bytes"] == sum(len(d.text.encode()) for d in documents())
    assert "validation" not in summary["splits"]
    report = json.loads((out / "report.json").read_text())
    assert report["train"]["languages"]["zh"]["documents"] == 2
    assert sum(row["tokens"] for row in report["train"]["languages"].values()) == metrics["train_tokens"]


def test_same_input_same_bytes_whatever_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = write_corpus(tmp_path / "corpus", documents() * 9), saved(tmp_path / "tok")
    _, first = run(tmp_path / "a", corpus, tokenizer)
    monkeypatch.setattr(pack_module, "GROUP_CHARACTERS", 100)
    _, second = run(tmp_path / "b", corpus, tokenizer)
    for file in (p for p in first.rglob("*") if p.is_file()):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


def test_special_strings_and_empty_documents_in_a_corpus(tmp_path: Path) -> None:
    texts = ["ends here <|endoftext|> not", "", "<|im_end|>"]
    rows = [Document(id=str(i), text=text, language="en", source="t") for i, text in enumerate(texts)]
    _, out = run(tmp_path / "run", write_corpus(tmp_path / "corpus", rows), saved(tmp_path / "tok"))
    shards = TokenShards.open(out)
    ids = shards.read(0, len(shards))
    assert int(np.sum(ids == 0)) == 3  # one separator a document, none from text
    assert 3 not in ids
    assert shards.document(1)[1:] == (len(TOKENIZER.encode(texts[0])) + 1, len(TOKENIZER.encode(texts[0])) + 2)


@pytest.mark.parametrize("name", ["rejected", "scores"])
def test_what_lies_beside_the_splits_is_not_packed(tmp_path: Path, name: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents())
    (corpus.path / f"{name}-00000.parquet").write_bytes((corpus.path / "train-00000.parquet").read_bytes())
    metrics, out = run(tmp_path / "run", corpus, saved(tmp_path / "tok"))
    assert not any(name in key for key in metrics)
    assert not list(out.glob(f"{name}*"))


def test_bos_separates_where_there_is_no_eos(tmp_path: Path) -> None:
    tokenizer = Tokenizer(TOKENIZER._json, {"bos_token": "<|im_start|>"})
    corpus = write_corpus(tmp_path / "corpus", documents())
    _, out = run(tmp_path / "run", corpus, saved(tmp_path / "tok", tokenizer))
    assert read_summary(out)["separator"] == 2


def test_bad_input(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents())
    with pytest.raises(UserError, match="neither an eos_token nor a bos_token"):
        run(tmp_path / "a", corpus, saved(tmp_path / "plain", Tokenizer(TOKENIZER._json)))
    with pytest.raises(UserError, match="no training documents"):
        run(tmp_path / "b", write_corpus(tmp_path / "held", [], documents()), saved(tmp_path / "tok"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no training documents"):
        run(tmp_path / "c", Artifact.from_path(tmp_path / "none", "corpus"), saved(tmp_path / "tok"))
