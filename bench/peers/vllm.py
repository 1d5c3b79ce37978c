"""vLLM on the CPU in bfloat16: its engine in this process, driven step by step."""

from __future__ import annotations

import os

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine here, not behind a socket
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

from bench.peers import Peer, main


class Vllm(Peer):
    package = "vllm-cpu"

    def __init__(self, path: str) -> None:
        arguments = EngineArgs(
            model=path, dtype="bfloat16", max_model_len=4096, max_num_seqs=64, enable_prefix_caching=True, seed=0
        )
        self.engine = LLMEngine.from_engine_args(arguments)
        self.path = path
        self.keys: dict[str, int] = {}
        self.number = 0

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        self.keys[self._add(prompt, max_tokens=new)] = key

    def step(self) -> list[tuple[int, int]]:
        outputs = self.engine.step()
        return [(self.keys[output.request_id], token) for output in outputs for token in output.outputs[0].token_ids]

    def nats(self, ids: list[int]) -> float:
        self._add(ids, max_tokens=1, prompt_logprobs=0)
        total = 0.0
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.prompt_logprobs:
                    pairs = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
                    total = -sum(place[token].logprob for token, place in pairs)
        return total

    def weight_bytes(self) -> int:
        from safetensors import safe_open

        total = 0
        for name in os.listdir(self.path):
            if name.endswith(".safetensors"):
                with safe_open(os.path.join(self.path, name), "pt") as file:
                    total += sum(2 * file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
        return total

    def _add(self, ids: list[int], **settings: object) -> str:
        self.number += 1
        sampling = SamplingParams(
            temperature=0.0, ignore_eos=True, output_kind=RequestOutputKind.DELTA, detokenize=False, **settings
        )
        self.engine.add_request(str(self.number), {"prompt_token_ids": ids}, sampling)
        return str(self.number)


if __name__ == "__main__":
    main(Vllm)
