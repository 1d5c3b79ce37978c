"""Whole parts of a model taken away: inner channels, groups of heads, layers. What stays is a normal, smaller model.

Channels and heads are columns of the last matrix of their part (`mlp.down`, `attention.out`), which adds W x to the
residual stream. A part S of the columns is worth what it adds,

    importance(S) = sum over x of |W_S x_S|^2 = tr(W_S H_SS W_S^T),        H = sum over x of x x^T

(for a single channel |W_k|^2 H_kk: its weights and its activation, as in FLAP and the structured form of Wanda). When R
goes, the columns S that stay take over what of it they can: the least squares solution for the output W x is

    W'_S = W_S + W_R H_RS (H_SS + damp)^-1                                 (He et al. 2017, arXiv:1707.06168, eq. 3)

Worked example, one row w = [3, 1, 2], H = [[4, 0, 2], [0, 4, 0], [2, 0, 1]]: channels 0 and 2 come together,
x_0 = 2 x_2. Importances 9 * 4 = 36, 1 * 4 = 4, 4 * 1 = 4. Were channel 2 to go, 0 would take over 2 * 2 / 4 = 1,
w'_0 = 4, and nothing would be lost.

Layers: a block is worth as much as it turns the hidden state, 1 - cos(x before, x after) in the mean over tokens
("block influence" of ShortGPT, arXiv:2403.03853, eq. 1). Worked example: [1, 0] -> [1, 1] has 1 - 1/sqrt(2) = 0.293;
[1, 0] -> [3, 0] has 0 and goes first.

Every layer loses equally many channels or groups: the families have one number for all of them. A key/value head goes
together with the query heads that read it, and the width of a head stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.compress.prune.pruner import Pruner
from danlu.compress.walk.damping import lower_factor
from danlu.compress.walk.layers import Moments, Walk
from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.families import config_to_hf
from danlu.model.transformer import Block, Transformer

DAMP = 0.01  # of the mean diagonal, as in GPTQ
EVEN = 32  # channels that stay are a multiple of this where they were before: what groups of 4 bits and kernels like


class Structured(Pruner):
    """Parts of `size` columns of the matrix `last` go, the same number in each layer."""

    last: str

    def __init__(self, config: ModelConfig, parts: int, size: int, stay: int) -> None:
        super().__init__(config)
        self.parts, self.size, self.stay = parts, size, stay
        self._kept: list[int] = []  # parts of the current block that stay, in order

    def visit(self, block: Block, name: str, inputs: Moments | None) -> None:
        if name != self.last:
            return
        assert inputs is not None
        matrix: Any = block.get_submodule(name)
        worth = part_importance(matrix.weight, inputs.hessian, self.size)
        kept = worth.argsort(descending=True, stable=True)[: self.stay].sort().values
        columns = spread(kept, self.size)
        weight, raised = refit(matrix.weight, inputs.hessian, columns)
        self.damped_again += raised
        matrix.weight.zero_()
        matrix.weight[:, columns] = weight
        self._kept = kept.tolist()

    def facts(self, block: Block) -> dict[str, Any]:
        return {"kept": self._kept, **super().facts(block)}

    def finish(self, model: Transformer, facts: list[dict[str, Any]]) -> Transformer:
        def cut(layer: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
            kept = torch.tensor(facts[layer]["kept"])
            name, columns = f"{self.last}.weight", spread(kept, self.size)
            first, rows = self.rows(kept)
            state[name] = state[name][:, columns]
            return {key: tensor[rows] if key.startswith(f"{first}.") else tensor for key, tensor in state.items()}

        return rebuilt(model, self.after(), range(self.before.n_layers), cut)

    def rows(self, kept: Tensor) -> tuple[str, Tensor]:
        """The matrix that makes the inputs of `last`, and its rows that stay."""
        raise NotImplementedError

    def after(self) -> ModelConfig:
        """The shape of the pruned model."""
        raise NotImplementedError


class Channels(Structured):
    last = "mlp.down"

    def __init__(self, config: ModelConfig, share: float) -> None:
        width = config.intermediate_size
        even = EVEN if width % EVEN == 0 and width > EVEN else 1
        stay = round((1 - share) * width / even) * even
        if not 0 < stay < width:
            raise UserError(
                f"a share of {share:g} of {width} channels, in steps of {even}, leaves {stay}", "choose another share"
            )
        super().__init__(config, width, 1, stay)

    def rows(self, kept: Tensor) -> tuple[str, Tensor]:
        if self.before.mlp == "gelu":
            return "mlp.up", kept
        return "mlp.gate_up", torch.cat([kept, kept + self.parts])

    def after(self) -> ModelConfig:
        return self.before.model_copy(update={"intermediate_size": self.stay})


class HeadGroups(Structured):
    last = "attention.out"

    def __init__(self, config: ModelConfig, share: float) -> None:
        groups = config.n_kv_heads
        stay = groups - round(share * groups)
        if not 0 < stay < groups:
            raise UserError(
                f"a share of {share:g} of {groups} groups of heads (a key and value head, and the query heads that "
                f"read it) leaves {stay}",
                f"choose a share near {1 / groups:.2f}" if groups > 1 else "prune channels or layers",
            )
        self.queries = config.n_heads // groups
        super().__init__(config, groups, self.queries * config.head_dim, stay)
        config_to_hf(self.after())  # GPT-2 has no word for the width of a head: said before the work and not after it

    def rows(self, kept: Tensor) -> tuple[str, Tensor]:
        query, key, _ = self.before.qkv_sizes
        own = spread(kept, self.before.head_dim)
        return "attention.qkv", torch.cat([spread(kept, self.size), query + own, query + key + own])

    def after(self) -> ModelConfig:
        return self.before.model_copy(update={"n_kv_heads": self.stay, "n_heads": self.stay * self.queries})


class Layers(Pruner):
    def __init__(self, config: ModelConfig, share: float) -> None:
        super().__init__(config)
        self.stay = config.n_layers - round(share * config.n_layers)
        if not 0 < self.stay < config.n_layers:
            raise UserError(
                f"a share of {share:g} of {config.n_layers} layers leaves {self.stay}", "choose another share"
            )

    def change(self, block: Block, walk: Walk | None) -> dict[str, Any]:
        assert walk is not None
        before = walk.hidden.clone()
        walk.through(block)
        return {"influence": influence(before, walk.hidden)}

    def finish(self, model: Transformer, facts: list[dict[str, Any]]) -> Transformer:
        layers = self.layers(facts)
        return rebuilt(model, self.after(layers), layers, lambda layer, state: state)

    def layers(self, facts: list[dict[str, Any]]) -> list[int]:
        """The layers that stay, in order."""
        order = sorted(range(len(facts)), key=lambda layer: facts[layer]["influence"], reverse=True)
        return sorted(order[: self.stay])

    def after(self, layers: list[int]) -> ModelConfig:
        slide = self.before.sliding_layers
        moved = None if slide is None else tuple(new for new, old in enumerate(layers) if old in slide)
        return self.before.model_copy(update={"n_layers": len(layers), "sliding_layers": moved})


Cut = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]  # a layer and its tensors -> what is left of them


def rebuilt(model: Transformer, config: ModelConfig, layers: Iterable[int], cut: Cut) -> Transformer:
    """A model of the shape `config` with what is left of these layers, and everything else of `model`."""
    with torch.device("meta"):
        smaller = Transformer(config).eval().to(next(model.parameters()).dtype)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("blocks.")}
    for new, old in enumerate(layers):
        left = cut(old, model.blocks[old].state_dict())
        state |= {f"blocks.{new}.{name}": tensor for name, tensor in left.items()}
    smaller.load_state_dict(state, assign=True)
    return smaller


def part_importance(weight: Tensor, h: Tensor, size: int) -> Tensor:
    """weight [N, K], h [K, K] -> what each of the K / size parts adds to the output, [K / size]."""
    if size == 1:
        return weight.square().sum(0) * h.diagonal()
    starts = range(0, weight.shape[1], size)
    parts = [(weight[:, s : s + size], h[s : s + size, s : s + size]) for s in starts]
    return torch.stack([((w @ own) * w).sum() for w, own in parts])


def refit(weight: Tensor, h: Tensor, kept: Tensor) -> tuple[Tensor, int]:
    """weight [N, K] -> [N, kept]: the columns that stay, with what they can take over of the others; and how often
    damping had to be raised."""
    goes = torch.ones(weight.shape[1], dtype=torch.bool)
    goes[kept] = False
    lower, raised = lower_factor(h[kept][:, kept], DAMP)
    if lower is None:
        return weight[:, kept], raised
    return weight[:, kept] + torch.cholesky_solve(h[kept][:, goes] @ weight[:, goes].T, lower).T, raised


def influence(before: Tensor, after: Tensor) -> float:
    """Hidden states [n, T, D] around a block -> 1 - cos in the mean over tokens."""
    return float(1 - F.cosine_similarity(before.flatten(0, 1), after.flatten(0, 1)).mean())


def spread(parts: Tensor, size: int) -> Tensor:
    """Numbers of parts -> the columns that they are: [0, 2], 2 -> [0, 1, 4, 5]."""
    return (parts[:, None] * size + torch.arange(size)).flatten()
