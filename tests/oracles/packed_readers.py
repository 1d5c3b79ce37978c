"""Greedy continuations by the programs that read GPTQ, AWQ and compressed-tensors files; started by packed.py.

    PYTHON packed_readers.py READER DIRECTORY DTYPE REQUEST ANSWER

REQUEST is a JSON file with `prompts` (lists of ids) and `tokens`; ANSWER gets a list of ids for each prompt. Nothing of
danlu is imported: PYTHON belongs to the reader.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

Prompts = list[list[int]]


def by_vllm(directory: str, dtype: str, prompts: Prompts, tokens: int) -> Prompts:
    os.environ.update(
        HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
    )  # fmt: skip
    from vllm import LLM, SamplingParams

    model = LLM(directory, dtype=dtype, max_model_len=512, max_num_seqs=len(prompts), enforce_eager=True, seed=0)
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    answers = model.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    return [list(answer.outputs[0].token_ids) for answer in answers]


def by_gptqmodel(directory: str, dtype: str, prompts: Prompts, tokens: int) -> Prompts:
    """Its kernels in plain torch take float16 and bfloat16 from the file; float32 is set after loading."""
    os.environ.update(HF_HUB_OFFLINE="1", TORCHDYNAMO_DISABLE="1")
    import torch
    from gptqmodel import BACKEND, GPTQModel

    method = json.loads(Path(directory, "config.json").read_text())["quantization_config"]["quant_method"]
    backend = {"gptq": BACKEND.GPTQ_TORCH, "awq": BACKEND.AWQ_TORCH}[method]
    loaded = GPTQModel.load(directory, device="cpu", backend=backend, dtype=torch.float16)
    model = loaded.model.to(getattr(torch, dtype))
    longest = max(map(len, prompts))
    fed = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts])  # [B, T], padded on the left
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    places = (mask.cumsum(1) - 1).clamp_min(0)
    cache, found = None, []
    with torch.inference_mode():
        while len(found) < tokens:
            out = model(fed, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True)
            cache, fed = out.past_key_values, out.logits[:, -1:].argmax(-1)
            found.append(fed)
            mask, places = torch.nn.functional.pad(mask, (0, 1), value=1), places[:, -1:] + 1
    answers: Prompts = torch.cat(found, 1).tolist()
    return answers


READERS: dict[str, Callable[[str, str, Prompts, int], Prompts]] = {"vllm": by_vllm, "gptqmodel": by_gptqmodel}

if __name__ == "__main__":
    del sys.path[0]  # compressed_tensors.py beside this file is not the package of that name
    reader, directory, dtype, request, answer = sys.argv[1:]
    asked = json.loads(Path(request).read_text())
    Path(answer).write_text(json.dumps(READERS[reader](directory, dtype, asked["prompts"], asked["tokens"])))
