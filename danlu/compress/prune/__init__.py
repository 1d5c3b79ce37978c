"""Pruning: a model with fewer numbers, or with numbers that are 0.

    model (+ corpus for calibration)  --compress.prune-->  model

| file        | what it answers                                                                      |
|-------------|--------------------------------------------------------------------------------------|
| `stage`     | the stage `compress.prune`: its config, its report                                   |
| `methods`   | the table of methods, and what a person may ask of them                              |
| `pruner`    | what a method is to that walk; single weights to zero                                |
| `criteria`  | which single weights: magnitude, Wanda, SparseGPT                                    |
| `pattern`   | a share of zeros, or n of m                                                          |
| `structure` | channels, groups of heads, layers                                                    |
| `low_rank`  | a matrix as a product of two                                                         |

How a model is changed block by block, and a killed run goes on, is in `danlu/compress/walk/blockwise.py`. What a pruned
model has lost, `compress.recover` trains back.
"""

from danlu.compress.prune.methods import METHODS
from danlu.compress.prune.stage import PruneConfig, prune

__all__ = ["METHODS", "PruneConfig", "prune"]
