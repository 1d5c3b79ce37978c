"""Full-width forms: "ＡＢＣ１２３" and "ABC123" are the same letters, and should be the same tokens.

    letters and digits     always                                ２０２４年 -> 2024年
    ．＠／－＿％＋＝＆＃    between full-width letters or digits  ｗｗｗ．ａ．ｃｏｍ -> www.a.com
    ：                     between full-width digits             １２：３０ -> 12:30
    ，。；！？（）「」      never                                 the punctuation of Chinese

NFKC would do the first and ruin the last, and "①", "㎡" and "x²" with it. Half-width katakana is left to NFC's care: it is
a choice of the author in Japanese.

>>> narrow("ＧＰＴ－４，１２：３０（北京）")
('GPT-4，12:30（北京）', 2)
"""

from __future__ import annotations

import re

_WORD = "[０-９Ａ-Ｚａ-ｚ]"
_RUN = re.compile(f"{_WORD}+(?:(?:[．＠／－＿％＋＝＆＃]+|(?<=[０-９])：(?=[０-９])){_WORD}+)*")
_FULL = re.compile(_WORD)
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def narrow(text: str) -> tuple[str, int]:
    """Returns the text and how many runs became half-width."""
    if text.isascii() or not _FULL.search(text):
        return text, 0
    return _RUN.subn(lambda match: match.group().translate(_NARROW), text)
