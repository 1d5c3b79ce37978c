"""The stage `compress.recover`: what pruning took from a model, trained back.

    pruned model + tokens  --->  model: the same shape and the same zeros, other numbers

What is 0 in the matrices of the blocks when training begins stays 0 (`keep_zeros`). A model that lost channels, heads
or layers has no zeros to keep and is simply trained on; so is one of low rank, factor by factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from danlu.compress.training.further import FurtherConfig, estimate_with, train_further
from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun, stage

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.train.constraint import Constraint
    from danlu.train.loop import Loss

BYTES_EACH = 17.0  # weight, gradient, two moments, whether it is 0


class RecoverConfig(FurtherConfig):
    keep_zeros: bool = True  # False for a model whose zeros are an accident: rounded ones, as from a GGUF file


@stage(
    "compress.recover", makes="model", takes={"model": "model", "tokens": "tokens"}, estimate=estimate_with(BYTES_EACH)
)
def recover(config: RecoverConfig, run: StageRun, model: Artifact, tokens: Artifact) -> dict[str, Any]:
    """Train a pruned model on, its zeros kept.

    Raises what `train_further` raises.
    """
    from danlu.compress.prune.pruner import share_of_zeros

    def prepare(network: Transformer) -> tuple[Constraint, Loss]:
        from danlu.train.constraint import FREE, Zeros
        from danlu.train.loop import micro_loss

        matrices = (parameter for parameter in network.blocks.parameters() if parameter.dim() == 2)
        return (Zeros(matrices) if config.keep_zeros else FREE), micro_loss

    network, metrics = train_further(config, run, model, tokens, prepare)
    return {**metrics, "zeros": share_of_zeros(network)}
