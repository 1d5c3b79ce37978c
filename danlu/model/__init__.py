"""The model room: what a language model is, and how its weights come in and go out.

One door: `load_model(path)` gives a `Transformer`, `load(path_or_id)` gives it together with its tokenizer,
`save_model(model, path)` writes a directory that transformers, vLLM and llama.cpp's converter also read.

    config.py        ModelConfig: every shape and switch of a decoder, in one typed record
    rope.py          rotary positions and their four ways to stretch (linear, dynamic, llama3, YaRN)
    layers.py        linear, embedding, norms, MLPs
    attention.py     attention, and the contexts that say who may look at whom
    transformer.py   the decoder, all of initialisation, the count of parameters and FLOPs
    families.py      GPT-2, Llama, Mistral, Qwen2, Qwen3 as tables of names and config keys
    hub.py           the Hugging Face directory layout, in and out
    presets.py       pico, nano, micro, small, base: shapes to train from scratch
    vocabulary.py    rows for the tokens of an extended tokenizer
    adapter.py       LoRA adapters in PEFT's layout, and W + scale B A
    gguf/            llama.cpp's files
    onnx/            models as ONNX files
    importing.py, quantized.py   the import stage, int8 modules

The room knows nothing about training, serving or caches: those hand a *context* to the forward pass
(see attention.py) and the same layers serve all of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig as ModelConfig
    from danlu.model.hub import load as load
    from danlu.model.hub import load_model as load_model
    from danlu.model.hub import save_model as save_model
    from danlu.model.presets import resolve_model as resolve_model
    from danlu.model.transformer import Transformer as Transformer

STAGES = ("importing", "vocabulary")

_EXPORTS = {
    "ModelConfig": "config",
    "Transformer": "transformer",
    "load": "hub",
    "load_model": "hub",
    "save_model": "hub",
    "resolve_model": "presets",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
