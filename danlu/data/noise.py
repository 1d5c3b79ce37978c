"""Noise of a typist's hand: what people really get wrong, drawn with a seed. For models that must bear it.

    zh   homophone   another character of the same sound (pinyin, tones aside): 在 -> 再          extra `zh`
         shape       one that looks alike, from a small table: 己 -> 已, 末 -> 未
         order       two neighbours swapped: 知道 -> 道知        drop, double: a character lost or typed twice
    en   keyboard    a key beside the right one: the -> thr     case: The -> tHe
         space       a space lost, or one where none belongs    order, drop, double: letters of a word

`rate` is the share of units (Han characters, words) that are hit; each draw depends on the seed and the id of the
document alone, so the same document gets the same noise whatever stands around it.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence

from danlu.core.errors import need
from danlu.core.text import HAN, is_han

KINDS = ("homophone", "shape", "keyboard", "case", "space", "order", "drop", "double")

_LOOK_ALIKE = (
    "己已巳", "末未", "土士", "日曰目", "人入八", "大太犬", "天夭", "王玉主", "白自百", "千干于", "戊戌戍成", "折拆析",
    "侯候", "拔拨", "辩辨辫瓣", "即既", "历厉", "午牛", "今令", "免兔", "乌鸟", "晴睛", "清请情", "峰锋蜂", "椅倚",
    "待侍", "密蜜", "栗粟", "嬴赢", "毫豪", "燥躁噪", "幻幼", "徒徙", "洒酒", "茶荼", "住往", "刺剌", "治冶",
)  # fmt: skip
_ROWS = ("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./")
_PART = re.compile(f"[{HAN}]|[A-Za-z]+(?:'[a-z]+)?")


def add_noise(text: str, seed: str, rate: float = 0.05, kinds: Sequence[str] = KINDS) -> tuple[str, dict[str, int]]:
    """(the text with noise, how often each kind was put in). `seed` any string, such as "7 " + id.

    Raises UserError when homophones are asked for and pypinyin is not installed.
    """
    draw = random.Random(f"noise {seed}")
    counts: dict[str, int] = {}
    pieces, end = [], 0
    parts = list(_PART.finditer(text))
    for number, part in enumerate(parts):
        pieces.append(text[end : part.start()])
        end = part.end()
        word = part[0]
        if draw.random() < rate:
            tools = _HAN_TOOLS if is_han(word) else _WORD_TOOLS
            fitting = [kind for kind in kinds if kind in tools]
            draw.shuffle(fitting)
            for kind in fitting:
                following = parts[number + 1] if number + 1 < len(parts) else None
                touches = following is not None and following.start() == part.end() and is_han(following[0])
                changed = tools[kind](word, draw, touches)
                if changed != word:
                    counts[kind] = counts.get(kind, 0) + 1
                    word = changed
                    break
        pieces.append(word)
    noisy = "".join([*pieces, text[end:]])
    return _swap_marked(noisy), dict(sorted(counts.items()))


_SWAP = "\ue000"  # private: the two characters after it change places


def _swap_marked(text: str) -> str:
    return re.sub(f"{_SWAP}(.)(.)", r"\2\1", text, flags=re.DOTALL).replace(_SWAP, "")


Tool = Callable[[str, random.Random, bool], str]  # word, draw, whether a Han character follows at once


def _homophone(word: str, draw: random.Random, touches: bool) -> str:
    return _another(_by_sound().get(_sound(word), ""), word, draw)


def _shape(word: str, draw: random.Random, touches: bool) -> str:
    return _another(_by_shape().get(word, ""), word, draw)


def _another(candidates: str, word: str, draw: random.Random) -> str:
    others = [character for character in candidates if character != word]
    return draw.choice(others) if others else word


def _han_order(word: str, draw: random.Random, touches: bool) -> str:
    return _SWAP + word if touches else word


def _drop(word: str, draw: random.Random, touches: bool) -> str:
    if is_han(word):
        return ""
    at = draw.randrange(len(word))
    return word[:at] + word[at + 1 :] if len(word) > 1 else word


def _double(word: str, draw: random.Random, touches: bool) -> str:
    at = draw.randrange(len(word))
    return word[:at] + word[at] + word[at:]


def _keyboard(word: str, draw: random.Random, touches: bool) -> str:
    at = draw.randrange(len(word))
    near = [key for key in _neighbours().get(word[at].lower(), "") if key.isalpha()]
    if not near:
        return word
    key = draw.choice(near)
    return word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]


def _case(word: str, draw: random.Random, touches: bool) -> str:
    at = draw.randrange(len(word))
    return word[:at] + word[at].swapcase() + word[at + 1 :]


def _space(word: str, draw: random.Random, touches: bool) -> str:
    if len(word) < 4:
        return word
    at = draw.randrange(1, len(word))
    return f"{word[:at]} {word[at:]}"


def _word_order(word: str, draw: random.Random, touches: bool) -> str:
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word
    at = draw.choice(places)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


_HAN_TOOLS: dict[str, Tool] = {
    "homophone": _homophone, "shape": _shape, "order": _han_order, "drop": _drop, "double": _double,
}  # fmt: skip
_WORD_TOOLS: dict[str, Tool] = {
    "keyboard": _keyboard, "case": _case, "space": _space, "order": _word_order, "drop": _drop, "double": _double,
}  # fmt: skip


@functools.cache
def _by_sound() -> dict[str, str]:
    """Syllable -> common characters of that sound. GB 2312's first level is what people have on their lips."""
    sounds: dict[str, list[str]] = {}
    for high in range(0xB0, 0xD8):
        for low in range(0xA1, 0xFF):
            try:
                character = bytes((high, low)).decode("gb2312")
            except UnicodeDecodeError:
                continue
            sounds.setdefault(_sound(character), []).append(character)
    return {sound: "".join(characters) for sound, characters in sounds.items()}


def _sound(character: str) -> str:
    pinyin = need("pypinyin", "zh")
    return str(pinyin.lazy_pinyin(character)[0])


@functools.cache
def _by_shape() -> dict[str, str]:
    return {character: group for group in _LOOK_ALIKE for character in group}


@functools.cache
def _neighbours() -> dict[str, str]:
    near = {}
    for r, row in enumerate(_ROWS):
        for c, key in enumerate(row):
            around = [(r, c - 1), (r, c + 1), (r - 1, c), (r - 1, c + 1), (r + 1, c - 1), (r + 1, c)]
            near[key] = "".join(_ROWS[y][x] for y, x in around if 0 <= y < 4 and 0 <= x < len(_ROWS[y]))
    return near
