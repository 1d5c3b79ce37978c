"""Four bits with an offset for each group, w = s q + m, in the compiled decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.kernels.build import library
from danlu.kernels.decoder import GROUP, PAGE, Decoder, KernelError, Shape
from danlu.model.transformer import Transformer
from tests.kernels.test_decoder import SHAPES, Runs, make, tokens

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")


def by_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, K] -> int8 [N, K] from -8 to 7, scale and offset [N, K / 32] that are float16 numbers: plain rounding between
    the smallest and the largest of a group."""
    groups = weight.detach().float().view(len(weight), -1, GROUP)
    low, high = groups.amin(2), groups.amax(2)
    scale = ((high - low) / 15).half().float()
    offset = (low + 8 * scale).half().float()
    values = torch.round((groups - offset[..., None]) / scale[..., None]).clamp(-8, 7)
    return values.to(torch.int8).flatten(1), scale, offset


def spread(values: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """What the numbers mean, [N, K]."""
    return values * scale.repeat_interleave(GROUP, 1) + offset.repeat_interleave(GROUP, 1)


def matrices(model: Transformer) -> Iterator[tuple[int, str, Any]]:
    blocks: Any = model.blocks
    for index, block in enumerate(blocks):
        mlp = block.mlp
        yield index, "qkv", block.attention.qkv
        yield index, "out", block.attention.out
        yield index, "gate_up", mlp.gate_up if hasattr(mlp, "gate_up") else mlp.up
        yield index, "down", mlp.down
    yield 0, "head" if model.lm_head is None else "embedding", model.embedding
    if model.lm_head is not None:
        yield 0, "head", model.lm_head


def with_offsets(model: Transformer, kv_dtype: torch.dtype = torch.float32) -> Runs:
    """The model in four bits with offsets; its float weights become the same numbers."""
    run = Runs(model, kv_dtype=kv_dtype)
    for layer, which, module in matrices(model):
        values, scale, offset = by_groups(module.weight)
        module.weight.data = spread(values, scale, offset)
        run.decoder.matrix(layer, which, values, scale, getattr(module, "bias", None), offset)
    return run


@pytest.mark.parametrize("shape", SHAPES)
def test_close_to_the_same_weights_in_float(shape: str) -> None:
    model, ids = make(shape), tokens(120)
    ours = with_offsets(model)([(0, ids, 0)])
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    assert 0 < (ours - expected).norm() < 0.05 * expected.norm()  # activations are rounded to bytes


@pytest.mark.parametrize("shape", SHAPES)
def test_a_level_up_and_an_offset_down_is_the_same(shape: str) -> None:
    """s q = s (q + 1) - s, in every matrix, the table of embeddings among them."""
    model, ids = make(shape), tokens(60)
    plain, shifted = Runs(model), Runs(model)
    for layer, which, module in matrices(model):
        values, scale, _ = by_groups(module.weight)
        values, bias = values.clamp(max=6), getattr(module, "bias", None)
        plain.decoder.matrix(layer, which, values, scale, bias)
        shifted.decoder.matrix(layer, which, values + 1, scale, bias, -scale)
    logits, again = plain([(0, ids, 0)]), shifted([(0, ids, 0)])
    # A last bit that differs may round an activation to another byte.
    assert (logits - again).norm() < 0.01 * logits.norm()
    assert (logits[0] - again[0]).abs().max() < 0.1 * logits[0].abs().max()


@pytest.mark.parametrize("shape", ["gqa", "mha", "learned"])
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.int8])
def test_bits_do_not_depend_on_company(shape: str, kv_dtype: torch.dtype) -> None:
    run = with_offsets(make(shape), kv_dtype)
    ids, other = tokens(80), tokens(80, seed=9)
    whole = run([(0, ids, 0)])
    for n in (1, 3, 7, 20):
        run([(1, other[:40], 0), (0, ids[:33], 0)])
        together = run([(1, other[:n], 40), (0, ids[33 : 33 + n], 33), (2, other[:5], 0)])
        assert torch.equal(together[n : 2 * n], whole[33 : 33 + n])


