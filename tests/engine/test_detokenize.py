from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.detokenize import StopStrings, TextStream
from danlu.tokenizer.tokenizer import Tokenizer


class Pieces:
    """A vocabulary that is any list of byte strings: harder than a trained one, which never cuts this badly."""

    special_ids: frozenset[int] = frozenset()

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces)

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    text = TextStream(Pieces(pieces), stop)
    shown = []
    for i in range(len(pieces)):
        shown.append(text.push(i))
        if text.stopped:
            break
    shown.append(text.finish())
    assert text.text == "".join(shown)
    return shown


def tagged(pieces: list[bytes], stop: tuple[str, ...], before: str) -> str:
    watch, shown = StopStrings(stop, before), ""
    for piece in pieces:
        shown += watch.push(piece.decode())
    return shown + watch.flush()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def before_first_stop(text: str, stop: tuple[str, ...]) -> str:
    """The definition, character by character: the text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


LANGUAGE = st.text(alphabet="ab#床前明月光👍🏽‍👨🇨🇳é", max_size=20)
STOPS = st.lists(st.text(alphabet="ab#月👍", min_size=1, max_size=4), max_size=3).map(tuple)
PLACES = st.lists(st.integers(0, 200), max_size=30)


@given(LANGUAGE, PLACES)
def test_pieces_add_up_and_no_character_is_split(text: str, places: list[int]) -> None:
    shown = stream(cut(text.encode(), places))
    assert "".join(shown) == text
    assert not any("�" in piece for piece in shown)


@given(st.binary(max_size=30), PLACES)
def test_broken_bytes_show_as_if_decoded_at_once(data: bytes, places: list[int]) -> None:
    assert "".join(stream(cut(data, places))) == data.decode("utf-8", "replace")


@given(LANGUAGE, STOPS, PLACES)
def test_the_cut_is_the_same_for_all_pieces(text: str, stop: tuple[str, ...], places: list[int]) -> None:
    wanted = before_first_stop(text, stop)
    assert "".join(stream(cut(text.encode(), places), stop)) == wanted
    assert "".join(stream([text.encode()], stop)) == wanted


def test_the_example_in_the_chapter() -> None:
    stop = StopStrings(("###",))
    assert [stop.push(p) for p in ("a#", "#b", "##", "#c")] == ["a", "##b", "", ""]
    assert stop.stopped and stop.push("more") == "" and stop.flush() == ""


def test_what_was_held_back_is_shown_at_the_end() -> None:
    stop = StopStrings(("<end>",))
    assert stop.push("x<en") == "x" and stop.flush() == "<en" and not stop.stopped


def test_half_a_character_at_the_end_is_marked() -> None:
    assert stream(["月".encode(), "光".encode()[:2]]) == ["月", "", "�"]


@given(LANGUAGE)
def test_a_real_tokenizer_streams_what_it_decodes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    out = TextStream(tokenizer)
    assert "".join([*map(out.push, ids), out.finish()]) == tokenizer.decode(ids) == text


def test_special_tokens_are_hidden_unless_asked_for(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a"), tokenizer.control_tokens["<|im_end|>"], tokenizer.vocab_size + 3]
    hidden, shown = TextStream(tokenizer), TextStream(tokenizer, skip_special=False)
    for i in ids:
        hidden.push(i)
        shown.push(i)
    assert (hidden.text, shown.text) == ("a", "a<|im_end|>")


def test_without_a_tokenizer_there_is_no_text() -> None:
    out = TextStream(None)
    assert out.push(3) == "" and out.finish() == "" and out.text == ""


@pytest.mark.parametrize("stop", [("ab", "b"), ("b", "ab")])
def test_of_two_that_end_together_the_longer_is_cut(stop: tuple[str, ...]) -> None:
    assert "".join(stream([b"xab"], stop)) == "x"


@given(st.text(alphabet="a#<b>", max_size=20), STOPS, PLACES)
def test_a_stop_string_counts_up_to_the_tag(text: str, stop: tuple[str, ...], places: list[int]) -> None:
    at = text.find("<b>")
    watched = text if at < 0 else text[: at + 2]
    stopped = before_first_stop(watched, stop)
    expected = stopped if stopped != watched else text
    assert tagged(cut(text.encode(), places), stop, "<b>") == expected
