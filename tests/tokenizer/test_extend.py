"""Extending a tokenizer: old ids stay, old text too, and the compiled and the slow way learn the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.core import native
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.document import Document
from danlu.tokenizer.algorithms import train_unigram
from danlu.tokenizer.extend import ExtendConfig, extend, extend_tokenizer, old_parts
from danlu.tokenizer.reference import encode_reference
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import TEXTS, small_tokenizer, write_corpus

LAW = ["上诉人不服一审判决，上诉至最高人民法院。", "The appellant appeals the judgment of the court below."] * 4


def test_new_merges_follow_the_old_ones() -> None:
    old = small_tokenizer()
    new, mapping = extend_tokenizer(old, LAW, new_tokens=40, min_frequency=2)
    assert new.vocab_size == old.vocab_size + 40 and list(mapping) == list(range(420, 460))
    for token_id in range(old.vocab_size):
        assert new.token_bytes(token_id) == old.token_bytes(token_id)
    for token_id, parts in mapping.items():
        assert new.token_bytes(token_id) == b"".join(map(old.token_bytes, parts)) and len(parts) > 1
    for text in [*TEXTS, *LAW, "<|im_end|>"]:
        ids = new.encode(text)
        assert new.decode(ids) == old.decode(ids := new.encode(text)) or max(ids) >= 420
        assert new.decode(ids) == text
        assert [part for i in ids for part in mapping.get(i, [i])] == old.encode(text), "a row of new ids is one of old"
    assert sum(len(new.encode(t)) for t in LAW) < 0.75 * sum(len(old.encode(t)) for t in LAW)
    assert new.special_ids == old.special_ids and new.eos_id == old.eos_id


def test_the_slow_way_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = extend_tokenizer(small_tokenizer(), LAW, new_tokens=30, min_frequency=2)
    monkeypatch.setenv("DANLU_KERNELS", "off")
    native.load.cache_clear()
    slow, _ = extend_tokenizer(small_tokenizer(), LAW, new_tokens=30, min_frequency=2)
    native.load.cache_clear()
    assert fast.to_json() == slow.to_json()


def test_merges_in_order_are_what_encoding_means() -> None:
    new, _ = extend_tokenizer(small_tokenizer(), LAW, new_tokens=30, min_frequency=2)
    model = json.loads(new.to_json())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    from danlu.tokenizer.alphabet import from_alphabet

    spelled = [(from_alphabet(left), from_alphabet(right)) for left, right in merges]
    assert [new.token_bytes(i) for i in new.encode(" appellant")] == encode_reference(b" appellant", spelled)


def test_added_tokens_have_parts_too() -> None:
    old = small_tokenizer()
    state = json.loads(old.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    state["added_tokens"] += [{"id": 420, "content": "furnace", "special": False, **flags}]
    state["added_tokens"] += [{"id": 421, "content": "<|new|>", "special": True, **flags}]
    assert old_parts(old, Tokenizer(json.dumps(state))) == {420: old.encode("furnace"), 421: []}


def test_stage(tmp_path: Path) -> None:
    law = [Document(id=str(i), text=text, language="zh", source="t") for i, text in enumerate(LAW)]
    corpus = write_corpus(tmp_path / "corpus", law, law[:2])
    small_tokenizer().save(tmp_path / "tokenizer")
    from danlu.core.artifact import Artifact

    base = Artifact.from_path(tmp_path / "tokenizer", "tokenizer")
    config = ExtendConfig(new_tokens=25, min_frequency=2)
    metrics = extend(config, StageRun.for_test(tmp_path / "run"), corpus, base)
    assert metrics["new_tokens"] == 25 and metrics["round_trip_errors"] == 0
    assert metrics["bytes_per_token"] > metrics["bytes_per_token_before"]
    out = tmp_path / "run/out"
    written = json.loads((out / "extension.json").read_text())
    assert written["base"] == small_tokenizer().fingerprint and len(written["tokens"]) == 25
    assert Tokenizer.load(out).vocab_size == 445
    assert list((tmp_path / "run/work").iterdir()) == []
    with pytest.raises(UserError, match="gives no new token"):
        extend(ExtendConfig(min_frequency=10_000), StageRun.for_test(tmp_path / "none"), corpus, base)


def test_only_byte_level_bpe() -> None:
    unigram = Tokenizer(train_unigram(TEXTS, vocab_size=300))
    with pytest.raises(UserError, match="only byte-level BPE"):
        extend_tokenizer(unigram, LAW, new_tokens=5)