def head_alone(rows: int, columns: int, max_tokens: int = 16) -> Decoder:
    """A decoder whose layer adds nothing: logits are the head times the normed embedding."""
    decoder = Decoder(Shape(1, columns, 2, 1, 16, 32, rows, 64, "rms", "swiglu", 1e-6, 0.25, 2, max_tokens))
    for which, n, k in (("qkv", 64, columns), ("out", columns, 32), ("gate_up", 64, columns), ("down", columns, 32)):
        decoder.matrix(0, which, torch.zeros(n, k))
    for which in ("attention_norm", "mlp_norm", "final_norm"):
        decoder.vector(0, which, torch.ones(columns))
    decoder.vector(0, "cos", torch.ones(64, 8))
    decoder.vector(0, "sin", torch.zeros(64, 8))
    return decoder


@pytest.mark.parametrize(("rows", "columns"), [(101, 96), (48, 320), (7, 32)])
@pytest.mark.parametrize("batch", [1, 2, 5, 7, 13])
def test_a_product_is_the_formula(rows: int, columns: int, batch: int) -> None:
    """y = sum over groups of sx (s (q . qx) + m sum qx) in float64, x rounded to bytes as product.h says."""
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(rows, columns, generator=generator) + 3 * torch.randn(rows, 1, generator=generator)
    values, scale, offset = by_groups(weight)
    decoder = head_alone(rows, columns)
    decoder.matrix(0, "embedding", torch.randn(rows, columns, generator=generator))
    decoder.matrix(0, "head", values, scale, offset=offset)
    ids = [i % rows for i in range(batch)]
    spans = [(i, 1, 1) for i in range(batch)]
    cache = torch.zeros(1, 2, batch, PAGE * 16)
    done = decoder.step(ids, [0] * batch, spans, [[i] for i in range(batch)], cache, range(batch), want_hidden=True)
    assert done.hidden is not None and done.logits is not None
    x = done.hidden.view(batch, -1, GROUP)
    most = x.abs().amax(2, keepdim=True)
    bytes_of_x = torch.round(x.double() * (127 / most).double())  # one rounding, as fma does
    step = (most / 127).double()[..., 0]
    dots = torch.einsum("mgk,ngk->mng", bytes_of_x, values.double().view(rows, -1, GROUP))
    expected = torch.einsum("mng,ng,mg->mn", dots, scale.double(), step)
    expected += torch.einsum("mg,ng,mg->mn", bytes_of_x.sum(2), offset.double(), step)
    size = torch.einsum(
        "mgk,ngk,mg->mn", bytes_of_x.abs(), spread(values, scale, offset).double().abs().view(rows, -1, GROUP), step
    )
    assert ((done.logits - expected).abs() / size).max() < 2e-6


def test_a_row_of_the_table_is_exact() -> None:
    """Float32 everywhere else: the hidden state is the normed row, whichever lane the row lies in."""
    rows, columns = 37, 64
    values, scale, offset = by_groups(torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)) - 2)
    decoder = head_alone(rows, columns, max_tokens=rows)
    decoder.matrix(0, "embedding", values, scale, offset=offset)
    decoder.matrix(0, "head", torch.zeros(rows, columns))
    cache = torch.zeros(1, 2, 3, PAGE * 16)
    done = decoder.step(range(rows), range(rows), [(0, rows, rows)], [[0, 1, 2]], cache, range(rows), want_hidden=True)
    row = spread(values, scale, offset)
    assert done.hidden is not None
    torch.testing.assert_close(
        done.hidden, torch.nn.functional.rms_norm(row, (columns,), eps=1e-6), atol=1e-6, rtol=1e-6
    )


def test_offsets_that_do_not_fit_are_refused() -> None:
    decoder = head_alone(50, 32)
    bytes_, scale = torch.zeros(50, 32, dtype=torch.int8), torch.ones(50, 1)
    for weight, s, offset in (
        (bytes_, scale, torch.ones(50)),
        (bytes_, scale, torch.ones(49, 1)),
        (bytes_, torch.ones(50), torch.ones(50)),  # eight bits
        (torch.zeros(50, 32), None, scale),
    ):
        with pytest.raises(KernelError, match="offsets"):
            decoder.matrix(0, "head", weight, s, offset=offset)
    decoder.matrix(0, "head", bytes_, scale, offset=scale)
