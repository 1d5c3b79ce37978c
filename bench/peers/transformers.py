"""Transformers in float32: the oracle of the contest, and the engine most people begin with.

A request is the loop of `generate`, greedy, without what `generate` does around it; so a token can be timed, and it is
never slower than `generate` is.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from bench.peers import Peer, main


class Transformers(Peer):
    package = "transformers"
    alone = "generate() takes one batch, padded to one length and finished together; requests cannot come and go"

    def __init__(self, path: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        self.key, self.input = key, torch.tensor([prompt])
        self.cache = DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        logits = self.model(self.input, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        token = int(logits[0, -1].argmax())
        self.input = torch.tensor([[token]])
        return [(self.key, token)]

    @torch.inference_mode()
    def nats(self, ids: list[int]) -> float:
        logits = self.model(torch.tensor([ids])).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))

    def weight_bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


if __name__ == "__main__":
    main(Transformers)
