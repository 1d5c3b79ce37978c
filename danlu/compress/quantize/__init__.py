"""Quantisation: the same numbers in fewer bits.

    model (+ corpus for calibration)  --compress.quantize-->  model

| file          | what it answers                                                     |
|---------------|---------------------------------------------------------------------|
| `stage`       | the stage `compress.quantize`: its plan of memory, its report       |
| `methods`     | the table of ways to round, and what a person may ask of them       |
| `gptq`        | rounding so that outputs stay                                       |
| `refine`      | scales and numbers looked at again when all are there               |
| `smoothing`   | AWQ, SmoothQuant: a factor moved from inputs to weights             |
| `hqq`         | scales from the weights alone                                       |
| `mixed`       | which matrices get more bits, under a budget                        |
| `tune`        | scales and norms trained when all is rounded                        |
| `sensitivity` | what each matrix loses in each scheme                               |

What the numbers of a quantised matrix mean is in `danlu.kernels.grid`, how they are stored in `danlu.model.quantized`.
"""

from danlu.compress.quantize.methods import METHODS, QuantizeConfig, choose, plan_for, scheme_of
from danlu.compress.quantize.stage import quantize

__all__ = ["METHODS", "QuantizeConfig", "choose", "plan_for", "quantize", "scheme_of"]
