"""The split: which documents are held out.

Held-out text measures what a model can do with text it has not seen, so nothing like it may be in training. Whole
*groups* go to one side: documents that are similar (a looser threshold than for removal), and the parts of one long
document.

Every group draws a number in [0, 1) from the hash of its smallest id. In the order of their draws, groups are held
out until they hold the wanted share of all bytes; a group that alone is more than twice that share is left to
training. So the split does not depend on the order of reading, and adding documents moves only groups at the border.

There is always something held out where that is possible, because a run without validation is blind: among few
documents the one with the smallest draw, and when all documents are one group (one book, cut into parts) its last
part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.minhash import clusters


def hold_out(
    ids: Sequence[str],
    groups: NDArray[np.integer],
    sizes: NDArray[np.int64],
    parts: Sequence[int] | NDArray[np.int32],
    share: float,
) -> NDArray[np.bool_]:
    """bool [D]: which documents are held out.

    ids     of all documents, sorted; only one a group is looked at
    groups  [D], index of the smallest member of each document's group
    sizes   [D], bytes
    parts   [D], number of the part where a document was cut, else 0
    """
    if share <= 0 or len(ids) < 2:
        return np.zeros(len(ids), dtype=bool)
    roots = np.flatnonzero(groups == np.arange(len(groups), dtype=groups.dtype))  # [G]
    if len(roots) == 1:
        last = np.arange(len(ids)) == int(np.argmax(parts))
        return last & (len(np.unique(parts)) > 1)
    group_bytes = np.bincount(groups, weights=sizes)[roots]  # [G]
    wanted = share * group_bytes.sum()
    by_draw = np.argsort(np.fromiter((draw(ids[int(root)]) for root in roots), np.float64, len(roots)), kind="stable")
    fitting = by_draw[group_bytes[by_draw] <= 2 * wanted]
    before = np.cumsum(group_bytes[fitting]) - group_bytes[fitting]  # held out when its turn comes
    chosen = fitting[before < wanted]
    if not len(chosen):
        chosen = by_draw[:1]
    held_out = np.zeros(len(groups), dtype=bool)
    held_out[roots[chosen]] = True
    return held_out[groups]


def joined(alike: NDArray[np.uint32], parts: NDArray[np.int32], origins: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """uint32 [D], the `groups` of `hold_out`: what is alike, and the parts of one document, belong together.

    alike    [D], equal numbers for documents that are alike; none much larger than D
    parts    [D], above 0 for the parts of a document that was cut
    origins  [P], the documents that the P parts are of, in their order

    Only the parts are walked through one by one: they are large, so they are few.
    """
    first = np.zeros(int(alike.max(initial=0)) + 1, dtype=np.uint32)
    first[alike[::-1]] = np.arange(len(alike), dtype=np.uint32)[::-1]  # of equal numbers the last one written stays
    groups = first[alike]  # [D] the first member of my group
    cut_rows = np.flatnonzero(parts > 0)
    if not len(cut_rows):
        return groups
    nodes, node = np.unique(
        groups[cut_rows], return_inverse=True
    )  # ascending, so the smallest node is the first member
    _, origin = np.unique(origins, return_inverse=True)
    codes = np.unique(node.astype(np.int64) << 32 | origin)  # each pair once
    pairs = np.stack([codes >> 32, len(nodes) + (codes & 0xFFFFFFFF)], axis=1)
    roots = clusters(len(nodes) + int(origin.max()) + 1, pairs)[: len(nodes)]
    touched = np.isin(groups, nodes)
    groups[touched] = nodes[roots[np.searchsorted(nodes, groups[touched])]]
    return groups


def draw(identity: str, salt: str = "split") -> float:
    """A number in [0, 1) that is a function of the id: the same for ever, and even over many ids."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "little") / 2**64


_SENTENCE_END = re.compile(r"[。！？；]|[.!?;]\s")
_SPACE = re.compile(r"[\s，、：]")
_LOOK_BACK = 2_000  # characters
# A line end after an empty line, before text that is not indented.
_BORDER = re.compile(r"\n\n(?=\S)")


def cut(text: str, limit: int) -> list[str]:
    """Cut a long text into parts of at most `limit` characters; joined they are the text.

    A cut is made in the second half of the allowed length, at the last good place there: before a line that is
    not indented and follows an empty one (a chapter, a top-level function), else after a line, a sentence, a word,
    else anywhere. (In the middle of a word may be the middle of a telephone number, which nobody would recognise.)
    """
    parts: list[str] = []
    start = 0  # the rest is never copied: a book without a line end would cost the square of its length
    while len(text) - start > limit:
        middle, end = start + limit // 2, start + limit
        borders = [match.end() for match in _BORDER.finditer(text, middle, end)]
        at = borders[-1] if borders else text.rfind("\n", middle, end) + 1 or _within_line(text, middle, end)
        parts.append(text[start:at])
        start = at
    return [*parts, text[start:]] if text else parts


def _within_line(text: str, middle: int, end: int) -> int:
    """The last place in [middle, end] of a long line where a sentence ends, or a word; `end` where there is none."""
    for pattern in (_SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, max(middle, end - _LOOK_BACK), end)]
        if ends:
            return ends[-1]
    return end
