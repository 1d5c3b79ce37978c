"""danlu (丹炉): one furnace for the whole life of a language model.

    import danlu

    model, tokenizer = danlu.load_model("path-or-id")        # logits = model(ids)   [B, T] -> [B, T, V]
    engine = danlu.Engine("path-or-id")
    for out in engine.generate(["def quicksort("], danlu.Sampling(max_tokens=64, temperature=0.0)):
        print(out.text)
    danlu.run("quickstart", overrides={"base.budget": "1m"})

These names are the whole public surface; they are loaded when first used, so that importing danlu costs nothing.
The rooms behind them, from the ground up: core, data, tokenizer and kernels, model, train and engine, posttrain
and compress and evaluate, serve, cli.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.api import load_model, run
    from danlu.core.errors import DanluError, UserError
    from danlu.engine import Engine, Output, Sampling

__all__ = ["DanluError", "Engine", "Output", "Sampling", "UserError", "load_model", "run"]

_HOMES = {
    "load_model": "danlu.api",
    "run": "danlu.api",
    "Engine": "danlu.engine",
    "Output": "danlu.engine",
    "Sampling": "danlu.engine",
    "UserError": "danlu.core.errors",
    "DanluError": "danlu.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
