"""Markdown of a model's answer to HTML that is safe to show.

A model may say anything, also what an attacker wrote into a document it has read. Two things must never happen: its
text becomes a script, or its text makes the browser fetch something (an image whose address carries the conversation
away). So raw HTML stays text, images are not rendered, links keep only the schemes http, https and mailto. Behind that
stand DOMPurify in the browser and the page's Content-Security-Policy, each enough alone.

    >>> render("a <b> *c*")
    '<p>a &lt;b&gt; <em>c</em></p>\\n'
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)


def render(text: str) -> str:
    """CommonMark with tables and strikethrough, code coloured by its language."""
    rendered: str = _markdown().render(text)
    return rendered


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    markdown.disable("image")
    markdown.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("code_block", _code)
    return markdown


def _code(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A block with its language and a button to copy it (page.js listens for the button)."""
    token = tokens[index]
    language = token.info.strip().partition(" ")[0][:24]
    name = html.escape(language or "text")
    button = '<button type="button" class="copy-code" aria-label="copy"></button>'
    body = _highlight(token.content, language)
    head = f'<div class="code-head"><span>{name}</span>{button}</div>'
    return f'<div class="code">{head}<pre><code>{body}</code></pre></div>\n'


def _highlight(code: str, language: str) -> str:
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(language, stripnl=False) if language else None
    except ClassNotFound:
        lexer = None
    if lexer is None:
        return html.escape(code)
    coloured: str = highlight(code, lexer, HtmlFormatter(nowrap=True))
    return coloured
