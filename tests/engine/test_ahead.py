"""Steps played ahead under every change of a batch, with a model that shows at once what it has read.

The next token is drawn from a hash of all tokens that the sequence's blocks hold, so a row, a block or a step that
belongs to somebody else gives another answer. There are four tokens: that two rows have the same one proves nothing.
"""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from danlu.engine import Engine, Request, Sampling
from danlu.engine.batch import Batch, Logits
from danlu.engine.graphs import DecodeGraphs, Found, Inputs, Play
from danlu.kernels.gpu.batch import HEADER
from tests.engine.models import make_model
from tests.kernels.on_gpu import best

VOCABULARY = 4


def follows(tokens: list[int]) -> int:
    return sha256(bytes(tokens)).digest()[0] % VOCABULARY


def answer(prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(follows(tokens))
    return tokens[len(prompt) :]


class Reader:
    """A runner whose cache keeps, in each slot, the token that was computed there."""

    def __init__(self, n_slots: int, block_size: int) -> None:
        self.kept, self.block_size, self.played = [-1] * n_slots, block_size, 0
        self.graphs = DecodeGraphs(self.decode, block_size, torch.device("cpu"), self.record)

    def record(self, compute: Play) -> Play:
        def play() -> None:
            self.played += 1
            compute()

        return play

    def next_token(self, table: list[int], length: int) -> int:
        size = self.block_size
        return follows([self.kept[table[at // size] * size + at % size] & 255 for at in range(length)])

    def decode(self, inputs: Inputs) -> Found:
        lines = inputs.paged.lines
        for token, slot in zip(inputs.ids.tolist(), inputs.slots.tolist(), strict=True):
            if slot >= 0:
                self.kept[slot] = token
        ids = [self.next_token(line[HEADER:], line[2]) if line[1] else 0 for line in lines.tolist()]
        found = torch.tensor([[0] * len(ids), ids], dtype=torch.int32)
        best.follow_reference(found, inputs.ids, inputs.positions, inputs.slots, lines, self.block_size)
        return Found(torch.eye(VOCABULARY)[ids], found)

    def run(self, batch: Batch) -> tuple[Logits, Tensor]:
        logits = self.graphs.run(batch)
        if logits is None:
            for token, slot in zip(batch.ids, batch.slots(self.block_size), strict=True):
                self.kept[slot] = token
            ends = [(span, span.length - span.wanted + 1 + i) for span in batch.spans for i in range(span.wanted)]
            logits = Logits.of(torch.eye(VOCABULARY)[[self.next_token(span.table, end) for span, end in ends]])
        return logits, torch.empty(0)


def engine_of(choice: random.Random, block_size: int) -> Engine:
    e = Engine(
        (make_model("gqa"), None),
        block_size=block_size,
        max_sequences=choice.choice([2, 3, 5]),
        max_batch_tokens=choice.choice([2, 6, 16, 64]),
        kv_bytes=256 * choice.choice([40, 48, 80, 400]),
        prefix_cache=choice.random() < 0.7,
        speculate="lookup" if choice.random() < 0.2 else None,
        stall=None,
    )
    e.scheduler.ahead = True
    e.runner = Reader(e.cache.capacity, block_size)  # type: ignore[assignment]
    return e


@pytest.mark.parametrize("seed", range(40))
def test_any_schedule_gives_each_request_its_own_answer(seed: int) -> None:
    """Prompts that share beginnings, some exactly a block and a token longer; stops, draws, cancels, preemptions."""
    choice = random.Random(seed)
    size = choice.choice([2, 4, 8])
    e = engine_of(choice, size)
    wanted: list[tuple[Request, list[int]]] = []
    beginning = [choice.randrange(VOCABULARY) for _ in range(20)]
    cancelled = set()
    for _ in range(choice.randint(4, 12)):
        prompt = beginning[: choice.choice([1, 3, size, size + 1, 2 * size, 2 * size + 1, 9])]
        if wanted and choice.random() < 0.5:
            other, known = choice.choice(wanted)
            prompt = [*other.prompt_ids, *known][: choice.choice([size + 1, 2 * size + 1, 3 * size + 1, 13])]
        n = choice.randint(1, 16)
        own = answer(prompt, n)
        settings: dict[str, object] = {"temperature": 0, "max_tokens": n}
        kind = choice.choice(["plain", "plain", "plain", "stop", "logprobs"])
        if kind == "stop":
            stop = choice.choice(own)
            own, settings["stop_token_ids"] = own[: own.index(stop) + 1], [stop]
        elif kind == "logprobs":
            settings["logprobs"] = 1
        request = e.submit(prompt, Sampling(**settings), priority=choice.randint(0, 2))  # type: ignore[arg-type]
        wanted.append((request, own))
        for _ in range(choice.randint(0, 6)):
            e.step()
            e.scheduler.check()
            if choice.random() < 0.05:
                gone = choice.choice(wanted)[0]
                cancelled.add(gone.id)
                e.cancel(gone.id)
    while e.has_work:
        e.step()
        e.scheduler.check()
    e.cache.check([])
    for request, own in wanted:
        if request.id not in cancelled:
            assert list(request.outputs()[0].token_ids) == own


def test_rows_that_come_in_another_order() -> None:
    """Two sequences change places while they go on; with the same last token, only their order tells them apart."""
    size = 4
    reader = Reader(16, size)
    tokens = {"a": [0, 0], "b": [1, 2]}
    assert answer(tokens["a"], 3)[2] == answer(tokens["b"], 3)[2]
    assert answer(tokens["a"], 4)[3] != answer(tokens["b"], 4)[3], "the test needs other beginnings"
    tables = {"a": [0, 1], "b": [2, 3]}
    for name, known in tokens.items():
        for at, token in enumerate(known):
            reader.kept[tables[name][0] * size + at] = token
    for order in ("ab", "ab", "ba", "ba"):
        batch = Batch(values=False, goes_on=True)
        for name in order:
            batch.add(tokens[name][-1:], len(tokens[name]) - 1, tables[name], 1)
        logits, _ = reader.run(batch)
        for name, token in zip(order, logits.best_ids, strict=True):
            assert token == follows(tokens[name])
            tokens[name].append(token)
    assert reader.played == 4, "from the second step on each plays the one after it"
