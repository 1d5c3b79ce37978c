"""Linear layers with weights of 8 and 4 bits against the same weights written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels.grid import fit, pack
from danlu.kernels.quantized import quantized_linear
from tests.kernels.on_gpu import ATOL, DEVICE, FLOATS, kernels_on, matrix, random, row  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


def weights(
    bits: int, n: int, k: int, group: int | None = None, symmetric: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """As model/quantized keeps them: int8 [N, K] or int32 [N, K / 8], a scale and a zero a row or a group.

    A group of None: a row for 8 bits, 32 columns for 4.
    """
    plain = random(n, k, seed=0).cpu() * k**-0.5
    found = fit(plain, bits, group or (None if bits == 8 else 32), symmetric)
    scale = found.scale if found.scale.shape[1] == 1 else found.scale.half()
    weight = found.values if bits == 8 else pack(found.values)
    return weight.to(DEVICE), scale.to(DEVICE), None if found.zero is None else found.zero.to(DEVICE)


def check(
    bits: int, rows: int, n: int, k: int, dtype: torch.dtype = torch.float32, bias: bool = False,
    group: int | None = None, symmetric: bool = True,
) -> None:  # fmt: skip
    x, (weight, scale, zero) = random(rows, k, dtype=dtype, seed=1), weights(bits, n, k, group, symmetric)
    added = random(n, dtype=dtype, seed=2) if bias else None
    got = matrix.quantized_linear(x, weight, scale, zero, added)
    wanted = matrix.quantized_linear_reference(x, weight, scale, zero, added)
    assert got.dtype == dtype and (zero is None) == symmetric
    torch.testing.assert_close(got, wanted, atol=ATOL[dtype], rtol=1e-2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 16, 17, 65])
def test_rows_and_dtypes(rows: int, bits: int, dtype: torch.dtype) -> None:
    check(bits, rows, 40, 160, dtype, bias=True)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(8, 32), (8, 96), (4, 64), (4, 192), (8, None)])
@pytest.mark.parametrize("rows", [1, 5, 20, 70])
def test_groups_and_zero_points(rows: int, bits: int, group: int | None, symmetric: bool) -> None:
    check(bits, rows, 40, 192, torch.bfloat16, True, group, symmetric)


@pytest.mark.parametrize("bits", [8, 4])
def test_columns_in_several_splits(bits: int) -> None:
    check(bits, 3, 33, matrix.SPLIT_K + 32, torch.float16, bias=True)
    check(bits, 2, 7, matrix.SPLIT_K, torch.float16)
    check(bits, 1, 7, max(block_k for _, block_k, _ in row.TILES.values()) + 32, torch.float16, symmetric=bits == 8)


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 150), st.integers(1, 5), st.sampled_from([8, 4]), st.booleans())
def test_any_size(rows: int, n: int, groups: int, bits: int, bias: bool) -> None:
    check(bits, rows, n, 32 * groups, bias=bias)


def test_many_rows_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "PIECE", 3 * 64)
    for bits in (8, 4):
        check(bits, 65, 10, 64, torch.float32, True, symmetric=False)


def test_eight_bits_need_no_groups() -> None:
    check(8, 5, 9, 37)
    check(8, 1, 9, 37)
    check(8, 70, 1, 1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("n", "k"), [(40, 160), (7, 1030), (1, 1)])
def test_a_row_of_floats(n: int, k: int, dtype: torch.dtype) -> None:
    x, weight = random(1, k, dtype=dtype, seed=1), random(n, k, dtype=dtype) * k**-0.5
    for bias in (None, random(n, dtype=dtype, seed=2)):
        wanted = row.linear_row_reference(x, weight, bias)
        torch.testing.assert_close(row.linear_row(x, weight, bias), wanted, atol=ATOL[dtype], rtol=1e-2)
    assert row.linear_row(x.view(1, 1, k), weight).shape == (1, 1, n)
    with pytest.raises(ValueError, match=r"x is \[2, "):
        row.linear_row(random(2, k, dtype=dtype), weight)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [16, 64])
def test_bits_do_not_depend_on_the_other_rows(bits: int, rows: int) -> None:
    width = matrix.SPLIT_K + 64
    x, (weight, scale, _) = random(rows, width, dtype=torch.float16, seed=1), weights(bits, 40, width)
    all_rows = matrix.quantized_linear(x, weight, scale)
    fewer = slice(0, rows - 9)
    assert torch.equal(matrix.quantized_linear(x[fewer], weight, scale), all_rows[fewer])


def test_leading_dimensions_and_gaps_between_rows() -> None:
    weight, scale, _ = weights(4, 24, 64)
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
    weight, scale, _ = weights(8, 24, 64)
    torch.testing.assert_close(quantized_linear(x, weight, scale), matrix.quantized_linear_reference(x, weight, scale))
    packed, group_scale, _ = weights(4, 24, 64)
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
    weight, scale, _ = weights(4, 24, 64)
    with pytest.raises(ValueError, match=r"weight is \[24, 8\], it must be \[24, 4\]"):
        matrix.quantized_linear(random(2, 32), weight, scale)
    with pytest.raises(ValueError, match=r"scale is \[23, 2\], it must be \[24, 2\]"):
        matrix.quantized_linear(random(2, 64), weight, scale[:23])
    with pytest.raises(ValueError, match="must have a multiple of 32"):
        matrix.quantized_linear(random(2, 48), weight[:, :6].contiguous(), scale)
    with pytest.raises(ValueError, match=r"zero is \[24, 1\], it must be \[24, 2\]"):
        matrix.quantized_linear(random(2, 64), weight, scale, torch.zeros(24, 1, dtype=torch.int8, device=DEVICE))
    with pytest.raises(ValueError, match=r"weight is torch\.float32, it must be torch\.int8 or torch\.int32"):
        matrix.quantized_linear(random(2, 64), random(24, 64), scale)
    with pytest.raises(ValueError, match=r"bias is \[23\]"):
        matrix.quantized_linear(random(2, 64), weight, scale, None, random(23))
