"""Planted items: every copy found, nearly every edited one, nothing in text that only resembles a benchmark."""

from __future__ import annotations

import random
import re
import sysconfig
from pathlib import Path

import pytest

from danlu.core.text import units
from danlu.data.contamination.benchmarks import Benchmark, Item
from danlu.data.contamination.index import Contamination, compare
from danlu.data.contamination.units import GAP, find_units

WORDS = re.findall(
    r"\w+",
    """
    river mountain engine copper lantern market forest harvest planet winter silver bridge garden
    letter captain kettle ribbon saddle thunder valley window yellow anchor basket candle desert
    feather glacier hammer island jacket kitchen ladder mirror needle orchard pepper quarry rocket
    shadow temple umbrella violin walnut zebra clever brought carried measured divided opened
    painted counted gathered followed turned every between without against under seventeen hundred
    before because although several
    """,
)
HAN = (
    "春眠不觉晓处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望低思故乡红豆生南"
    "国发几枝愿君采撷此物最相山中见终白日依尽黄河入海流欲穷千里目更一层楼学校题选项正"
    "确说法中国历史文化经济政治社会科技"
)

Draw = random.Random


def english(draw: Draw, n: int) -> str:
    return " ".join(draw.choices(WORDS, k=n)).capitalize() + "?"


def chinese(draw: Draw, n: int) -> str:
    return re.sub(r"(.{9})", r"\1，", "".join(draw.choices(HAN, k=n))) + "？"


@pytest.fixture(scope="module")
def items() -> list[Item]:
    draw = Draw(5)
    found = []
    for i in range(60):
        found.append(Item(f"en{i}", english(draw, draw.randint(12, 60)), english(draw, draw.randint(1, 40))))
        choices = tuple(chinese(draw, draw.randint(2, 8)) for _ in range(4))
        form = "下列关于中国历史的说法中正确的是"  # the form of this benchmark, in every item
        found.append(Item(f"zh{i}", form + chinese(draw, draw.randint(16, 80)), choices[1], choices, 1))
        own = tuple(chinese(draw, draw.randint(4, 8)) for _ in range(4))
        found.append(Item(f"short{i}", form, own[2], own, 2))
    return found


@pytest.fixture(scope="module")
def index(items: list[Item]) -> Contamination:
    return Contamination([Benchmark("exam", "1", tuple(items))])


def page(draw: Draw) -> str:
    """Clean text of the same words and characters, and of the form that all questions share."""
    lines = [english(draw, 30), chinese(draw, 60), "下列关于中国历史的说法中正确的是哪一项", "1 2 3 4 5 6 7 8 9"]
    draw.shuffle(lines)
    return "\n".join(lines)


def edited(draw: Draw, text: str, every: int) -> str:
    """About one unit in `every` changed, dropped, or followed by a new one; punctuation and case at will."""
    parts = re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9]+|.", text, re.S)
    places = [i for i, part in enumerate(parts) if part.isalnum()]
    for i in draw.sample(places, max(1, len(places) // every)):
        other = draw.choice(HAN) if "\u4e00" <= parts[i] <= "\u9fff" else draw.choice(WORDS)
        parts[i] = draw.choice(["", other, f"{parts[i]} {other}"])
    return "".join(part.upper() if draw.random() < 0.2 else part for part in parts).replace("，", "、")


def shown(item: Item) -> str:
    """The question as an exam page prints it."""
    letters = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", item.choices, strict=False))
    return f"{item.prompt}\n{letters}"


def test_every_copy_is_found_by_name_and_place(index: Contamination, items: list[Item]) -> None:
    draw = Draw(1)
    for item in items:
        before, after = page(draw), page(draw)
        text = f"{before}\n{shown(item)}\n{after}"
        (hit,) = index.check(text)
        assert (hit.benchmark, hit.item) == ("exam", item.id)
        found = text[hit.start : hit.end]
        assert item.prompt.rstrip("？?，")[-8:] in found
        assert len(before) - 5 <= hit.start and hit.end <= len(text) - len(after) + 5


@pytest.mark.parametrize(("every", "least"), [(20, 0.97), (10, 0.9)])
def test_edited_copies_are_found(index: Contamination, items: list[Item], every: int, least: float) -> None:
    draw = Draw(2)
    found = sum(
        item.id in {h.item for h in index.check(f"{page(draw)}\n{edited(draw, shown(item), every)}\n{page(draw)}")}
        for item in items
    )
    assert found >= least * len(items)


def test_an_answer_alone_is_found_when_it_is_long(index: Contamination, items: list[Item]) -> None:
    draw = Draw(3)
    long_ = [item for item in items if not item.choices and len(units(item.answer)) >= 26]
    assert len(long_) > 5
    for item in long_:
        (hit,) = index.check(f"{page(draw)}\n{item.answer}\n{page(draw)}")
        assert (hit.item, hit.part) == (item.id, "answer")


def test_clean_text_has_no_hits(index: Contamination) -> None:
    draw = Draw(4)
    assert index.check_many([page(draw) for _ in range(300)]) == [[]] * 300
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    assert not any(index.check_many([path.read_text("utf-8", "replace") for path in files]))
    assert index.check("") == index.check("下列") == []


def test_many_texts_give_what_each_alone_gives(index: Contamination, items: list[Item]) -> None:
    draw = Draw(6)
    texts = [page(draw) if i % 3 else f"{items[i].prompt} {page(draw)} {items[-i].prompt}" for i in range(30)]
    assert index.check_many(texts) == [index.check(text) for text in texts]


def test_a_part_of_a_long_item_is_enough_and_a_short_phrase_is_not() -> None:
    draw = Draw(7)
    passage = english(draw, 300)
    index = Contamination([Benchmark("reading", "1", (Item("1", passage),))])
    words = passage.split()
    assert index.check(" ".join(words[100:127]))  # 27 units in a row
    assert not index.check(" ".join(words[100:112]))


def test_templates_match_whatever_fills_their_gaps() -> None:
    draw = Draw(8)
    item = Item(
        "1", f"{GAP} can peel {GAP} shrimp a minute and saute {GAP} of them in {GAP} minutes. How long will it take?"
    )
    index = Contamination([Benchmark("symbolic", "1", (item,))])
    filled = "Emily Jane can peel 6 shrimp a minute and saute 30 of them in 10 minutes. How long will it take?"
    assert index.check(f"{page(draw)} {filled} {page(draw)}")


def test_numbers_alone_are_not_looked_for() -> None:
    grid = "\n".join("0 1 2 3 4 5 6 7 8 9" for _ in range(9))
    index = Contamination([Benchmark("grids", "1", (Item("1", grid),))])
    assert index.report()["grids"]["cannot_be_found"] == 1 and not index.check(grid)


def test_comparing_by_hand() -> None:
    piece = find_units("a b c d e f g h i j").hashes
    assert compare(piece, find_units("x a b c d e f g h i j y").hashes, 13, 0.5, 0.8) == ("exact", 1.0, 1, 10)
    kind, share, _, _ = compare(piece, find_units("x a b c d X f g h i j").hashes, 13, 0.5, 0.8)
    assert (kind, share) == ("fuzzy", 0.9)
    assert compare(piece, find_units("a b X d e X g h X j").hashes, 13, 0.5, 0.8)[0] == ""
    assert compare(piece, find_units("j i h g f e d c b a").hashes, 13, 0.5, 0.8)[0] == ""
