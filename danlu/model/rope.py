"""Rotary positions: a query and a key meet at an angle that depends only on how far apart they stand.

Each head's hd numbers are hd/2 pairs (x[i], x[i + hd/2]); at position t the pair i is turned by the angle t * f_i:

    x'[i]        = x[i] cos(t f_i) - x[i + hd/2] sin(t f_i)               f_i = theta ** (-2 i / hd)
    x'[i + hd/2] = x[i + hd/2] cos(t f_i) + x[i] sin(t f_i)

A turn by a followed by a turn by -b is a turn by a - b, so q_s . k_t depends on s - t alone
(RoFormer, arXiv:2104.09864; pairing halves rather than neighbours is the layout of Hugging Face checkpoints).

A model sees only angles up to t_max * f_i in training. To read further, the frequencies are stretched:

    linear    f_i / factor                                        (Chen et al., arXiv:2306.15595)
    dynamic   theta grows with the length n actually read:        ("NTK-aware", r/LocalLLaMA 2023; no paper)
              theta * (factor * n / t_max - (factor - 1)) ** (hd / (hd - 2)),  n = max(n, t_max)
    llama3    waves longer than L / low are divided by factor, those shorter than L / high are kept,
              between them a straight blend (L = trained length)  (Llama 3.1's reference code)
    yarn      the same idea, the blend counted in whole turns over L (beta_fast, beta_slow), and cos and sin
              scaled by 0.1 ln(factor) + 1                        (YaRN, arXiv:2309.00071, eq. 13-15, 22-23)

Angles are computed in float32 always: in bfloat16 position 257 does not exist.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from danlu.model.config import ModelConfig, RopeScaling


class Rotary:
    """Makes the (cos, sin) tables of one model. Not a module: its numbers must not follow model.to(bfloat16)."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.dynamic = config.rope_scaling is not None and config.rope_scaling.type == "dynamic"
        self.inverse_frequencies, self.amplitude = frequencies(config)  # [hd / 2]
        self._cache: dict[torch.device, tuple[Tensor, Tensor]] = {}  # rows 0..n-1 on each device used so far
        self._inverses: dict[torch.device, Tensor] = {}

    def tables(self, positions: Tensor | None, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, float32, shaped to broadcast over heads: [T, 1, hd/2], or [B, T, 1, hd/2] for [B, T] positions.

        `positions` None means 0..length-1, which comes out of a cache. With dynamic scaling the largest position
        of this call sets the frequencies of the whole call.
        """
        if positions is None and not self.dynamic:
            return self._cached(length, device)
        if positions is None:
            positions = torch.arange(length, device=device)
        if not self.dynamic:
            return self._compute(positions, self._inverse(device))
        inverse, _ = frequencies(self.config, int(positions.max()) + 1)
        return self._compute(positions, inverse.to(device))

    def _inverse(self, device: torch.device) -> Tensor:
        """The frequencies on `device`; copied once, for a copy cannot be part of a recorded step (engine/graphs.py)."""
        if device not in self._inverses:
            with torch.inference_mode(False):
                self._inverses[device] = self.inverse_frequencies.to(device)
        return self._inverses[device]

    def _cached(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        found = self._cache.get(device)
        if found is None or found[0].shape[0] < length:
            rows = max(256, 1 << (length - 1).bit_length())  # powers of two: a growing prompt rebuilds it rarely
            with torch.inference_mode(False):  # a table born in inference mode could not enter autograd later
                found = self._compute(torch.arange(rows, device=device), self._inverse(device))
            self._cache[device] = found
        return found[0][:length], found[1][:length]

    def _compute(self, positions: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].float() * inverse  # [..., hd/2]
        cos, sin = angles.cos(), angles.sin()
        if self.amplitude != 1.0:
            cos, sin = cos * self.amplitude, sin * self.amplitude
        return cos.unsqueeze(-2), sin.unsqueeze(-2)


class Rotate(torch.autograd.Function):
    """Turns [..., T, heads, hd] by (cos, sin). The backward pass is the same turn by the opposite angle.

    Written as a Function because autograd of the plain formula keeps four copies of the input and adds four
    passes over memory; this one keeps only the tables. Example, hd 2, a quarter turn: (3, 5) -> (-5, 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [..., T, heads, hd] by the tables of `Rotary`."""
    return Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _turn(x, cos, sin)  # apply has its own cost


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    in_place = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    if not in_place:  # a narrow dtype is rounded once, at the end; a compiler fuses the formula itself
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def frequencies(config: ModelConfig, length: int = 0) -> tuple[Tensor, float]:
    """The angle each pair turns per position, [hd/2] float32 on the CPU, and the factor on cos and sin.

    `length` is the number of positions in use; only dynamic scaling looks at it.
    """
    scaling, dim = config.rope_scaling, config.head_dim
    base = config.rope_theta
    if scaling is not None and scaling.type == "dynamic":
        # hd 2 has no exponent hd / (hd - 2); its single pair turns at speed 1 whatever the base
        stretch = scaling.factor * max(length, config.max_position) / config.max_position - (scaling.factor - 1)
        base = base * stretch ** (dim / max(dim - 2, 1))
    steps = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    plain = 1.0 / (base**steps)  # [hd/2], from 1 down to about 1 / theta
    if scaling is None or scaling.type == "dynamic":
        return plain, 1.0
    if scaling.type == "linear":
        return plain / scaling.factor, 1.0
    trained = scaling.original_max_position or config.max_position
    if scaling.type == "llama3":
        return _llama3(plain, scaling, trained), 1.0
    return _yarn(plain, scaling, trained, config.rope_theta, dim), _yarn_amplitude(scaling)


def _llama3(plain: Tensor, scaling: RopeScaling, trained: int) -> Tensor:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    assert low is not None and high is not None
    turns = trained * plain / (2 * math.pi)  # whole turns of each pair over the trained length
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: short wave, kept; 0: long wave, divided
    return plain * (keep + (1 - keep) / scaling.factor)


def _yarn(plain: Tensor, scaling: RopeScaling, trained: int, theta: float, dim: int) -> Tensor:
    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes so many turns over the trained length."""
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast or 32.0), pair_with(scaling.beta_slow or 1.0)
    if scaling.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp
    divide = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return plain * (1 - divide) + plain / scaling.factor * divide


def _yarn_amplitude(scaling: RopeScaling) -> float:
    def amplitude(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return amplitude(scaling.mscale) / amplitude(scaling.mscale_all_dim)
    return amplitude(1.0)
