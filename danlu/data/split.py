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


def hold_out(
    ids: Sequence[str], groups: NDArray[np.int64], sizes: NDArray[np.int64], parts: Sequence[int], share: float
) -> NDArray[np.bool_]:
    """bool [D]: which documents are held out.

    ids     of all documents, sorted
    groups  [D], index of the smallest member of each document's group
    sizes   [D], bytes
    parts   [D], number of the part where a document was cut, else 0
    """
    if share <= 0 or len(ids) < 2:
        return np.zeros(len(ids), dtype=bool)
    roots, member_of = np.unique(groups, return_inverse=True)  # [G], [D]
    if len(roots) == 1:
        last = np.arange(len(ids)) == int(np.argmax(parts))
        return last & (len(set(parts)) > 1)
    group_bytes = np.bincount(member_of, weights=sizes)  # [G]
    wanted = share * group_bytes.sum()
    by_draw = np.argsort([draw(ids[root]) for root in roots.tolist()], kind="stable")
    fitting = by_draw[group_bytes[by_draw] <= 2 * wanted]
    before = np.cumsum(group_bytes[fitting]) - group_bytes[fitting]  # held out when its turn comes
    chosen = fitting[before < wanted]
    if not len(chosen):
        chosen = by_draw[:1]
    return np.isin(member_of, chosen)


def draw(identity: str, salt: str = "split") -> float:
    """A number in [0, 1) that is a function of the id: the same for ever, and even over many ids."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "little") / 2**64


# A line end after an empty line, before text that is not indented.
_BORDER = re.compile(r"\n\n(?=\S)")


def cut(text: str, limit: int) -> list[str]:
    """Cut a long text into parts of at most `limit` characters; joined they are the text.

    A cut is made in the second half of the allowed length, at the last good place there: before a line that is
    not indented and follows an empty one (a chapter, a top-level function), else after a line, else anywhere.
    """
    parts = []
    while len(text) > limit:
        borders = [match.end() for match in _BORDER.finditer(text, limit // 2, limit)]
        at = borders[-1] if borders else text.rfind("\n", limit // 2, limit) + 1 or limit
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text] if text else parts
