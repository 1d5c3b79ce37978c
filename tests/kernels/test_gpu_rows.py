"""The kernels that work row by row: norm, rotary positions and SwiGLU, each against its reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.on_gpu import ATOL, DEVICE, FLOATS, activation, kernels_on, norm, random, rotary  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 96), (2, 3, 200), (1, 2 * 1500)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype) * 3
    torch.testing.assert_close(activation.swiglu(x), activation.swiglu_reference(x), atol=ATOL[dtype], rtol=1e-2)


def test_swiglu_worked_example() -> None:
    got = activation.swiglu(torch.tensor([[0.0, 2.0, 5.0, -1.0]], device=DEVICE))  # silu(0) * 5, silu(2) * -1
    torch.testing.assert_close(got.cpu(), torch.tensor([[0.0, -2 / (1 + 2.718281828**-2)]]))


def test_no_rows() -> None:
    assert activation.swiglu(random(0, 8)).shape == (0, 4)
    assert norm.add_rms_norm(random(0, 8), None, random(8), 1e-6).shape == (0, 8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_delta", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 48), (1, 2, 576), (2, 1030)])
def test_sum_and_norm(shape: tuple[int, ...], with_delta: bool, dtype: torch.dtype) -> None:
    x, delta = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1) if with_delta else None
    weight = random(shape[-1], seed=2)
    wanted_x = x.clone()
    wanted = norm.add_rms_norm_reference(wanted_x, delta, weight, 1e-5)
    got = norm.add_rms_norm(x, delta, weight, 1e-5)
    torch.testing.assert_close(x, wanted_x, atol=ATOL[dtype], rtol=1e-2)
    torch.testing.assert_close(got, wanted, atol=ATOL[dtype], rtol=2e-2)
    assert with_delta or torch.equal(x, random(*shape, dtype=dtype)), "nothing to add: x stays what it is"


def test_norm_worked_example() -> None:
    x = torch.tensor([[1.0, 3.0]], device=DEVICE)
    got = norm.add_rms_norm(x, torch.tensor([[2.0, 1.0]], device=DEVICE), torch.tensor([1.0, 2.0], device=DEVICE), 0.0)
    torch.testing.assert_close(got.cpu(), torch.tensor([[0.84853, 2 * 1.13137]]), atol=1e-4, rtol=0)
    assert x.tolist() == [[3.0, 4.0]]


@settings(max_examples=12)
@given(st.data())
def test_rotary_and_store(data: st.DataObject) -> None:
    heads, kv_heads = data.draw(st.sampled_from([(1, 1), (3, 1), (4, 2), (7, 1)]), label="heads")
    head_dim = data.draw(st.sampled_from([2, 10, 64, 80]), label="head_dim")
    n, n_slots = data.draw(st.integers(1, 5), label="tokens"), 12
    dtype = data.draw(st.sampled_from(FLOATS), label="dtype")
    slots = torch.tensor(data.draw(st.permutations(range(n_slots)), label="slots")[:n], device=DEVICE)
    rotated, normed = data.draw(st.booleans(), label="rotary"), data.draw(st.booleans(), label="norms")
    angles = random(n, head_dim // 2, seed=1)
    tables = (angles.cos(), angles.sin()) if rotated else None
    norms = (random(head_dim, seed=2), random(head_dim, seed=3), 1e-6) if normed else None
    qkv = random(n, heads + 2 * kv_heads, head_dim, dtype=dtype)
    keys = random(n_slots, kv_heads, head_dim, dtype=dtype, seed=4)
    values = random(n_slots, kv_heads, head_dim, dtype=dtype, seed=5)
    wanted_keys, wanted_values = keys.clone(), values.clone()
    wanted = rotary.rotate_and_store_reference(qkv, wanted_keys, wanted_values, slots, tables, norms)
    got = rotary.rotate_and_store(qkv, keys, values, slots, tables, norms)
    bounds = {"atol": ATOL[dtype], "rtol": 1e-2}
    torch.testing.assert_close(got, wanted, **bounds)
    torch.testing.assert_close(keys, wanted_keys, **bounds)
    assert torch.equal(values, wanted_values), "values are copied"
    others = torch.ones(n_slots, dtype=torch.bool, device=DEVICE)
    others[slots] = False
    assert torch.equal(keys[others], random(n_slots, kv_heads, head_dim, dtype=dtype, seed=4)[others])


def test_reference_turns_as_the_model_does() -> None:
    from danlu.model.config import ModelConfig
    from danlu.model.rope import Rotary, rotate

    config = ModelConfig(vocab_size=8, hidden_size=32, n_layers=1, n_heads=2, intermediate_size=8)
    cos, sin = Rotary(config).tables(torch.tensor([3, 0, 11]), 3, torch.device("cpu"))
    qkv = random(3, 6, 16).cpu()
    keys, values = torch.zeros(3, 2, 16), torch.zeros(3, 2, 16)
    q = rotary.rotate_and_store_reference(qkv, keys, values, torch.arange(3), (cos[:, 0], sin[:, 0]), None)
    torch.testing.assert_close(q, rotate(qkv[:, :2], cos, sin))
    torch.testing.assert_close(keys, rotate(qkv[:, 2:4], cos, sin))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"delta is \[2, 3\], it must be \[2, 4\]"):
        norm.add_rms_norm(random(2, 4), random(2, 3), random(4), 1e-6)
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        norm.add_rms_norm(random(2, 4).double(), None, random(4), 1e-6)
    with pytest.raises(ValueError, match="gate_up has gaps"):
        activation.swiglu(random(4, 8)[:, ::2])
    with pytest.raises(ValueError, match=r"gate_up is \[3, 5\]"):
        activation.swiglu(random(3, 5))
    with pytest.raises(ValueError, match="at least one is needed"):
        rotary.rotate_and_store(random(1, 2, 8), random(4, 1, 8), random(4, 1, 8), torch.tensor([0]), None, None)
    with pytest.raises(ValueError, match=r"slots is \[2\], it must be \[1\]"):
        slots = torch.tensor([0, 1], device=DEVICE)
        rotary.rotate_and_store(random(1, 3, 8), random(4, 1, 8), random(4, 1, 8), slots, None, None)
