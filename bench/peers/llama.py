"""llama.cpp through the C interface that llama-cpp-python carries: one batch of many sequences.

The package has no server that batches, so what is scheduled here is what llama.cpp's own server does: each step takes
one token of every sequence that decodes and fills the batch of 2,048 (its default) with prompts. A prompt that begins
like one that is still in memory gets those cells by reference (`llama_memory_seq_cp`) and computes the rest. Memory is
one buffer for all sequences where they share a beginning and one for each where they do not, as llama.h advises.

    python -m bench.peers.llama --quantize SOURCE TARGET TYPE   any GGUF file as Q4_0, Q4_K_M, ..., by llama.cpp itself
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import llama_cpp as C
import numpy as np

from bench.peers import Peer, main
from danlu.engine.measure import Job

BATCH = 2048
GRAIN = 16  # prefixes shorter than this are not worth sharing


@dataclass
class Running:
    key: int
    slot: int  # the sequence number in llama.cpp
    tokens: list[int]
    left: int
    computed: int = 0


class LlamaCpp(Peer):
    package = "llama-cpp-python"

    def __init__(self, path: str) -> None:
        C.llama_backend_init()
        self.model = C.llama_model_load_from_file(path.encode(), C.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {os.path.basename(path)}")
        self.vocabulary = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))
        self.batch = C.llama_batch_init(BATCH, 0, 1)
        self.context = None
        self.shape: tuple[int, int, bool] | None = None

    def prepare(self, jobs: list[Job]) -> None:
        """A context of as many sequences as there are jobs, each long enough; kept when it is already so."""
        longest = max(len(job.prompt) + job.new for job in jobs)
        prefix = {tuple(job.prompt[:GRAIN]) for job in jobs}
        shape = (len(jobs), longest, len(jobs) > 1 and len(prefix) < len(jobs))
        if shape != self.shape:
            if self.context:
                C.llama_free(self.context)
            params = C.llama_context_default_params()
            params.n_seq_max, params.kv_unified = shape[0], shape[2]
            params.n_ctx = shape[0] * -(-longest // 256) * 256
            params.n_batch = BATCH
            params.n_threads = params.n_threads_batch = os.cpu_count() or 1
            self.context = C.llama_init_from_model(self.model, params)
            if not self.context:
                raise RuntimeError(f"llama.cpp has no memory for {shape[0]} sequences of {longest} tokens")
            self.shape = shape
        self.memory = C.llama_get_memory(self.context)
        C.llama_memory_clear(self.memory, False)
        self.running: list[Running] = []
        self.held: dict[int, list[int]] = {}  # slot -> tokens in its memory, of sequences that ended

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        used = {one.slot for one in self.running}
        assert self.shape is not None
        free = [slot for slot in range(self.shape[0]) if slot not in used]
        slot = next((slot for slot in free if slot not in self.held), free[0])
        source, shared = self._longest_prefix(prompt)
        if shared < GRAIN or not self.shape[2]:
            shared = 0
        if slot != source or not shared:
            C.llama_memory_seq_rm(self.memory, slot, -1, -1)
        if shared and slot != source:
            C.llama_memory_seq_cp(self.memory, source, slot, 0, shared)
        elif shared:
            C.llama_memory_seq_rm(self.memory, slot, shared, -1)
        self.held.pop(slot, None)
        self.running.append(Running(key, slot, list(prompt), new, shared))

    def step(self) -> list[tuple[int, int]]:
        rows: list[tuple[Running, int]] = []  # whose token is sampled, and its place in the batch
        n = 0
        for one in sorted(self.running, key=lambda one: len(one.tokens) - one.computed):  # those that decode first
            end = min(len(one.tokens), one.computed + BATCH - n)
            for at in range(one.computed, end):
                last = at == len(one.tokens) - 1
                self._put(n, one.tokens[at], at, one.slot, last)
                if last:
                    rows.append((one, n))
                n += 1
            one.computed = end
        self._decode(n)
        made = []
        for one, row in rows:
            token = int(self._logits(row).argmax())
            one.tokens.append(token)
            one.left -= 1
            made.append((one.key, token))
            if not one.left:
                self.running.remove(one)
                self.held[one.slot] = one.tokens[:-1]
        return made

    def nats(self, ids: list[int]) -> float:
        self.prepare([Job(ids, 1)])
        for at, token in enumerate(ids):
            self._put(at, token, at, 0, True)
        self._decode(len(ids))
        total = 0.0
        for at, target in enumerate(ids[1:]):
            logits = self._logits(at).astype(np.float64)
            top = logits.max()
            total += float(np.log(np.exp(logits - top).sum()) + top - logits[target])
        return total

    def weight_bytes(self) -> int:
        return int(C.llama_model_size(self.model))

    def _longest_prefix(self, prompt: list[int]) -> tuple[int, int]:
        """(slot, length) of the longest beginning of `prompt` in memory. Its last token is always computed."""
        candidates = {**self.held, **{one.slot: one.tokens[: one.computed] for one in self.running}}
        best = (0, 0)
        for slot, tokens in candidates.items():
            limit = min(len(tokens), len(prompt) - 1)
            length = next((at for at in range(limit) if tokens[at] != prompt[at]), limit)
            best = max(best, (slot, length), key=lambda item: item[1])
        return best

    def _put(self, row: int, token: int, position: int, slot: int, wanted: bool) -> None:
        batch = self.batch
        batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, position, 1
        batch.seq_id[row][0], batch.logits[row] = slot, wanted

    def _decode(self, n: int) -> None:
        self.batch.n_tokens = n
        code = C.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _logits(self, row: int) -> np.ndarray:
        return np.ctypeslib.as_array(C.llama_get_logits_ith(self.context, row), shape=(self.vocabulary,))


def quantize(source: str, target: str, kind: str) -> None:
    params = C.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = getattr(C, f"LLAMA_FTYPE_MOSTLY_{kind}"), True
    if C.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot quantise {source}")


if __name__ == "__main__":
    if sys.argv[1] == "--quantize":
        quantize(*sys.argv[2:5])
    else:
        main(LlamaCpp)
