"""A document cleaned: every step that is switched on, in order, and an account of what it did.

    characters -> html, entities, bbcode -> wiki, markdown -> widths -> boilerplate, furniture
               -> tables -> join_lines -> convert -> characters again, if anything changed

The order matters. Tags go before entities, so that "&lt;b&gt;" becomes the "<b>" its author wrote and stays; widths before
boilerplate, whose patterns are written in ASCII; boilerplate before lines are joined, or a footer ends in a paragraph;
characters last once more, because what a step takes away may leave blanks and empty lines behind.

Code is only cleaned of odd characters: its tags and its broken lines are its text.

Nothing changes silently: `changes` counts each step, `removed_lines` holds each line that a filter took, and
`diff_sample` shows a few places before and after, for the report.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from danlu.data.clean import boilerplate, lines, markup, tables, widths
from danlu.data.clean.characters import clean
from danlu.data.clean.chinese import Target, convert


class CleanConfig(BaseModel):
    """Which steps run. The defaults change nothing in a clean text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    characters: bool = True
    html: bool = True
    entities: bool = True
    bbcode: bool = True
    wiki: bool = False
    markdown: bool = False  # addresses of links and images
    widths: bool = True
    boilerplate: bool = True
    furniture: bool = False  # page numbers and running heads, for text out of PDF
    tables: bool = False
    join_lines: bool = False
    convert: Target | None = None  # "simplified", "traditional", "taiwan", "hong_kong"


DEFAULT = CleanConfig()

_Step = Callable[[str], tuple[str, int]]
# (name in the config, step); each returns the text and a count.
_STEPS: tuple[tuple[str, _Step], ...] = (
    ("html", markup.strip_html),
    ("entities", markup.unescape),
    ("bbcode", markup.strip_bbcode),
    ("wiki", markup.strip_wiki),
    ("markdown", markup.strip_markdown),
    ("widths", widths.narrow),
)
_FILTERS = (("boilerplate", boilerplate.strip_boilerplate), ("furniture", boilerplate.strip_furniture))
_LATE_STEPS: tuple[tuple[str, _Step], ...] = (("tables", tables.tidy_tables), ("join_lines", lines.join_lines))


@dataclass(frozen=True)
class Cleaned:
    """The text after all steps, how often each step changed something, and the lines that were taken out."""

    text: str
    changes: dict[str, int] = field(default_factory=dict)
    removed_lines: list[tuple[str, str]] = field(default_factory=list)


def clean_document(text: str, config: CleanConfig = DEFAULT, language: str = "") -> Cleaned:
    """Clean one document. `language` as the source knows it: for "code:..." only the characters are cleaned.

    With `characters` on, the result ends with one newline, or is empty. Raises UserError when `convert` is asked for and
    OpenCC is not installed.
    """
    changes: dict[str, int] = {}
    removed: list[tuple[str, str]] = []
    if config.characters:
        text, changes = clean(text)
    if language.startswith("code:"):
        return Cleaned(text, changes)
    before = text
    for name, step in _STEPS:
        if getattr(config, name):
            text = _count(changes, name, step(text))
    for name, line_filter in _FILTERS:
        if getattr(config, name):
            text, gone = line_filter(text)
            if gone:
                changes[name] = len(gone)
                removed += gone
    for name, step in _LATE_STEPS:
        if getattr(config, name):
            text = _count(changes, name, step(text))
    if config.convert is not None:
        text = _count(changes, "convert", convert(text, config.convert))
    if config.characters and text != before:
        text, again = clean(text)
        for name, count in again.items():
            changes[name] = changes.get(name, 0) + count
    return Cleaned(text, changes, removed)


def _count(changes: dict[str, int], name: str, result: tuple[str, int]) -> str:
    if result[1]:
        changes[name] = result[1]
    return result[0]


def diff_sample(before: str, after: str, max_lines: int = 20, max_chars: int = 160, context: int = 1) -> list[str]:
    """A few places where `after` differs from `before`, as lines of a unified diff; long lines are cut.

    Only the beginning of long texts is compared (2,000 lines of each), so that the cost is bounded.
    """
    if before == after:
        return []
    old, new = (text.split("\n", 2_000)[:2_000] for text in (before, after))
    sample: list[str] = []
    for line in difflib.unified_diff(old, new, "before", "after", lineterm="", n=context):
        if len(sample) >= max_lines:
            sample.append("...")
            break
        shown = line if len(line) <= max_chars else line[:max_chars] + "…"
        sample.append(shown.encode("unicode_escape").decode() if not line.isprintable() else shown)
    return sample
