"""OpenVINO GenAI: its continuous batching, with paged attention, on a GGUF file that it reads itself."""

from __future__ import annotations

import os

import numpy as np
import openvino as ov
import openvino_genai as genai

from bench.peers import Peer, main


class OpenVino(Peer):
    package = "openvino-genai"

    def __init__(self, path: str) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB
        scheduler.enable_prefix_caching = True
        self.path = path
        self.pipe = genai.ContinuousBatchingPipeline(path, scheduler, "CPU")
        self.handles: dict[int, genai.GenerationHandle] = {}
        self.number = 0

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        self.handles[key] = self._add(prompt, max_new_tokens=new, ignore_eos=True)

    def step(self) -> list[tuple[int, int]]:
        self.pipe.step()
        made = []
        for key, handle in list(self.handles.items()):
            while handle.can_read():
                made += [(key, int(token)) for output in handle.read().values() for token in output.generated_ids]
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del self.handles[key]
        return made

    def nats(self, ids: list[int]) -> float:
        """`echo` gives the log-probabilities of the prompt, the first token's excepted."""
        handle = self._add(ids, max_new_tokens=1, ignore_eos=True, echo=True, logprobs=1)
        while self.pipe.has_non_finished_requests():
            self.pipe.step()
        (output,) = handle.read_all()
        return -float(sum(output.generated_log_probs[1 : len(ids)]))

    def weight_bytes(self) -> int:
        return os.path.getsize(self.path)

    def _add(self, ids: list[int], **settings: object) -> genai.GenerationHandle:
        self.number += 1
        tensor = ov.Tensor(np.array([ids], dtype=np.int64))
        return self.pipe.add_request(self.number, tensor, genai.GenerationConfig(do_sample=False, **settings))


if __name__ == "__main__":
    main(OpenVino)
