"""Folding a scale away changes nothing but what meets the grid."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from danlu.compress.quantize.smoothing import awq_scale, output_error, smooth, smoothquant_scale
from danlu.compress.walk.layers import Moments, Walk, matrix_names
from danlu.kernels.grid import fit
from danlu.model.config import ModelConfig
from danlu.model.quantized import Scheme
from danlu.model.transformer import Transformer
from tests.model.test_quantized import FAMILIES, SHAPE


@pytest.fixture(params=FAMILIES, ids=lambda fields: fields["family"])
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SHAPE, **request.param)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    return model


def test_a_walk_is_the_model(model: Transformer) -> None:
    ids = torch.randint(0, 128, (3, 20))
    walk, seen = Walk(model, ids), []
    for block in model.blocks:
        walk.through(block, lambda name, matrix, inputs: seen.append((name, inputs.count, inputs.hessian.shape[0])))
    torch.testing.assert_close(model.norm(walk.hidden), model.hidden(ids), rtol=1e-4, atol=1e-5)
    widths = {name: model.blocks[0].get_submodule(name).weight.shape[1] for name in matrix_names(model.blocks[0])}
    assert seen == [(name, 60, width) for _ in model.blocks for name, width in widths.items()]


def test_moments_are_those_of_the_inputs(model: Transformer) -> None:
    ids = torch.randint(0, 128, (3, 20))
    walk, block = Walk(model, ids), model.blocks[0]
    before = walk.hidden.clone()
    found = walk.moments(block)["attention.qkv"]
    x = block.attention_norm(before).flatten(0, 1)
    assert torch.equal(walk.hidden, before)
    torch.testing.assert_close(found.hessian, x.t() @ x)
    torch.testing.assert_close(found.mean_size, x.abs().mean(0))
    torch.testing.assert_close(found.largest, x.abs().amax(0))
    torch.testing.assert_close(found.mean_square, x.square().mean(0))
    parts = walk.inputs(block)
    own = Moments.of(parts["mlp.down"], parts["mlp.down"])
    torch.testing.assert_close(own.cross, own.hessian)


@pytest.mark.parametrize("kind", ["awq", "smoothquant", "any"])
def test_folding_leaves_the_block_what_it_was(model: Transformer, kind: str) -> None:
    ids = torch.randint(0, 128, (3, 20))
    walk, block = Walk(model, ids), copy.deepcopy(model.blocks[0])

    def any_scale(weight: torch.Tensor, inputs: Any) -> torch.Tensor:
        return torch.linspace(0.5, 2, weight.shape[1])

    scale_of = {"awq": awq_scale(Scheme(4, 32)), "smoothquant": smoothquant_scale, "any": any_scale}[kind]
    smooth(block, walk.moments(block), scale_of)
    assert not torch.equal(block.attention.qkv.weight, model.blocks[0].attention.qkv.weight)
    here = walk.hidden.clone()
    walk.through(block)
    other = Walk(model, ids)
    other.hidden = here
    other.through(model.blocks[0])
    torch.testing.assert_close(walk.hidden, other.hidden, rtol=1e-4, atol=1e-4)


def test_awq_protects_columns_with_large_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 64, generator=generator), torch.randn(500, 64, generator=generator)
    x[:, 5] *= 8
    weight[:, 5] *= 0.3  # there is room to make it larger before it rules the group
    inputs, scheme = Moments.of([x[None]]), Scheme(4, 64)
    s = awq_scale(scheme)(weight, inputs)
    assert s[5] > 1.5 * s.median()
    plain = fit(weight, 4, 64).widen()
    scaled = fit(weight * s, 4, 64).widen() / s
    assert output_error(weight - scaled, inputs.hessian) < 0.8 * output_error(weight - plain, inputs.hessian)
