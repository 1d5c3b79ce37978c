"""danlu's engine as a contestant, as `danlu serve` starts it."""

from __future__ import annotations

from bench.peers import Peer, main
from danlu.engine import Engine
from danlu.engine.limits import weight_bytes
from danlu.engine.measure import EnginePlayer


class Danlu(EnginePlayer, Peer):
    package = "danlu"

    def __init__(self, path: str, dtype: str | None = None) -> None:
        super().__init__(Engine(path, dtype=dtype))

    def keep_prefixes(self, keep: bool) -> None:
        self.engine.scheduler.prefix_cache = keep

    def weight_bytes(self) -> int:
        return weight_bytes(self.engine.model)

    def stored_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.engine.model.state_dict().values())

    def nats(self, ids: list[int]) -> float:
        """Read in as a prompt is, in steps of at most the engine's budget."""
        (logprobs,) = self.engine.score([ids])
        return -sum(one.logprob for one in logprobs)


if __name__ == "__main__":
    main(Danlu)
