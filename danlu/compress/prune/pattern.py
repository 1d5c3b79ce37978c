"""Which weights go: the lowest scores of a matrix, freely or so many of each group.

    share 0.5       the lower half of all scores that are compared with each other
    pattern 2:4     of each 4 weights that are neighbours in a row 2 stay: what sparse tensor cores multiply

Worked example, scores [[4, 1, 3, 2]]: half of the row and 2:4 both give up the 1 and the 2. Of
[[4, 3, 1, 2, 8, 9, 6, 7]] half of the row gives up 1, 2, 3, 4, but 2:4 gives up 1, 2, 6, 7: each group loses its two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.core.errors import UserError


@dataclass(frozen=True)
class Pattern:
    """A share of zeros; with `of`, `kept` of each `of` neighbours stay."""

    share: float
    kept: int = 0
    of: int = 0

    @classmethod
    def parse(cls, share: float, text: str) -> Pattern:
        """From a share, or a pattern such as "2:4". Raises UserError for what is neither."""
        if not text:
            return cls(share)
        found = re.fullmatch(r"(\d+):(\d+)", text)
        kept, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < kept < of:
            raise UserError(f'"{text}" is no pattern of zeros', 'write "2:4": 2 of each 4 neighbours stay')
        return cls(1 - kept / of, kept, of)

    def check(self, columns: int, name: str) -> None:
        """Raises UserError when the groups do not fill the rows of the matrix `name`, or all of a row goes or stays."""
        if not self.of and not 0 < round(self.share * columns) < columns:
            zeros = round(self.share * columns)
            raise UserError(
                f"a share of {self.share:g} makes {zeros} of {columns} weights 0 in a row of {name}",
                "0.5 takes half away",
            )
        if self.of and columns % self.of:
            raise UserError(
                f"the pattern {self.kept}:{self.of} does not divide the {columns} columns of {name}", "take a share"
            )

    def lowest(self, scores: Tensor) -> Tensor:
        """scores [N, K] -> bool [N, K], True where a weight goes; each row is judged by itself, or each group of it."""
        rows, columns = scores.shape
        lines = scores.view(rows, columns // self.of, self.of) if self.of else scores
        count = self.of - self.kept if self.of else round(self.share * columns)
        goes = torch.zeros(lines.shape, dtype=torch.bool)
        goes.scatter_(-1, lines.argsort(dim=-1, stable=True)[..., :count], True)
        return goes.view(rows, columns)

    def lowest_of_all(self, scores: Tensor) -> Tensor:
        """The same with all rows compared with each other; a pattern's groups stay its groups."""
        return self.lowest(scores) if self.of else self.lowest(scores.reshape(1, -1)).view_as(scores)
