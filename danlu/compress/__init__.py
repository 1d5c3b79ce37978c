"""The compression room: the same model in fewer bytes.

    model --quantize--> model           (stage `compress.quantize`)
    model --prune--> model              (stage `compress.prune`: weights to zero, heads, channels, layers, low rank)
    pruned model --recover--> model     (stage `compress.recover`: trained on, zeros kept)
    model --qat--> model                (stage `compress.qat`: trained on the grid it is stored on)
    model --vocabulary--> model         (stage `compress.vocabulary`: only the tokens that a corpus uses)

What comes out is a model directory like any other, with a `quantization_config` in its `config.json`; every room that
takes a model takes it. What it cost is not judged here but by `evaluate.compare`, on held-out text.

| file          | what it answers                                                                     |
|---------------|-------------------------------------------------------------------------------------|
| `methods`     | every method by one name, whatever stage does it                                    |
| `quantize/`   | the stage, the table of ways to round, and each of them                             |
| `prune/`      | the same for pruning                                                                |
| `walk/`       | what both share: a text and a model, block by block                                 |
| `recover`     | what pruning took, trained back                                                     |
| `qat`         | trained to be rounded                                                               |
| `training/`   | what these two share                                                                |
| `vocabulary`  | a model without the tokens that nobody writes                                       |
| `export`      | a model for other programs                                                          |

What the numbers of a quantised matrix mean is in `danlu.kernels.grid`, how they are stored in `danlu.model.quantized`.
"""

from __future__ import annotations

STAGES: tuple[str, ...] = ("prune", "qat", "quantize", "recover", "vocabulary")
