"""Classical Chinese poems, judged by machine: form, rhyme, and what was copied.

The cases are held-out poems. The prompt is the title line; what follows is the poem.

    登鸛雀樓                              prompt
    白日依山盡，黃河入海流。              verse lines end at punctuation: 白日依山盡 / 黃河入海流 / ...
    欲窮千里目，更上一層樓。

Regular form: at least four verse lines, an even number of them, all of five or all of seven characters. Song lyrics
(ci) and fragments are not regular, so real poems do not reach 1 either: that is what the oracle row is for.

Rhyme: in a regular poem the even lines (2, 4, 6, ...) rhyme. Counted are neighbours, 2 with 4, 4 with 6, ...: here
流 liu and 樓 lou, both of the rhyme "iu/ou". A rhyme is the final of the pinyin without its medial, grouped as in the
Fourteen Rhymes of modern Chinese (中华新韵, 2005); 知 and 衣 are both written "i" and do not rhyme. Poets of the
Tang rhymed by the sounds of their time, so real poems score below 1 in today's pinyin.
By chance two line ends have the same rhyme with probability sum over rhymes of share^2; the shares are counted over
the ends of even lines of regular poems in the training text.

Copied: a verse line of five or more characters that stands in the training text, character by character. Real
held-out poems quote as well: the oracle row says how much is usual.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError, need
from danlu.core.text import is_han
from danlu.evaluate.generation import write
from danlu.evaluate.statistics import share

if TYPE_CHECKING:
    from danlu.data.document import Document
    from danlu.evaluate.baselines import ByteNgram
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

_LINE_ENDS = re.compile("[，。！？；：、,.!?;:\\s]+")
_COPY_LENGTH = 5  # shorter lines recur by chance
_POEM_BYTES = 400  # of the n-gram's poems

# Final (pypinyin's spelling, "v" = ü) -> rhyme of the Fourteen Rhymes.
_RHYMES = {
    final: rhyme
    for rhyme, finals in {
        "a": "a ia ua",
        "o": "o e uo",
        "ie": "ie ve ê",
        "ai": "ai uai",
        "ei": "ei uei ui",
        "ao": "ao iao",
        "ou": "ou iou iu",
        "an": "an ian uan van",
        "en": "en in uen un vn",
        "ang": "ang iang uang",
        "eng": "eng ing ueng ong iong",
        "i": "i er v",
        "-i": "-i",
        "u": "u",
    }.items()
    for final in finals.split()
}
_BUZZING = ("zh", "ch", "sh", "r", "z", "c", "s")  # after these "i" is the sound of 知, not of 衣


def judge_poems(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    training: Callable[[], Iterable[Document]],
    ngram: ByteNgram | None,
    *,
    cases: int = 100,
    max_tokens: int = 160,
    temperature: float = 0.8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The rows "model", "oracle" and "ngram" (if there is one) on the same titles, and the rhyme that chance gives.

    `training()` starts a new pass over the training documents. Raises UserError when no document looks like a poem.
    """
    poems = [split_title(document.text) for document in documents if document.language.startswith("zh")]
    poems = [(title, body) for title, body in poems if verse_lines(body)][:cases]
    if not poems:
        raise UserError("there are no poems in the held-out text", "the task poems judges models of Chinese verse")
    prompts = [title + "\n" for title, _ in poems]
    written = write(
        model, tokenizer, prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, progress=progress
    )
    bodies = {
        "model": [w.text if w.ended else drop_last_line(w.text) for w in written],
        "oracle": [body for _, body in poems],
    }
    if ngram is not None:
        bodies["ngram"] = [ngram.write(prompt, _POEM_BYTES, seed + i) for i, prompt in enumerate(prompts)]
    lines = {name: [verse_lines(body) for body in texts] for name, texts in bodies.items()}
    known, chance = look_through(training(), {line for row in lines.values() for poem in row for line in poem})
    rows = {name: judge(row, known) for name, row in lines.items()}
    samples = [prompt + body for prompt, body in zip(prompts[:3], bodies["model"][:3], strict=True)]
    return {"rows": rows, "rhyme_by_chance": chance, "samples": samples}


def judge(poems: Sequence[Sequence[str]], known: frozenset[str]) -> dict[str, Any]:
    """Form, rhyme and copying of poems given as verse lines; `known` are the lines that training text holds."""
    regular = [poem for poem in poems if is_regular(poem)]
    pairs = [pair for poem in regular for pair in rhyming_pairs(poem)]
    lines = [line for poem in poems for line in poem if len(line) >= _COPY_LENGTH]
    return {
        "regular": share(len(regular), len(poems)),
        "rhyme": share(sum(rhyme(a) == rhyme(b) for a, b in pairs), len(pairs)),
        "copied": share(sum(line in known for line in lines), len(lines)),
    }


def split_title(text: str) -> tuple[str, str]:
    """(first line, the rest)."""
    title, _, body = text.partition("\n")
    return title, body


def verse_lines(body: str) -> list[str]:
    """What stands between punctuation marks. Anything but Han characters stays in its line and spoils its form."""
    return [line for line in _LINE_ENDS.split(body) if line]


def drop_last_line(body: str) -> str:
    """A poem whose budget ran out, without its unfinished last line: up to the last punctuation mark."""
    ends = [match.end() for match in _LINE_ENDS.finditer(body)]
    return body[: ends[-1]] if ends else ""


def is_regular(lines: Sequence[str]) -> bool:
    """At least four lines, an even number, all of five or all of seven Han characters."""
    if len(lines) < 4 or len(lines) % 2:
        return False
    lengths = {len(line) for line in lines}
    return lengths in ({5}, {7}) and all(is_han(character) for line in lines for character in line)


def rhyming_pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Last characters of neighbouring even lines: 2 with 4, 4 with 6, ..."""
    ends = [line[-1] for line in lines[1::2]]
    return list(itertools.pairwise(ends))


@cache
def rhyme(character: str) -> str:
    """The rhyme of a character in its most common reading; a character without one rhymes with itself only.

    >>> rhyme("流"), rhyme("樓"), rhyme("知"), rhyme("衣")
    ('ou', 'ou', '-i', 'i')
    """
    pypinyin = need("pypinyin", "zh")
    final = pypinyin.pinyin(character, style=pypinyin.Style.FINALS, strict=True, errors="ignore")
    if not final or not final[0][0]:
        return character
    initial = pypinyin.pinyin(character, style=pypinyin.Style.INITIALS, strict=True, errors="ignore")
    name: str = final[0][0]
    if name == "i" and initial and initial[0][0] in _BUZZING:
        name = "-i"
    return _RHYMES.get(name, name)


def look_through(training: Iterable[Document], wanted: set[str]) -> tuple[frozenset[str], float]:
    """One pass over the training text: which of the wanted lines it holds, and the rhyme that chance gives."""
    found: set[str] = set()
    ends: Counter[str] = Counter()
    for document in training:
        lines = verse_lines(split_title(document.text)[1])
        found.update(wanted.intersection(lines))
        if is_regular(lines):
            ends.update(line[-1] for line in lines[1::2])
    rhymes: Counter[str] = Counter()
    for character, count in ends.items():
        rhymes[rhyme(character)] += count
    total = sum(rhymes.values())
    return frozenset(found), sum((count / total) ** 2 for count in rhymes.values()) if total else 0.0
