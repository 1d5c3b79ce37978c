"""Educational value by a model's judgement: the question, and how its answer is read.

As in FineWeb-Edu (Penedo et al. 2024): a large model rates a sample of documents from 0 to 5, a small classifier learns
those ratings, and the classifier rates everything. Ratings are asked for with one fixed question in the language of the
document, about an excerpt of it, and are read only where they are said plainly:

    "Score: 4", "评分：4", "4/5", "4分", "三分", {"score": 4}, or nothing but "4"

The last one said counts, because models think before they rate. An answer without one is no rating; nothing is guessed.
"""

from __future__ import annotations

import re

EXCERPT = 3_000  # characters of a document that are shown

_QUESTION = {
    "zh": """下面是一篇文档的节选。请判断它对学习有多大价值，也就是一个想学知识的人读完能学到多少。
0 分：没有可学的内容，例如广告、导航、乱码、灌水。
1 分：偶尔有一点知识，大部分与学习无关。
2 分：涉及有用的主题，但零散、肤浅，或者难以读懂。
3 分：适合学习，讲清楚了一些重要概念，虽不完整或有枝蔓。
4 分：讲解清楚、连贯、切题，像一篇好的教程或教材中的一节。
5 分：极好的学习材料，推理细致，例子恰当，没有多余的话。
技术文档、源代码、文学作品和对话，都按读者能从中学到多少来评分。

节选：
<<<
{text}
>>>

先用一句话说明理由，然后另起一行只写：评分：数字""",
    "en": """Below is an excerpt from a document. Judge how much somebody who wants to learn could
learn from it.
0: nothing to learn, such as advertising, navigation, garbled or filler text.
1: a stray fact here and there, mostly beside the point.
2: a useful subject, but scattered, shallow or hard to follow.
3: fit for learning: it makes some important ideas clear, though incomplete or with digressions.
4: clear, coherent and to the point, like a good tutorial or a section of a textbook.
5: outstanding material: careful reasoning, fitting examples, no wasted words.
Judge documentation, source code, literature and conversation by the same measure: what the reader learns.

Excerpt:
<<<
{text}
>>>

Give the reason in one sentence, then on a line of its own write only: Score: NUMBER""",
}

_DIGIT = r"([0-5](?:\.\d+)?|[零〇一二两三四五])"
_BORDER = r"(?![\d.]*\d)"
_SAID = re.compile(
    rf"""(?:score|rating|评分|得分|分数|打分)["'*\s]*(?:is|是|为)?["'*\s:：=]*{_DIGIT}{_BORDER}  # Score: 4
    | (?<![\d.]){_DIGIT}\s*(?:/\s*5(?!\d)|分(?![钟数之析类]))                                     # 4/5, 4分
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ALONE = re.compile(rf"\W*{_DIGIT}\W*")
_HAN_DIGITS: dict[str, float | str] = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5}


def question(text: str, language: str) -> str:
    """What the model is asked about a document; Chinese for Chinese, English for everything else."""
    form = _QUESTION["zh" if language == "zh" else "en"]
    return form.replace("{text}", text[:EXCERPT])


def read_rating(answer: str) -> float | None:
    """The rating in an answer, 0 to 5, or None where none is said plainly.

    >>> read_rating("It explains recursion well.\\nScore: 4")
    4.0
    """
    alone = _ALONE.fullmatch(answer.strip())
    if alone:
        return _number(alone[1])
    matches = list(_SAID.finditer(answer))
    said = [match[1] for match in matches if match[1]] or [match[2] for match in matches]  # "评分：2（满分5分）" says 2
    return _number(said[-1]) if said else None


def _number(text: str) -> float | None:
    value = float(_HAN_DIGITS.get(text, text))
    return value if 0 <= value <= 5 else None
