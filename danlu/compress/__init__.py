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
| `quantize`    | the stage and the table of ways to round                                            |
| `mixed`       | which matrices get more bits, under a budget; `sensitivity`: what each loses       |
| `qat`         | trained to be rounded; `straight_through` does it                                   |
| `training`    | what `qat` and `recover` share                                                      |
| `gptq`        | rounding so that outputs stay                                                       |
| `refine`      | scales and numbers looked at again when all are there                               |
| `smoothing`   | AWQ, SmoothQuant: a factor moved from inputs to weights                             |
| `hqq`         | scales from the weights alone                                                       |
| `prune/`      | the same for pruning, and each way of it                                            |
| `lowrank`     | a matrix as a product of two                                                        |
| `recover`     | what pruning took, trained back                                                     |
| `vocabulary`  | a model without the tokens that nobody writes                                       |
| `calibration` | text that shows what the matrices are fed                                           |
| `layers`      | that text on its way through a model, and what every matrix sees of it              |
| `blockwise`   | a model changed block by block, in the memory of one block, resumable               |
| `export`      | a model for other programs                                                          |

What the numbers of a quantised matrix mean is in `danlu.kernels.grid`, how they are stored in `danlu.model.quantized`.
"""

from __future__ import annotations

STAGES: tuple[str, ...] = ("prune", "qat", "quantize", "recover", "vocabulary")
