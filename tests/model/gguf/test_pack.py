from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from danlu.kernels import grid
from danlu.model.gguf import mixture, pack
from danlu.model.gguf.blocks import BLOCK_TYPES, dequantize
from danlu.model.gguf.kept import packed
from danlu.model.gguf.pack import QUANTIZERS, quantize

# Normal, with a few outliers.
SEED = torch.Generator().manual_seed(3)
WEIGHTS = torch.randn(64, 2048, generator=SEED) * 0.05 * torch.randn(64, 2048, generator=SEED).abs().clamp(0.2).sqrt()


def error(type_name: str, weights: torch.Tensor = WEIGHTS) -> float:
    values = torch.from_numpy(dequantize(quantize(weights, type_name), type_name)).view_as(weights)
    return float((values - weights).norm() / weights.norm())


def test_docstrings() -> None:
    assert doctest.testmod(mixture).failed == 0


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_value_of_a_type_survives(name: str) -> None:
    """What a type can express comes back: exactly, or nearly where scales are searched for."""
    values = torch.from_numpy(dequantize(quantize(WEIGHTS, name), name))
    again = torch.from_numpy(dequantize(quantize(values, name), name))
    lost = float((again - values).norm() / values.norm())
    assert lost == 0 if name in ("F32", "F16", "BF16", "Q8_0") else lost < 0.02


@pytest.mark.parametrize(
    ("name", "most"),
    [("F16", 3e-4), ("BF16", 2e-3), ("Q8_0", 7e-3), ("Q6_K", 0.021), ("Q5_0", 0.049), ("Q5_1", 0.042), ("Q5_K", 0.042),
     ("Q4_0", 0.099), ("Q4_1", 0.087), ("Q4_K", 0.084)],
)  # fmt: skip
def test_error(name: str, most: float) -> None:
    assert error(name) < most


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_no_worse_than_the_reference_in_python(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    theirs = gguf.quants.dequantize(gguf.quants.quantize(WEIGHTS.numpy(), kind), kind)
    assert error(name) <= 1.001 * float(np.linalg.norm(theirs - WEIGHTS.numpy()) / WEIGHTS.norm())


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("value", [0.0, 1e-9, -0.75, 3.0])
def test_equal_weights(name: str, value: float) -> None:
    """Blocks without any spread: nothing divides by zero."""
    weights = torch.full((2, 256), value)
    values = torch.from_numpy(dequantize(quantize(weights, name), name))
    assert torch.allclose(values, weights.flatten(), rtol=0.04, atol=1e-7)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K"])
def test_one_weight_among_zeros(name: str) -> None:
    weights = torch.zeros(256)
    weights[77] = -1.5
    values = torch.from_numpy(dequantize(quantize(weights, name), name))
    assert values[77] == pytest.approx(-1.5, rel=0.01)
    assert values.count_nonzero() == 1


def test_q4_0_by_hand() -> None:
    """0.8 on the level -8 leaves nothing over, as in the docstring of fit.py."""
    weights = torch.zeros(32)
    weights[:3] = torch.tensor([0.8, -0.4, 0.1])
    raw = quantize(weights, "Q4_0")
    assert raw[:2].tobytes() == np.float16(-0.1).tobytes()
    assert [int(byte) & 15 for byte in raw[2:5]] == [0, 12, 7]
    assert all(byte >> 4 == 8 for byte in raw[2:])


def test_pieces_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantize(WEIGHTS, "Q8_0")
    monkeypatch.setattr(pack, "PIECE", 512)
    assert np.array_equal(quantize(WEIGHTS, "Q8_0"), whole)


@pytest.mark.parametrize("group", [None, 32, 64, 128])
@pytest.mark.parametrize(("bits", "symmetric", "kind"), [(8, True, "Q8_0"), (4, True, "Q4_0"), (4, False, "Q4_1")])
def test_numbers_that_are_quantised_stay(group: int | None, bits: int, symmetric: bool, kind: str) -> None:
    """Against the definition of what danlu's numbers mean."""
    numbers = grid.fit(WEIGHTS[:, :256], bits, group, symmetric)
    values = torch.from_numpy(dequantize(packed(numbers, kind), kind)).view(64, 256)
    exact = group is not None and symmetric  # float16 scales already
    torch.testing.assert_close(values, numbers.widen(), rtol=0 if exact else 1e-3, atol=0 if exact else 2e-4)
    raw = packed(numbers, kind).reshape(-1, BLOCK_TYPES[kind].size)
    stored = raw[:, 2:].view(np.int8) if kind == "Q8_0" else None
    if stored is not None:
        assert np.array_equal(stored.reshape(64, 256), numbers.values.numpy())
