"""Rotary positions: by hand, the property they exist for, and each stretching at its borders."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.model.config import ModelConfig, RopeScaling
from danlu.model.rope import Rotary, Rotate, frequencies


def config(**changes: object) -> ModelConfig:
    shape = {"vocab_size": 1, "hidden_size": 8, "n_layers": 1, "n_heads": 1, "intermediate_size": 1}
    return ModelConfig(**{**shape, "max_position": 16, "rope_theta": 100.0, **changes})


def turned(x: torch.Tensor, position: int, rotary: Rotary) -> torch.Tensor:
    cos, sin = rotary.tables(torch.tensor([position]), 1, x.device)
    return Rotate.apply(x.view(1, 1, 1, -1), cos, sin).flatten()


def test_a_quarter_turn_by_hand() -> None:
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    x = torch.tensor([3.0, 5.0]).view(1, 1, 1, 2)
    assert Rotate.apply(x, zero, one).flatten().tolist() == [-5.0, 3.0]


def test_frequencies_by_hand() -> None:
    plain, amplitude = frequencies(config())  # hd 8, theta 100: 100 ** (0, -1/4, -1/2, -3/4)
    torch.testing.assert_close(plain, torch.tensor([1.0, 100**-0.25, 0.1, 100**-0.75]))
    assert amplitude == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_only_the_distance_counts(s: int, t: int, shift: int) -> None:
    rotary = Rotary(config())
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(s)).unbind()
    here = turned(q, s, rotary) @ turned(k, t, rotary)
    there = turned(q, s + shift, rotary) @ turned(k, t + shift, rotary)
    torch.testing.assert_close(here, there, atol=1e-3, rtol=0)


def test_the_gradient_is_the_turn_back() -> None:
    rotary = Rotary(config())
    cos, sin = rotary.tables(None, 5, torch.device("cpu"))
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Rotate.apply(x, cos.double(), sin.double()), (x,))
    torch.testing.assert_close(Rotate.apply(Rotate.apply(x, cos, sin), cos, -sin), x, atol=1e-6, rtol=1e-6)


def test_the_cache_grows_and_equals_explicit_positions() -> None:
    rotary = Rotary(config())
    for length in (3, 300, 7):
        cached = rotary.tables(None, length, torch.device("cpu"))
        given_positions = rotary.tables(torch.arange(length), length, torch.device("cpu"))
        for a, b in zip(cached, given_positions, strict=True):
            assert a.shape == b.shape == (length, 1, 4)
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_table_made_while_serving_can_be_used_in_training() -> None:
    rotary = Rotary(config())
    with torch.inference_mode():
        rotary.tables(None, 4, torch.device("cpu"))
    x = torch.randn(1, 4, 1, 8, requires_grad=True)
    Rotate.apply(x, *rotary.tables(None, 4, torch.device("cpu"))).sum().backward()


def test_bfloat16_keeps_far_positions_apart() -> None:
    rotary = Rotary(config())
    x = torch.ones(8, dtype=torch.bfloat16)
    assert not torch.equal(turned(x, 1000, rotary), turned(x, 1001, rotary))
    assert turned(x, 1000, rotary).dtype == torch.bfloat16


def test_linear_is_the_plain_angle_of_a_smaller_position() -> None:
    stretched, _ = frequencies(config(rope_scaling=RopeScaling(type="linear", factor=4)))
    torch.testing.assert_close(stretched * 4, frequencies(config())[0])


def test_dynamic_is_plain_within_the_trained_length_and_slower_beyond() -> None:
    c = config(rope_scaling=RopeScaling(type="dynamic", factor=2))
    plain = frequencies(config())[0]
    assert torch.equal(frequencies(c, 16)[0], plain)
    beyond = frequencies(c, 32)[0]  # theta * (2 * 2 - 1) ** (8 / 6)
    torch.testing.assert_close(beyond, (100 * 3 ** (8 / 6)) ** -(torch.arange(0, 8, 2) / 8))
    assert beyond[0] == 1


def test_llama3_keeps_short_waves_and_divides_long_ones() -> None:
    scaling = RopeScaling(type="llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position=64)
    plain = frequencies(config())[0]  # 10.2, 3.2, 1.02, 0.32 turns over 64 positions
    stretched = frequencies(config(rope_scaling=scaling))[0]
    torch.testing.assert_close(stretched[0], plain[0])
    torch.testing.assert_close(stretched[3], plain[3] / 8)
    assert plain[1] / 8 < stretched[1] < plain[1]


def test_yarn_keeps_the_fastest_divides_the_slowest_and_raises_the_amplitude() -> None:
    scaling = RopeScaling(type="yarn", factor=4, original_max_position=4096)
    c = config(hidden_size=64, rope_theta=10000.0, rope_scaling=scaling)
    stretched, amplitude = frequencies(c)
    plain, _ = frequencies(config(hidden_size=64, rope_theta=10000.0))
    torch.testing.assert_close(stretched[0], plain[0])
    torch.testing.assert_close(stretched[-1], plain[-1] / 4)
    assert amplitude == pytest.approx(0.1 * math.log(4) + 1)
