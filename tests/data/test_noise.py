from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data import noise
from danlu.data.noise import KINDS, add_noise

ZH = "我们在已经结束的会议上再次知道了这个消息，大家都觉得天气晴朗。"
EN = "The keyboard of the typist makes several different errors every single morning, whatever happens."
OFFLINE = [kind for kind in KINDS if kind != "homophone"]


@pytest.mark.parametrize("text", [ZH + EN, EN + ZH])
def test_the_same_seed_gives_the_same_noise_and_little_of_it(text: str) -> None:
    one, counts = add_noise(text, "1", 0.15, OFFLINE)
    assert (one, counts) == add_noise(text, "1", 0.15, OFFLINE) and one != text
    assert add_noise(text, "2", 0.15, OFFLINE)[0] != one
    assert difflib.SequenceMatcher(None, text, one, autojunk=False).ratio() > 0.8
    assert 0 < sum(counts.values()) < len(text) * 0.2


def test_each_kind_does_what_it_says() -> None:
    assert set(add_noise("己" * 9, "1", 1.0, ["shape"])[0]) <= set("已巳")
    assert sorted(add_noise("天地玄黄", "1", 1.0, ["order"])[0]) == sorted("天地玄黄")
    assert add_noise("天地玄黄" * 5, "4", 0.3, ["order"])[0] != "天地玄黄" * 5
    assert add_noise("keyboard", "1", 1.0, ["case"])[0].lower() == "keyboard"
    assert add_noise("keyboard", "1", 1.0, ["space"])[0].replace(" ", "") == "keyboard"
    assert sorted(add_noise("keyboard", "1", 1.0, ["order"])[0]) == sorted("keyboard")
    assert len(add_noise("keyboard", "1", 1.0, ["drop"])[0]) == 7 and add_noise("天", "1", 1.0, ["drop"])[0] == ""
    assert len(add_noise("keyboard", "1", 1.0, ["double"])[0]) == 9
    near = add_noise("g", "1", 1.0, ["keyboard"])[0]
    assert near in "fhtyvb"


def test_homophones_sound_the_same() -> None:
    pinyin = pytest.importorskip("pypinyin")
    text = "春眠不觉晓处处闻啼鸟"
    noisy, counts = add_noise(text, "1", 1.0, ["homophone"])
    assert counts["homophone"] >= 8 and len(noisy) == len(text)
    assert pinyin.lazy_pinyin(noisy) == pinyin.lazy_pinyin(text)


def test_without_pypinyin_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypinyin", None)
    noise._by_sound.cache_clear()
    with pytest.raises(UserError, match=r"danlu\[zh\]"):
        add_noise(ZH, "1", 1.0, ["homophone"])


@given(st.text(), st.floats(0.01, 1))
def test_any_text_survives(text: str, rate: float) -> None:
    noisy, _ = add_noise(text, "1", rate, OFFLINE)
    assert abs(len(noisy) - len(text)) <= len(text) and noise._SWAP not in noisy.replace(
        noise._SWAP, "", text.count(noise._SWAP)
    )
