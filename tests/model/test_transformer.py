"""The decoder: counts by hand, initialisation as its table says, gradients that reach everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer

Make = Callable[..., Transformer]


def test_hidden_and_head_make_the_logits(make_model: Make) -> None:
    for tied in (True, False):
        model = make_model(tie_embeddings=tied)
        ids = torch.randint(0, 61, (2, 7))
        hidden = model.hidden(ids)
        assert hidden.shape == (2, 7, 32)
        assert torch.equal(model.head(hidden), model(ids))
        torch.testing.assert_close(F.linear(hidden, model.head_weight), model(ids))
        assert (model.head_weight is model.embedding.weight) == tied


def test_parameters_counted_by_hand() -> None:
    config = ModelConfig(
        vocab_size=10, hidden_size=4, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=2, intermediate_size=3, qk_norm=True
    )
    model = Transformer(config)
    # a layer: qkv (2+1+1)*2 x 4 = 32, out 4 x 4 = 16, gate_up 6 x 4 = 24, down 4 x 3 = 12; norms 4 + 4 + 2 + 2
    assert model.n_matmul_params == 2 * (32 + 16 + 24 + 12) + 10 * 4
    assert model.n_params == 2 * (84 + 12) + 10 * 4 + 4
    assert model.n_params == sum(p.numel() for p in model.parameters())


def test_flops_by_hand() -> None:
    shape = {"vocab_size": 10, "hidden_size": 4, "n_layers": 2, "n_heads": 2, "head_dim": 2, "intermediate_size": 3}
    model = Transformer(ModelConfig(**shape))
    n = model.n_matmul_params
    assert model.flops_per_token(1) == 6 * n + 12 * 4 * 2 * 1  # each layer sees one token
    assert model.flops_per_token(3) == 6 * n + 12 * 4 * 2 * 2  # 1, 2, 3 tokens: 2 on average
    sliding = Transformer(ModelConfig(**shape, sliding_window=2, sliding_layers=(1,)))
    assert sliding.flops_per_token(3) == pytest.approx(6 * n + 12 * 4 * (2 + 5 / 3))  # 1, 2, 2 in the second layer


def test_matmul_parameters_are_those_of_the_linear_layers_and_the_head(make_model: Make) -> None:
    for changes in ({}, {"tie_embeddings": False}, {"mlp": "gelu", "norm": "layer", "positions": "learned"}):
        model = make_model(**changes)
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        if model.config.tie_embeddings:
            linear += model.embedding.weight.numel()
        assert model.n_matmul_params == linear


def test_initialisation_is_what_the_table_says() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=512, hidden_size=128, n_layers=4, n_heads=2, intermediate_size=256, qkv_bias=True)
    model = Transformer(config)
    block = model.blocks[2]
    for weight, std in (
        (model.embedding.weight, 0.02),
        (block.attention.qkv.weight, 128**-0.5),
        (block.mlp.gate_up.weight, 128**-0.5),
        (block.attention.out.weight, 128**-0.5 / 8**0.5),
        (block.mlp.down.weight, 256**-0.5 / 8**0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
        assert abs(weight.mean().item()) < std / 20
    assert torch.all(block.mlp_norm.weight == 1)
    assert torch.all(block.attention.qkv.bias == 0)


def test_a_new_model_predicts_about_uniformly_and_the_seed_decides(make_model: Make) -> None:
    ids = torch.randint(0, 61, (4, 16), generator=torch.Generator().manual_seed(3))
    model = make_model()
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(torch.tensor(61.0).log().item(), abs=0.3)
    assert torch.equal(model(ids), make_model()(ids))
    assert not torch.equal(model(ids), make_model(seed=1)(ids))


def test_every_parameter_learns(make_model: Make) -> None:
    for changes in ({}, {"mlp": "gelu", "norm": "layer", "positions": "learned", "mlp_bias": True}):
        model = make_model(**changes)
        model(torch.randint(0, 61, (2, 9))).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_training_and_serving_paths_agree(make_model: Make) -> None:
    """Hand-written backward passes have forward passes of their own; they must give the same logits."""
    model = make_model()
    ids = torch.randint(0, 61, (2, 9))
    with torch.no_grad():
        served = model(ids)
    torch.testing.assert_close(model(ids), served, atol=1e-5, rtol=1e-5)


def test_autocast_and_bfloat16_run(make_model: Make) -> None:
    model = make_model()
    ids = torch.randint(0, 61, (1, 5))
    full = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids)
        mixed.float().sum().backward()
    torch.testing.assert_close(mixed.float(), full, atol=0.1, rtol=0.1)
    half = model.to(torch.bfloat16)(ids)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.15, rtol=0.15)


def test_splits_name_the_matrices_inside_a_parameter(make_model: Make) -> None:
    model = make_model()
    found = {name: model.splits(name, parameter) for name, parameter in model.named_parameters()}
    assert found["blocks.1.attention.qkv.weight"] == (32, 16, 16)
    assert found["blocks.0.mlp.gate_up.weight"] == (48, 48)
    assert found["blocks.0.mlp.down.weight"] == (32,)
    assert all(sum(found[name]) == parameter.shape[0] for name, parameter in model.named_parameters())


def test_learned_positions_end_somewhere(make_model: Make) -> None:
    model = make_model(positions="learned", max_position=4)
    with pytest.raises(UserError, match="5 tokens do not fit a model with 4 learned positions"):
        model(torch.zeros(1, 5, dtype=torch.long))
