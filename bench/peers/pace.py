"""AMD PACE in bfloat16: `LLMModel.generate`, its tokens as the streamer gets them."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from pace.llm import LLMModel, SamplingConfig

from bench.peers import Peer, main


class Streamer:
    """Passes on what is generated. The first thing it is given is the prompt."""

    def __init__(self) -> None:
        self.made: queue.Queue[Any] = queue.Queue()
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt:
            self.made.put(int(value))
        self.prompt = False

    def end(self) -> None:
        pass


class Pace(Peer):
    package = "amd-pace"
    alone = "LLMModel.generate() takes one batch that begins together; only its HTTP server, of texts, takes more"

    def __init__(self, path: str) -> None:
        self.model = LLMModel(path, dtype=torch.bfloat16, disable_tqdm=True)

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        self.key, self.streamer = key, Streamer()
        threading.Thread(target=self._generate, args=(self.streamer, prompt, new), daemon=True).start()

    def step(self) -> list[tuple[int, int]]:
        token = self.streamer.made.get()
        if isinstance(token, Exception):
            raise token
        return [(self.key, token)]

    def nats(self, ids: list[int]) -> float:
        sampling = SamplingConfig(max_new_tokens=1, do_sample=False, return_input_logprobs=True)
        logprobs = self.model.generate(torch.tensor([ids]), sampling).input_logprobs[0, :-1].float()  # [T - 1, V]
        return -float(logprobs.gather(1, torch.tensor(ids[1:])[:, None]).sum())

    def weight_bytes(self) -> int:
        parameters = self.model.generator.model.parameters()
        distinct = {parameter.data_ptr(): parameter for parameter in parameters}
        return sum(parameter.numel() * parameter.element_size() for parameter in distinct.values())

    def _generate(self, streamer: Streamer, prompt: list[int], new: int) -> None:
        sampling = SamplingConfig(max_new_tokens=new, do_sample=False, ignore_eos=True)
        try:
            self.model.generate(torch.tensor([prompt]), sampling, text_streamer=streamer)
            streamer.made.put(RuntimeError("it made fewer tokens than it was asked for"))
        except Exception as error:
            streamer.made.put(error)


if __name__ == "__main__":
    main(Pace)
