# ruff: noqa: E501  (tables of lists, one row a line)
"""Toxic and adult text: how much of a text is pornography, abuse or hatred.

    score = 1000 * sum of the weights of hits / units of the text           one number a category

A word is not a verdict. A novel curses, a newspaper names what it reports, a textbook of medicine names every organ,
and a filter that drops at one word drops them all (and, as studies of such lists found, the texts of minorities
first). So

- a hit has a weight: unambiguous phrases of advertising 1, words that also stand in ordinary speech 0.3;
- near words of medicine, law, scholarship and news a hit counts a tenth;
- a text is dropped only when hits are dense, at least four of them and of at least three kinds.

What this finds is pages of pornographic advertising and rants. What it does not find: contempt in polite words,
irony, what is misspelt on purpose, and slurs against groups, which the lists leave out where the word alone cannot tell
hatred from its report. Such things need a trained classifier (quality.classifier).

>>> score_toxic("The breast cancer study followed 200 patients with sexual dysfunction.")
{'adult': 0.0, 'abuse': 0.0, 'hate': 0.0}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from danlu.core.text import units
from danlu.data.literals import LiteralSet

CATEGORIES = ("adult", "abuse", "hate")

# word or phrase -> weight. English entries match whole words (a final * any ending), in any case.
LEXICON: Mapping[str, Mapping[str, float]] = {
    "adult": {
        "porn*": 0.7, "xxx": 0.5, "hentai": 0.7, "milf*": 1.0, "blowjob*": 1.0, "cumshot*": 1.0, "gangbang*": 1.0,
        "handjob*": 1.0, "creampie*": 0.7, "deepthroat*": 1.0, "horny": 0.7, "camgirl*": 1.0, "webcam girls": 1.0,
        "escort girls": 1.0, "call girls": 0.7, "sex video*": 0.7, "sex cam*": 1.0, "sex chat": 1.0, "hot girls": 0.7,
        "nude pics": 1.0, "naked girls": 1.0, "nude girls": 1.0, "big tits": 1.0, "pussy": 0.7, "hardcore sex": 1.0,
        "adult dating": 0.7, "erotic massage": 0.7, "sexy girls": 0.7, "slut*": 0.5, "anal sex": 0.5, "orgasm*": 0.2,
        "成人视频": 1.0, "成人电影": 1.0, "成人网站": 1.0, "色情": 0.5, "黄色网站": 0.7, "裸聊": 1.0, "约炮": 1.0, "一夜情": 0.5,
        "激情视频": 1.0, "激情电影": 1.0, "无码": 0.5, "女优": 0.5, "援交": 0.7, "包夜": 0.7, "春药": 0.5, "迷药": 0.7,
        "情色": 0.5, "淫荡": 0.5, "淫乱": 0.5, "淫水": 1.0, "巨乳": 1.0, "肉棒": 1.0, "内射": 1.0, "口交": 0.5, "自慰": 0.3,
        "性虐": 0.7, "三级片": 0.7, "偷拍自拍": 1.0, "国产自拍": 1.0, "同城上门": 1.0, "上门服务小姐": 1.0, "騷貨": 1.0, "骚货": 1.0,
        "福利姬": 1.0, "色诱": 0.3, "嫖": 0.3,
    },
    "abuse": {
        "fuck*": 0.7, "motherfuck*": 1.0, "shit": 0.3, "bullshit": 0.3, "shithead*": 1.0, "bitch*": 0.5, "asshole*": 0.7,
        "bastard*": 0.3, "dickhead*": 1.0, "cunt*": 1.0, "wanker*": 0.7, "scumbag*": 0.7, "moron*": 0.5, "idiot*": 0.3,
        "retard": 0.5, "retards": 0.7, "dumbass*": 0.7, "kill yourself": 1.0, "piece of shit": 1.0, "go to hell": 0.5,
        "i hate you": 0.3, "loser*": 0.2, "pathetic": 0.2, "shut up": 0.2,
        "傻逼": 1.0, "傻屄": 1.0, "煞笔": 1.0, "操你": 1.0, "草泥马": 0.7, "他妈的": 0.4, "妈的": 0.3, "狗日的": 0.7, "王八蛋": 0.5,
        "贱人": 0.5, "贱货": 0.7, "婊子": 0.5, "脑残": 0.5, "智障": 0.4, "废物": 0.3, "去死": 0.4, "滚蛋": 0.3, "人渣": 0.4,
        "杂种": 0.4, "白痴": 0.3, "蠢货": 0.4, "畜生": 0.3, "不要脸": 0.3, "死全家": 1.0, "狗东西": 0.5, "你妈死": 1.0,
    },
    "hate": {
        "subhuman*": 0.7, "vermin": 0.3, "racial purity": 0.5, "inferior race*": 0.7, "master race": 0.4,
        "gas the": 1.0, "exterminate them": 0.7, "exterminate all": 0.7, "should all die": 0.7, "deserve to die": 0.5,
        "go back to your country": 0.7, "kill them all": 0.5, "white power": 0.7, "parasites": 0.2,
        "劣等民族": 0.7, "劣等人种": 0.7, "支那": 0.5, "滚回你": 0.5, "都该死": 0.7, "都应该死": 0.7, "杀光": 0.5, "灭绝他们": 0.7,
        "滚出中国": 0.5, "蛮夷杂种": 1.0, "寄生虫": 0.2, "低等人": 0.7,
    },
}  # fmt: skip

_CONTEXT = re.compile(
    r"patient|clinic|doctor|disease|disorder|cancer|health|medical|therap|surg|anatom|stud(?:y|ies)|research|survey|"
    r"police|court|arrest|victim|lawsuit|law |legal|crime|convict|report|editor|history|historian|century|genocide|"
    r"dictionary|etymolog|literally means|translat|novel|author|"
    r"医院|医生|患者|疾病|治疗|健康|医学|解剖|研究|调查|警方|公安|法院|判决|受害|嫌疑|犯罪|打击|查处|整治|法律|条例|报道|记者|新闻|"
    r"历史|史料|世纪|屠杀|词典|释义",
    re.IGNORECASE,
)
LEAST = (4, 3)  # hits, different words
_NEAR = 80  # characters at either side in which a word of context counts
_DISCOUNT = 0.1


@dataclass(frozen=True)
class Hits:
    """What was found: weight sums and counts by category, and the different words."""

    weight: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    words: dict[str, set[str]] = field(default_factory=dict)


def _compile(category: str, word: str, weight: float) -> tuple[str, str, re.Pattern[str], float]:
    """(category, literal for the quick look, pattern, weight); patterns run on lower-cased text."""
    literal = word.rstrip("*")
    if not literal.isascii():
        return category, literal, re.compile(re.escape(literal)), weight
    ending = "[a-z]*" if word.endswith("*") else ""
    return category, literal, re.compile(rf"(?<![a-z0-9]){re.escape(literal)}{ending}(?![a-z0-9])"), weight


_WORDS = {
    row[1]: row
    for row in (
        _compile(category, word, weight) for category, words in LEXICON.items() for word, weight in words.items()
    )
}
_LITERALS = LiteralSet(_WORDS)


def find_toxic(text: str) -> Hits:
    """All hits with their weights after the look at their context."""
    hits = Hits()
    present = _LITERALS.present(text)
    lowered = text.lower() if present else ""
    taken: set[int] = set()  # where longer words begin and go on: 他妈的 is not 妈的 as well
    for word in sorted(present, key=lambda word: (-len(word), word)):
        category, literal, pattern, weight = _WORDS[word]
        for match in pattern.finditer(lowered):
            if match.start() in taken:
                continue
            taken.update(range(*match.span()))
            near = lowered[max(0, match.start() - _NEAR) : match.end() + _NEAR]
            worth = weight * (_DISCOUNT if _CONTEXT.search(near) else 1.0)
            hits.weight[category] = hits.weight.get(category, 0.0) + worth
            hits.count[category] = hits.count.get(category, 0) + 1
            hits.words.setdefault(category, set()).add(literal)
    return hits


def score_toxic(text: str, n_units: int | None = None, *, least: tuple[int, int] = LEAST) -> dict[str, float]:
    """Weight of hits per 1,000 units for each category. `n_units` saves counting where the caller has counted.

    Fewer hits or fewer different words than `least` are no verdict on a text, and score 0.
    """
    hits = find_toxic(text)
    if not hits.count:
        return dict.fromkeys(CATEGORIES, 0.0)
    total = max(n_units or len(units(text)), 50)  # one word of a short message is not a density
    telling = {
        category
        for category, count in hits.count.items()
        if count >= least[0] and len(hits.words[category]) >= least[1]
    }
    return {
        category: round(1000 * hits.weight[category] / total, 3) if category in telling else 0.0
        for category in CATEGORIES
    }
