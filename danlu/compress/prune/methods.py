"""The table of methods: what each does, how much it takes away when nobody says, and whether it needs text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from danlu.core.errors import UserError

if TYPE_CHECKING:
    from danlu.compress.prune.pattern import Pattern
    from danlu.compress.prune.pruner import Pruner
    from danlu.model.config import ModelConfig

Make = Callable[["ModelConfig", "Pattern"], "Pruner"]


@dataclass(frozen=True)
class Method:
    """`make` sets the method to a model. `calibrated`: it looks at text. `patterns`: it takes more than a share."""

    summary: str
    share: float
    calibrated: bool
    patterns: bool
    make: Make


def _zeros(criterion: str) -> Make:
    def make(config: ModelConfig, pattern: Pattern) -> Pruner:
        from danlu.compress.prune.criteria import CRITERIA
        from danlu.compress.prune.pruner import Zeros

        return Zeros(config, CRITERIA[criterion], pattern)

    return make


def _parts(name: str) -> Make:
    def make(config: ModelConfig, pattern: Pattern) -> Pruner:
        from danlu.compress.prune import structure

        return getattr(structure, name)(config, pattern.share)

    return make


def _low_rank(config: ModelConfig, pattern: Pattern) -> Pruner:
    from danlu.compress.prune.low_rank import LowRank

    return LowRank(config, pattern.share)


METHODS: Mapping[str, Method] = {
    "magnitude": Method("the smallest weights become 0", 0.5, False, True, _zeros("magnitude")),
    "wanda": Method("the smallest weights times the norm of their inputs become 0", 0.5, True, True, _zeros("wanda")),
    "sparsegpt": Method("the cheapest weights become 0, the rest make up", 0.5, True, True, _zeros("sparsegpt")),
    "heads": Method("the groups of heads that add least go", 0.25, True, False, _parts("HeadGroups")),
    "channels": Method("the inner channels that add least go", 0.2, True, False, _parts("Channels")),
    "layers": Method("the layers that turn the hidden state least go", 0.2, True, False, _parts("Layers")),
    "svd": Method("each matrix becomes two of low rank", 0.2, True, False, _low_rank),
}


def choose(name: str, share: float | None, pattern: str) -> tuple[Method, Pattern]:
    """The row of the table and what it takes away. Raises UserError that says what there is, or what does not fit."""
    from danlu.compress.prune.pattern import Pattern

    found = METHODS.get(name)
    if found is None:
        raise UserError(f'there is no method "{name}" to prune with', "available: " + ", ".join(METHODS))
    if pattern and not found.patterns:
        raise UserError(f'"{name}" takes whole parts away and knows no pattern', "give a share")
    if pattern and share is not None:
        raise UserError("a share and a pattern are two answers to one question", "give one of them")
    share = found.share if share is None else share
    if not 0 < share < 1:
        raise UserError(f"a share of {share:g} is not between 0 and 1", "0.5 takes half away")
    return found, Pattern.parse(share, pattern)
