from __future__ import annotations

import pytest

from danlu.data.sources.frontier import canonical
from danlu.data.sources.robots import parse


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/x", True),
        ("User-agent: *\nDisallow: /", "/x", False),
        ("User-agent: *\nDisallow:", "/x", True),
        ("User-agent: other\nDisallow: /", "/x", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: danlu\nDisallow: /only", "/x", True),
        ("User-agent: a\nUser-agent: DANLU\nDisallow: /x", "/x/y", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.pdf$", "/x/y.pdf", False),
        ("User-agent: *\nDisallow: /*.pdf$", "/x/y.pdf?z", True),
        ("User-agent: *\nDisallow: /a*b*c", "/aXXbYYc/d", False),
        ("User-agent: *\nDisallow: /a*b*c", "/acb", True),
        ("User-agent: *\nDisallow: /%7Ex", "/~x", False),
        ("User-agent: *\nDisallow: /中文", "/%E4%B8%AD%E6%96%87/页", False),
        ("User-agent: *\nDisallow: /p?q=", "/p?q=1", False),
        ("\ufeffnonsense\n: :\nUser-agent: *\r\nDisallow: /x # why", "/x", False),
        ("User-agent: *\nDisallow: " + "/*a" * 500 + "$", "/" + "a" * 2_000 + "b", True),
    ],
)
def test_the_longest_rule_decides(text: str, path: str, allowed: bool) -> None:
    assert parse(text, "danlu").allows("http://example.org" + path) is allowed


def test_crawl_delay() -> None:
    assert parse("User-agent: *\nCrawl-delay: 2.5", "danlu").delay == 2.5
    assert parse("User-agent: *\nCrawl-delay: soon", "danlu").delay == 0


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("HTTP://Example.ORG:80/a/./b/../c#x", "http://example.org/a/c"),
        ("https://例子.测试/页?b=2&utm_medium=m&a=", "https://xn--fsqu00a.xn--0zwm56d/%E9%A1%B5?b=2&a="),
        ("http://x", "http://x/"),
        ("http://x//a///b/", "http://x/a/b/"),
        ("http://x/%7ea%2fb", "http://x/~a%2Fb"),
        ("http://user:secret@x/", ""),
        ("javascript:alert(1)", ""),
        ("http://x:99999/", ""),
        ("http://" + "x" * 3_000, ""),
    ],
)
def test_one_spelling_for_an_address(url: str, found: str) -> None:
    assert canonical(url) == found
    if found:
        assert canonical(found) == found
