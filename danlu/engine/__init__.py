"""The engine room: a model and prompts in, tokens out, for many requests at once.

A request walks: prompt -> tokenizer -> scheduler -> runner -> sampler -> detokeniser -> stream. Each word is a file:

* ``request``     what a person asks for (``Sampling``) and what they get (``Delta``, ``Output``), and a ``Sequence``
* ``kv_cache``    the keys and values of past tokens, in blocks, so that memory is used only for tokens that exist
* ``scheduler``   a step is {sequence: number of tokens} under one budget; no prefill phase, no decode phase
* ``cost``        what steps take, measured, and from that how many tokens of prompts join those that decode
* ``batch``       that step as flat rows
* ``runner``      those rows through the model on torch, attention reading the blocks; ``compiled``: through kernels;
  ``fused``: through those of a GPU; ``graphs``: recorded and played back
* ``adapters``    LoRA adapters by name, and the prefix cache's beginning of each; ``lora`` computes them on torch
* ``pooling``     hidden states -> the vector of a text
* ``sampling``    logits -> the next token of each sequence, each with its own seed
* ``detokenize``  tokens -> text that never splits a character and never shows part of a stop string
* ``engine``      the loop around them, and the counters
* ``parallel``    one model over several processes, as ``cutting`` cuts it; ``replicas``: several engines as one;
  ``child``: a process

The room's door is ``Engine``: ``Engine("path").generate(["def quicksort("], Sampling(max_tokens=64))``.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.engine.engine import Engine
    from danlu.engine.replicas import Replicas
    from danlu.engine.request import Delta, Grammar, Output, Pooling, Request, Sampling, TokenLogprob

STAGES: tuple[str, ...] = ()

_DOORS = {
    "Engine": "engine",
    "Replicas": "replicas",
    "Sampling": "request",
    "Grammar": "request",
    "Pooling": "request",
    "Output": "request",
    "Delta": "request",
    "Request": "request",
    "TokenLogprob": "request",
}

__all__ = [
    "STAGES", "Delta", "Engine", "Grammar", "Output", "Pooling", "Replicas", "Request", "Sampling", "TokenLogprob",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        if name == "Engine":
            _import_torch()
        return getattr(import_module(f"danlu.engine.{_DOORS[name]}"), name)
    raise AttributeError(f"module 'danlu.engine' has no attribute {name!r}")


def _import_torch() -> None:
    """Import torch with the garbage collector asleep, where nobody has imported it yet.

    What it makes, some 240,000 objects, stays to the end. Looking through them for garbage while they come, and once
    more when the process ends, is a quarter of what torch costs a short process; frozen, nobody looks at them again.
    """
    if "torch" in sys.modules:
        return
    asleep = not gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if not asleep:
            gc.enable()
