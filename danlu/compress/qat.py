"""The stage `compress.qat`: a model trained to be rounded.

    float model + tokens  --->  model in 8 or 4 bits

Rounding after training takes the weights as they are. Here the model is trained as it will be stored: every forward
and backward pass sees the weights on the grid of their scheme (danlu/kernels/grid.py), and the gradient found there
moves the float weights behind them. Rounding has derivative 0 nearly everywhere, so it is passed as if it were not
there, the "straight-through estimator" (Bengio et al., arXiv:1308.3432; for weights: BinaryConnect, arXiv:1511.00363):

    w' = s (clip(round(w / s + z)) - z)         what the model computes with
    w  <- w - lr d loss / d w'                  what is trained;  then w is held within half a step of the levels

A weight near the middle between two levels changes sides after a small move and one at a level stays: the loss decides
which way each is rounded, not the distance. Scales and zero points are those of rounding to nearest, settled before
the first step; what is stored in the end is, to the last bit, what the last validation saw.

Worked example, levels of 1, plain gradient steps of 0.1 for the loss (w'_0 + w'_1 - 1)^2, w = [0.38, 0.45]:
    w' = [0, 0], gradient -2 for both:  w = [0.58, 0.65], w' = [1, 1], gradient 2:  w = [0.38, 0.45], and so on;
    as the learning rate falls to half, 0.05:  w = [0.48, 0.55], w' = [0, 1], loss 0, and there it stays.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from danlu.compress.quantize import QuantizeConfig, plan_for, scheme_of
from danlu.compress.training.further import FurtherConfig, estimate_with, train_further
from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun, stage

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.train.constraint import Constraint
    from danlu.train.loop import Loss

BYTES_EACH = 24.0  # weight, the same rounded, gradient, two moments, the teacher


class QatConfig(FurtherConfig):
    bits: Literal[4, 8] = 4
    group: Literal["row", 32, 64, 128] | None = None  # weights that share a scale; None: a row for 8 bits, 32 for 4
    symmetric: bool = True
    head_bits: Literal[4, 8, 16] = 8  # of embedding and head below 8 bits; 16: left as they are
    distill: float = Field(default=0.0, ge=0, le=1)  # the float model's predictions in the loss; the rest is the text's


@stage("compress.qat", makes="model", takes={"model": "model", "tokens": "tokens"}, estimate=estimate_with(BYTES_EACH))
def qat(config: QatConfig, run: StageRun, model: Artifact, tokens: Artifact) -> dict[str, Any]:
    """Train a float model on the grid it will be stored on, and store it.

    Raises UserError for a width that does not divide into groups, and what `train_further` raises.
    """
    as_rounded = QuantizeConfig(
        method="rtn", bits=config.bits, group=config.group, symmetric=config.symmetric, head_bits=config.head_bits
    )

    def prepare(network: Transformer) -> tuple[Constraint, Loss]:
        from danlu.compress.training.straight_through import Rounded, towards
        from danlu.train.loop import micro_loss

        constraint = Rounded(network, plan_for(as_rounded, scheme_of(as_rounded), network))
        if not config.distill:
            return constraint, micro_loss
        teacher = copy.deepcopy(network).eval().requires_grad_(False)  # as it is now
        return constraint, towards(teacher, config.distill)

    _, metrics = train_further(config, run, model, tokens, prepare)
    size = sum(file.stat().st_size for file in run.out.glob("*.safetensors"))
    return {**metrics, "bits": config.bits, "bytes_after": size}
