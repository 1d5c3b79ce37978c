"""A step as flat rows: what every runner computes, whoever asked for it.

The step {A: 1, B: 1, C: 3} becomes one row of five tokens, those that decode first:

    ids         [5]    a7 b4 c0 c1 c2          every linear layer sees one matrix of 5 rows
    positions   [5]    7  4  0  1  2
    spans              A: row 0, 1 token    B: row 1, 1 token    C: row 2, 3 tokens
    rows        [R]    0 1 4                   the rows whose logits are wanted
    hidden_rows [H]                            the rows whose hidden states are wanted, after the last norm

What a sequence wants is the one or the other. Only attention knows that these are three sequences, and a runner knows
nothing else: no requests, no sampling. Its `run` fills the cache and returns (Logits, hidden states [H, D]).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from danlu.engine.request import Sequence
from danlu.engine.scheduler import Step

if TYPE_CHECKING:
    from torch import Tensor

    from danlu.engine.adapters import LoadedAdapter


@dataclass(frozen=True)
class Span:
    """Rows `row .. row + n` of the flat batch: the last `n` of the first `length` tokens of one sequence.

    Of the last `wanted` rows the logits are asked for, or the hidden states.
    """

    row: int
    n: int
    length: int
    table: list[int]
    wanted: int
    adapter: LoadedAdapter | None = None
    hidden: bool = False


@dataclass
class Batch:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    hidden_rows: list[int] = field(default_factory=list)
    values: bool = True  # whether the logits are read, or only the best of each row
    goes_on: bool = False  # whether the next step may well be of the same sequences, with the best token of each

    def add(
        self,
        tokens: list[int],
        start: int,
        table: list[int],
        wanted: int,
        adapter: LoadedAdapter | None = None,
        hidden: bool = False,
    ) -> None:
        """Tokens of one sequence at positions `start ..`, in the blocks of `table`.

        Wanted of the last `wanted` are logits, or hidden states.
        """
        n = len(tokens)
        self.spans.append(Span(len(self.ids), n, start + n, table, wanted, adapter, hidden))
        self.ids += tokens
        self.positions += range(start, start + n)
        rows = self.hidden_rows if hidden else self.rows
        rows += range(len(self.ids) - wanted, len(self.ids))

    def only(self, hidden: bool) -> Batch:
        """The sequences of which hidden states are wanted, or the others, as a batch of their own."""
        part = Batch(values=self.values)
        for span in self.spans:
            if span.hidden == hidden:
                tokens = self.ids[span.row : span.row + span.n]
                part.add(tokens, span.length - span.n, span.table, span.wanted, span.adapter, hidden)
        return part

    def slots(self, block_size: int) -> list[int]:
        """Where the cache keeps each token: block * block_size + offset."""
        return [
            span.table[at // block_size] * block_size + at % block_size
            for span in self.spans
            for at in self.positions[span.row : span.row + span.n]
        ]


@dataclass(frozen=True)
class Logits:
    """Of R rows: the logits, and of each row the largest and its token, which a runner may know on its way.

    `best` is no finite number for a row that has a NaN or no finite logit; of equal logits the first token counts.
    """

    values: Tensor | None  # [R, V]; None where only the best are wanted
    best: list[float]
    best_ids: list[int]

    @property
    def full(self) -> Tensor:
        assert self.values is not None, "the batch did not ask for them"
        return self.values

    @classmethod
    def of(cls, values: Tensor) -> Logits:
        if not len(values):
            return cls(values, [], [])
        best, ids = values.max(dim=-1)  # a NaN is larger than any number
        return cls(values, best.tolist(), ids.tolist())

    def pick(self, rows: list[int]) -> Logits:
        if rows == list(range(len(self.best))):
            return self
        values = self.values[rows] if self.values is not None else None
        return Logits(values, [self.best[row] for row in rows], [self.best_ids[row] for row in rows])


@dataclass(frozen=True)
class Wanted:
    """What is read from the logits of one sequence: `n_scored` rows from `row` on are scores of its prompt, the next
    ones are sampled from: one for its last known token (if it is in this step), one more for every draft behind it.
    Or from the hidden states: `n_pooled` rows from `row` on.
    """

    sequence: Sequence
    row: int
    n_scored: int = 0
    n_sampled: int = 0
    n_pooled: int = 0


def flatten(step: Step) -> tuple[Batch, list[Wanted]]:
    """The batch of a step, and what is wanted of its results, in the order of their rows."""
    batch, wanted = Batch(values=False), []
    for sequence, n in sorted(step, key=lambda item: (item[1] > 1, item[0].computed)):  # decoding first, by length
        start, known, end = sequence.computed, len(sequence.tokens), sequence.computed + n
        adapter, pool = sequence.request.adapter, sequence.request.pool
        if pool is not None:
            n_pooled = pool.wanted(start, end, known)
            if n_pooled:
                wanted.append(Wanted(sequence, len(batch.hidden_rows), n_pooled=n_pooled))
            batch.add(sequence.tokens[start:end], start, sequence.table, n_pooled, adapter, hidden=True)
            continue
        n_sampled = max(0, end - known + 1)
        drafts = sequence.drafts[: n_sampled - 1] if n_sampled else []
        # Scored rows end where the sampled one begins. Some may have been scored before a preemption.
        first = max(start, len(sequence.request.scores))
        n_scored = max(0, min(end, len(sequence.request.prompt_ids) - 1) - first) if sequence.unscored else 0
        if n_scored or n_sampled:
            wanted.append(Wanted(sequence, len(batch.rows), n_scored, n_sampled))
            batch.values |= n_scored > 0 or sequence.sampling.reads_logits
        batch.add(sequence.tokens[start:end] + drafts, start, sequence.table, n_scored + n_sampled, adapter)
    return batch, wanted
