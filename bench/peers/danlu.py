"""danlu's engine as a contestant, as `danlu serve` starts it."""

from __future__ import annotations

import torch

from bench.peers import Peer, main
from danlu.engine import Engine
from danlu.engine.compiled import CompiledRunner
from danlu.engine.limits import weight_bytes
from danlu.engine.measure import EnginePlayer


class Danlu(EnginePlayer, Peer):
    package = "danlu"

    def __init__(self, path: str) -> None:
        super().__init__(Engine(path))

    def keep_prefixes(self, keep: bool) -> None:
        self.engine.scheduler.prefix_cache = keep

    def weight_bytes(self) -> int:
        return weight_bytes(self.engine.model)

    def nats(self, ids: list[int]) -> float:
        """Read the ids in as the engine reads a prompt, in steps of at most its budget, with the logits of all rows."""
        runner, cache, table = self.engine.runner, self.engine.cache, list[int]()
        total = 0.0
        budget = self.engine.scheduler.max_batch_tokens
        grown = cache.grow(table, len(ids))
        assert grown, "the cache of an idle engine is too small for a window of text"
        for start in range(0, len(ids), budget):
            end = min(start + budget, len(ids))
            if isinstance(runner, CompiledRunner):
                rows = list(range(end - start))
                spans = [(0, end - start, end)]
                logits, _ = runner.decoder.step(
                    ids[start:end], range(start, end), spans, [table], cache.memory, rows
                )  # fmt: skip
            else:
                with torch.inference_mode():
                    logits = self.engine.model(torch.tensor([ids[:end]]))[0, start:]
            assert logits is not None
            targets = torch.tensor(ids[start + 1 : end + 1])
            total += float(torch.nn.functional.cross_entropy(logits[: len(targets)].float(), targets, reduction="sum"))
        cache.release(table)
        return total


if __name__ == "__main__":
    main(Danlu)
