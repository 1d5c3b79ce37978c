"""Linear layers with weights of 8 and 4 bits against the same weights written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels.grid import fit, pack
from danlu.kernels.quantized import quantized_linear
from tests.kernels.on_gpu import ATOL, DEVICE, FLOATS, kernels_on, matrix, random  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


def weights(bits: int, n: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """As model/quantized.py keeps them: int8 [N, K] and scale [N, 1], or int32 [N, K / 8] and half [N, K / 32]."""
    plain = random(n, k, seed=seed).cpu() * k**-0.5
    found = fit(plain, bits, None if bits == 8 else 32)
    if bits == 8:
        return found.values.to(DEVICE), found.scale.to(DEVICE)
    return pack(found.values).to(DEVICE), found.scale.half().to(DEVICE)


def check(bits: int, rows: int, n: int, k: int, dtype: torch.dtype = torch.float32, bias: bool = False) -> None:
    x, (weight, scale) = random(rows, k, dtype=dtype, seed=1), weights(bits, n, k)
    added = random(n, dtype=dtype, seed=2) if bias else None
    got = matrix.quantized_linear(x, weight, scale, added)
    wanted = matrix.quantized_linear_reference(x, weight, scale, added)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, atol=ATOL[dtype], rtol=1e-2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 16, 17])
def test_rows_and_dtypes(rows: int, bits: int, dtype: torch.dtype) -> None:
    check(bits, rows, 40, 160, dtype, bias=True)


@pytest.mark.parametrize("bits", [8, 4])
def test_columns_in_several_splits(bits: int) -> None:
    check(bits, 3, 33, matrix.SPLIT_K + 32, torch.float16, bias=True)
    check(bits, 2, 7, matrix.SPLIT_K, torch.float16)


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 150), st.integers(1, 5), st.sampled_from([8, 4]), st.booleans())
def test_any_size(rows: int, n: int, groups: int, bits: int, bias: bool) -> None:
    check(bits, rows, n, 32 * groups, bias=bias)


def test_eight_bits_need_no_groups() -> None:
    check(8, 5, 9, 37)
    check(8, 70, 1, 1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [16, 80])
def test_bits_do_not_depend_on_the_other_rows(bits: int, rows: int) -> None:
    width = matrix.SPLIT_K + 64
    x, (weight, scale) = random(rows, width, dtype=torch.float16, seed=1), weights(bits, 40, width)
    all_rows = matrix.quantized_linear(x, weight, scale)
    fewer = slice(0, rows - 9)
    assert torch.equal(matrix.quantized_linear(x[fewer], weight, scale), all_rows[fewer])


def test_leading_dimensions_and_gaps_between_rows() -> None:
    weight, scale = weights(4, 24, 64)
    x = random(2, 3, 128)[..., ::2]
    got = matrix.quantized_linear(x, weight, scale)
    torch.testing.assert_close(got, matrix.quantized_linear_reference(x, weight, scale))
    assert got.shape == (2, 3, 24)
    assert matrix.quantized_linear(x[:0], weight, scale).shape == (0, 3, 24)


def test_linear_layers_take_this_route_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = matrix.quantized_linear
    monkeypatch.setattr(matrix, "quantized_linear", lambda *args: calls.append(1) or real(*args))
    x = random(4, 64)
    weight, scale = weights(8, 24, 64)
    torch.testing.assert_close(quantized_linear(x, weight, scale), matrix.quantized_linear_reference(x, weight, scale))
    packed, group_scale = weights(4, 24, 64)
    wanted = matrix.quantized_linear_reference(x, packed, group_scale)
    torch.testing.assert_close(quantized_linear(x, packed, group_scale), wanted)
    whole_rows = group_scale[:, :1].contiguous()  # a group of 64: its scale stands for two of the kernel's
    wanted = matrix.quantized_linear_reference(x, packed, whole_rows)
    torch.testing.assert_close(quantized_linear(x, packed, whole_rows), wanted)
    assert len(calls) == 3
    x.requires_grad_()
    for y in (quantized_linear(x, weight, scale), quantized_linear(x, packed, group_scale)):
        y.sum().backward()
    assert len(calls) == 3 and x.grad is not None and x.grad.abs().sum() > 0


def test_wrong_input_is_named() -> None:
    weight, scale = weights(4, 24, 64)
    with pytest.raises(ValueError, match=r"weight is \[24, 8\], it must be \[24, 4\]"):
        matrix.quantized_linear(random(2, 32), weight, scale)
    with pytest.raises(ValueError, match=r"scale is \[24, 1\], it must be \[24, 2\]"):
        matrix.quantized_linear(random(2, 64), weight, scale[:, :1].contiguous())
    with pytest.raises(ValueError, match="not a multiple of 32"):
        matrix.quantized_linear(random(2, 40), weight[:, :5].contiguous(), scale)
    with pytest.raises(ValueError, match=r"weight is torch\.float32, it must be torch\.int8 or torch\.int32"):
        matrix.quantized_linear(random(2, 64), random(24, 64), scale)
    with pytest.raises(ValueError, match=r"bias is \[23\]"):
        matrix.quantized_linear(random(2, 64), weight, scale, random(23))
