"""robots.txt: what a crawler may fetch, and how often.

    User-agent: danlu          the group of the longest name that our own begins with, else the group "*"
    Disallow: /private/
    Allow: /private/open$      the longest pattern that fits decides; "*" is anything, "$" the end; Allow wins a tie
    Crawl-delay: 2             seconds between two requests (not in the standard, and honoured)

Source: RFC 9309, sections 2.2 and 2.3. The parser of the standard library takes the first rule that fits and knows no
wildcards, which is another standard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

MAX_BYTES = 500 << 10  # the standard asks for at least so much


@dataclass
class Robots:
    """The rules for one crawler on one origin."""

    rules: list[tuple[bool, str]] = field(default_factory=list)  # (allowed, pattern)
    delay: float = 0.0

    def allows(self, url: str) -> bool:
        parts = urlsplit(url)
        target = _normal(parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if target == "/robots.txt":
            return True
        best = (-1, True)  # (length of the pattern, allowed)
        for allowed, pattern in self.rules:
            if (len(pattern), allowed) > best and _fits(pattern, target):
                best = (len(pattern), allowed)
        return best[1]


ALLOW_ALL = Robots()
DISALLOW_ALL = Robots([(False, "/")])


def parse(text: str, agent: str) -> Robots:
    """The rules that `agent` (the product name, without version) has to keep.

    >>> parse("User-agent: *\\nDisallow: /a\\nAllow: /a/b", "danlu").allows("http://x/a/b")
    True
    """
    groups: dict[str, Robots] = {}
    names: list[str] = []
    in_names = False
    for line in text.replace("\r", "\n").split("\n")[:20_000]:
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            names = [*names, value.lower()] if in_names else [value.lower()]
            for name in names:
                groups.setdefault(name, Robots())
            in_names = True
            continue
        in_names = in_names and key not in ("allow", "disallow", "crawl-delay")
        for name in names:
            if key in ("allow", "disallow") and value:
                groups[name].rules.append((key == "allow", _normal(value)))
            elif key == "crawl-delay" and re.fullmatch(r"\d{1,6}(\.\d+)?", value):
                groups[name].delay = float(value)
    fitting = [name for name in groups if name != "*" and name and agent.lower().startswith(name)]
    return groups[max(fitting, key=len)] if fitting else groups.get("*", ALLOW_ALL)


def _normal(path: str) -> str:
    """Percent-encoding made equal on both sides: "/%7Ea" and "/~a" are one path."""
    return quote(unquote(path), safe="/~!$&'()*+,;=:@?%-._")


def _fits(pattern: str, target: str) -> bool:
    """Whether a pattern fits the beginning of a target, without backtracking: the parts between stars, in order."""
    anchored = pattern.endswith("$")
    parts = pattern.removesuffix("$").split("*")
    if not target.startswith(parts[0]):
        return False
    position = len(parts[0])
    for index, part in enumerate(parts[1:], start=1):
        if anchored and index == len(parts) - 1:
            return target.endswith(part) and len(target) - len(part) >= position
        found = target.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return not anchored or position == len(target)
