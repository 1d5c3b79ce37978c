"""A trimmed tokenizer: the same tokens where all are kept, bytes for the rest, ids without gaps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.tokenizer.trim import trim_tokenizer
from tests.tokenizer.shared import CODE, POEM, PROSE, SPECIAL, TEXTS, small_tokenizer

OLD = small_tokenizer()


def trimmed_to(text: str) -> tuple[Tokenizer, list[int]]:
    return trim_tokenizer(OLD, OLD.encode(text))


def test_worked_example() -> None:
    merges = ["l o", "lo w", "e r", "low er", "n e", "ne w"]
    vocabulary = {**{name: i for i, name in enumerate("lowern")}, "<e>": 6}
    for merge in merges:
        vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
    state = json.loads(OLD.to_json())
    state["model"] |= {"vocab": vocabulary, "merges": merges}
    state["added_tokens"] = [{**state["added_tokens"][0], "id": 6, "content": "<e>"}]
    old = Tokenizer(json.dumps(state), {"eos_token": "<e>"})
    new, ids = trim_tokenizer(old, [vocabulary["lower"]])
    assert {new.token_bytes(i) for i in range(len(ids))} == {
        b"l", b"o", b"w", b"e", b"r", b"n", b"<e>", b"lo", b"low", b"er", b"lower"
    }  # fmt: skip
    assert [new.token_bytes(i) for i in new.encode("lower")] == [b"lower"]
    assert [old.token_bytes(i) for i in old.encode("newer")] == [b"new", b"er"]
    assert [new.token_bytes(i) for i in new.encode("newer")] == [b"n", b"e", b"w", b"er"]


@pytest.mark.parametrize("text", [POEM, CODE, PROSE, "".join(TEXTS)])
def test_kept_languages_keep_their_tokens(text: str) -> None:
    new, ids = trimmed_to(text)
    assert new.vocab_size == len(ids) < OLD.vocab_size or text == "".join(TEXTS)
    assert [ids[i] for i in new.encode(text)] == OLD.encode(text)
    assert all(new.token_bytes(i) == OLD.token_bytes(old) for i, old in enumerate(ids))
    for other in TEXTS:
        assert new.decode(new.encode(other)) == other


NEW, IDS = trimmed_to(PROSE + CODE)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*PROSE.split(), *CODE.split(), *POEM, "  ", "\n", "hot", "furn"]), max_size=12))
def test_a_text_of_kept_tokens_is_cut_as_before(words: list[str]) -> None:
    text = " ".join(words)
    old = OLD.encode(text)
    assert NEW.decode(NEW.encode(text)) == text
    if set(old) <= set(IDS):
        assert [IDS[i] for i in NEW.encode(text)] == old


def test_special_tokens_stay_what_they_are() -> None:
    new, ids = trimmed_to(POEM + "<|im_end|> user\nassistant\n")
    assert new.eos_id is not None and new.pad_id is not None and OLD.eos_id == ids[new.eos_id]
    assert {new.token_id(token) for token in SPECIAL} == set(new.special_ids)
    text = "<|im_start|>床前明月光<|im_end|>"
    assert [ids[i] for i in new.encode(text, special=True)] == OLD.encode(text, special=True)
    assert [ids[i] for i in new.encode(text)] != OLD.encode(text, special=True)


def test_ids_in_both_files_are_renumbered() -> None:
    state, late = json.loads(OLD.to_json()), "<|late|>"
    state["added_tokens"].append({**state["added_tokens"][0], "content": late, "id": 420})
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": late, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {late: {"id": late, "ids": [420], "tokens": [late]}},
    }
    old = Tokenizer(json.dumps(state), {**OLD.config, "added_tokens_decoder": {"420": {"content": late}}})
    assert old.prefix_ids == (420,)
    new, ids = trim_tokenizer(old, old.encode(PROSE))
    assert new.token_id(late) == len(ids) - 1 < 420
    assert new.prefix_ids == (len(ids) - 1,)
    assert new.config["added_tokens_decoder"] == {str(len(ids) - 1): {"content": late}}


def test_the_compiled_encoder_agrees() -> None:
    new, _ = trimmed_to(PROSE)
    long = " ".join(TEXTS) * 3000
    assert new.encode_batch([long])[0] == new.library.encode(long, add_special_tokens=False).ids


def test_other_kinds_are_refused() -> None:
    state = json.loads(OLD.to_json())
    state["model"] = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    state["added_tokens"] = []
    with pytest.raises(UserError, match="byte-level BPE tokenizers can be trimmed, this is WordLevel"):
        trim_tokenizer(Tokenizer(json.dumps(state)), [0])
