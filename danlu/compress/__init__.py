"""The compression room: the same model in fewer bytes.

    model --quantize--> model           (stage `compress.quantize`)
    model --prune--> model              (stage `compress.prune`: weights to zero, heads, channels, layers, low rank)
    pruned model --recover--> model     (stage `compress.recover`: trained on, zeros kept)
    model --vocabulary--> model         (stage `compress.vocabulary`: only the tokens that a corpus uses)

What comes out is a model directory like any other, with a `quantization_config` in its `config.json`; every room that
takes a model takes it. What it cost is not judged here but by `evaluate.compare`, on held-out text.

| file        | what it answers                                                             |
|-------------|-----------------------------------------------------------------------------|
| `quantize`  | the table of methods, and the stage                                         |
| `prune/`    | the same for pruning, and each way of it                                    |
| `lowrank`   | a matrix as a product of two                                                |
| `recover`   | what pruning took, trained back                                             |
| `vocabulary`| a model without the tokens that nobody writes                               |

The arithmetic of a quantised layer is in `danlu.kernels.int8`, the modules and the file format in
`danlu.model.quantized`.
"""

from __future__ import annotations

from typing import Any

STAGES: tuple[str, ...] = ("prune", "quantize", "recover", "vocabulary")

_EXPORTS = ("METHODS", "quantize", "QuantizeConfig")


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from danlu.compress import quantize as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
