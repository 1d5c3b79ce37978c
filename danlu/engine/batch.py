"""A step as flat rows: what every runner computes, whoever asked for it.

The step {A: 1, B: 1, C: 3} becomes one row of five tokens, those that decode first:

    ids         [5]    a7 b4 c0 c1 c2          every linear layer sees one matrix of 5 rows
    positions   [5]    7  4  0  1  2
    spans              A: row 0, 1 token    B: row 1, 1 token    C: row 2, 3 tokens
    rows        [R]    0 1 4                   the rows whose logits are wanted

Only attention knows that these are three sequences, and a runner knows nothing else: no requests, no sampling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from danlu.engine.request import Sequence
from danlu.engine.scheduler import Step

if TYPE_CHECKING:
    from danlu.engine.adapters import LoadedAdapter


@dataclass(frozen=True)
class Span:
    """Rows `row .. row + n` of the flat batch: the last `n` of the first `length` tokens of one sequence."""

    row: int
    n: int
    length: int
    table: list[int]
    adapter: LoadedAdapter | None = None


@dataclass
class Batch:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(
        self, tokens: list[int], start: int, table: list[int], wanted: int, adapter: LoadedAdapter | None = None
    ) -> None:
        """Tokens of one sequence at positions `start ..`, in the blocks of `table`; logits of the last `wanted`."""
        n = len(tokens)
        self.spans.append(Span(len(self.ids), n, start + n, table, adapter))
        self.ids += tokens
        self.positions += range(start, start + n)
        self.rows += range(len(self.ids) - wanted, len(self.ids))

    def slots(self, block_size: int) -> list[int]:
        """Where the cache keeps each token: block * block_size + offset."""
        return [
            span.table[at // block_size] * block_size + at % block_size
            for span in self.spans
            for at in self.positions[span.row : span.row + span.n]
        ]


@dataclass(frozen=True)
class Wanted:
    """What is read from the logits of one sequence: `n_scored` rows from `row` on are scores of its prompt, the next
    ones are sampled from: one for its last known token (if it is in this step), one more for every draft behind it.
    """

    sequence: Sequence
    row: int
    n_scored: int
    n_sampled: int


def flatten(step: Step) -> tuple[Batch, list[Wanted]]:
    """The batch of a step, and what is wanted of its logits, in the order of their rows."""
    batch, wanted = Batch(), []
    for sequence, n in sorted(step, key=lambda item: (item[1] > 1, item[0].computed)):  # decoding first, by length
        start, known, end = sequence.computed, len(sequence.tokens), sequence.computed + n
        n_sampled = max(0, end - known + 1)
        drafts = sequence.drafts[: n_sampled - 1] if n_sampled else []
        # Scored rows end where the sampled one begins. Some may have been scored before a preemption.
        first = max(start, len(sequence.request.scores))
        n_scored = max(0, min(end, len(sequence.request.prompt_ids) - 1) - first) if sequence.unscored else 0
        if n_scored or n_sampled:
            wanted.append(Wanted(sequence, len(batch.rows), n_scored, n_sampled))
        tokens, adapter = sequence.tokens[start:end] + drafts, sequence.request.adapter
        batch.add(tokens, start, sequence.table, n_scored + n_sampled, adapter)
    return batch, wanted
