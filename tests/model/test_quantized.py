"""Quantised modules: the same decoder in every family, tied and untied, through a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import (
    FLOAT8,
    NF4,
    SCHEMES,
    Quantized,
    QuantizedEmbedding,
    QuantizedLinear,
    Scheme,
    apply_quantization,
    matrices,
    plan_of,
    quantization_config,
    quantize_,
    schemes_of,
)
from danlu.model.transformer import Transformer

SHAPE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "n_layers": 2, "n_heads": 4, "intermediate_size": 96, "max_position": 64,
}  # fmt: skip
GPT2 = {
    "family": "gpt2", "norm": "layer", "mlp": "gelu", "positions": "learned", "qkv_bias": True, "output_bias": True,
    "mlp_bias": True,
}  # fmt: skip
FAMILIES: list[dict[str, Any]] = [
    {"family": "llama", "tie_embeddings": False},
    {"family": "qwen2", "qkv_bias": True, "n_kv_heads": 2},
    {"family": "qwen3", "qk_norm": True, "n_kv_heads": 1},
    GPT2,
]


@pytest.fixture(params=FAMILIES, ids=lambda fields: fields["family"])
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SHAPE, **request.param)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def written_out(model: Transformer, plain: Transformer) -> Transformer:
    """`plain` with the numbers that the quantised `model` stands for."""
    for name, module in matrices(plain).items():
        twin = model.get_submodule(name)
        assert isinstance(twin, Quantized)
        module.weight.copy_(twin.widen())  # type: ignore[operator, union-attr]
    return plain


ALL = [
    Scheme(8), Scheme(8, 32), Scheme(8, None, False), Scheme(4, 32), Scheme(4, 32, False), Scheme(4, None), FLOAT8, NF4,
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_a_quantised_model_equals_its_numbers_written_out(model: Transformer, scheme: Scheme, tmp_path: Path) -> None:
    if scheme == NF4:
        model = Transformer(model.config.model_copy(update={"intermediate_size": 128})).eval()
    save_model(model, tmp_path / "float")
    plain = load_model(tmp_path / "float")
    ids = torch.randint(0, 128, (2, 40))
    original = model(ids)
    errors = quantize_(model, plan_of(model, scheme))
    low, high = (0, 0.04) if scheme.bits == 8 else (0.02, 0.2)
    assert low < errors["mean_error"] <= errors["max_error"] < high
    written_out(model, plain)
    torch.testing.assert_close(model(ids), plain(ids), rtol=1e-4, atol=1e-4)
    assert (model(ids) - original).norm() / original.norm() < (0.2 if scheme.bits == 8 else 0.6)
    few = model(ids[:1, :3])  # few rows may take the packed route: bfloat16 roundings, layer by layer
    assert (few - plain(ids[:1, :3])).norm() / few.norm() < 0.03

    save_model(model, tmp_path / "small")
    again = load_model(tmp_path / "small")
    assert schemes_of(again) == schemes_of(model)
    assert set(schemes_of(again).values()) == {scheme, SCHEMES[8]} if scheme.bits == 4 else {scheme}
    assert torch.equal(again(ids), model(ids))


@torch.no_grad()
def test_int4_through_a_file(model: Transformer, tmp_path: Path) -> None:
    quantize_(model, plan_of(model, SCHEMES[4]))
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.embedding.weight.dtype == torch.int8  # eight bits, and the head as well
    assert again.lm_head is None or again.lm_head.weight.dtype == torch.int8
    qkv = again.blocks[0].attention.qkv
    assert qkv.weight_packed.dtype == torch.int32 and qkv.weight_scale.dtype == torch.float16
    ids = torch.randint(0, 128, (1, 40))
    assert torch.equal(again(ids), model(ids))
    scales = qkv.weight_scale.clone()
    again.to(torch.bfloat16)
    assert torch.equal(again.blocks[0].attention.qkv.weight_scale, scales)  # rounding them would move weights
    tensors = load_file(tmp_path / "model.safetensors")
    packed = next(name for name in tensors if name.endswith("weight_packed"))
    shape = tensors[packed.removesuffix("packed") + "shape"].tolist()
    assert shape == [tensors[packed].shape[0], 8 * tensors[packed].shape[1]]


def config_of(scheme: Scheme, head: Scheme | None = None, **fields: Any) -> dict[str, Any]:
    model = Transformer(ModelConfig(**SHAPE, **fields))
    quantize_(model, plan_of(model, scheme, head))
    config = quantization_config(model)
    assert config is not None
    return config


def test_zero_points_are_those_that_are_kept() -> None:
    """Unpacked once, and again when others are written, or a device has its own copy in the same parameter."""
    module = QuantizedLinear(Scheme(4, 32, False), 64, 16, bias=False)
    module.fill(torch.randn(16, 64) + 1)
    kept = module.get_parameter("weight_zero_point")
    for change in (
        lambda other: kept.copy_(other),
        lambda other: module._apply(lambda tensor: other if tensor.dtype == other.dtype else tensor),
        lambda other: module.load_state_dict(module.state_dict() | {"weight_zero_point": other}, assign=True),
    ):
        before, other = module.zero, ~module.get_parameter("weight_zero_point").detach()
        assert before is not None and module.zero is before
        change(other)
        assert torch.equal(module.zero, module.scheme.zero(other))  # type: ignore[arg-type]
        assert not torch.equal(module.zero, before)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_zero_points_go_with_the_model() -> None:
    module = QuantizedLinear(Scheme(4, 32, False), 64, 16, bias=False)
    module.fill(torch.randn(16, 64) + 1)
    assert module.to("cuda").zero.device.type == "cuda"  # type: ignore[union-attr]


def test_four_bits_everywhere() -> None:
    config = config_of(SCHEMES[4], SCHEMES[4])
    assert config["format"] == "pack-quantized"
    assert config["config_groups"]["group_0"]["targets"] == ["Linear", "Embedding"]
    model = Transformer(ModelConfig(**SHAPE))
    apply_quantization(model, config, {})
    assert model.embedding.weight_packed.shape == (128, 8)


def test_a_scheme_for_each_matrix_and_some_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SHAPE, family="llama")).eval()
    plan = {
        "blocks.0.attention.qkv": Scheme(4, 32, False), "blocks.0.mlp.down": Scheme(8),
        "blocks.1.attention.qkv": Scheme(8), "blocks.1.mlp.gate_up": Scheme(8, 64), "blocks.1.mlp.down": Scheme(8),
    }  # fmt: skip
    quantize_(model, plan)
    save_model(model, tmp_path)
    config = quantization_config(model)
    assert config is not None and config["format"] == "mixed-precision"
    assert "model.layers.0.self_attn.o_proj" in config["ignore"]
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert ["Linear"] in targets and ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"] in targets
    again = load_model(tmp_path)
    assert schemes_of(again) == plan
    ids = torch.randint(0, 128, (1, 20))
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))


def test_a_width_that_does_not_divide() -> None:
    model = Transformer(ModelConfig(**SHAPE | {"intermediate_size": 100}))
    with pytest.raises(UserError, match="multiple of 32"):
        quantize_(model, plan_of(model, SCHEMES[4]))
    assert not schemes_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "hqq"}, 'quantised with "hqq"'),
        ({"format": "float-quantized"}, "float-quantized"),
        ({"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4}}}}, "danlu reads"),
        ({"config_groups": {}}, "none of them is in the model"),
    ],
)
def test_other_schemes_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        apply_quantization(Transformer(ModelConfig(**SHAPE)), config_of(SCHEMES[8]) | change, {})
    assert message in f"{error.value} {error.value.hint}"


def test_columns_in_an_order_of_their_own_are_refused() -> None:
    config = config_of(SCHEMES[4])
    config["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    with pytest.raises(UserError, match="orders its columns"):
        apply_quantization(Transformer(ModelConfig(**SHAPE)), config, {})


def test_activation_quantisation_is_refused() -> None:
    config = config_of(SCHEMES[8])
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    with pytest.raises(UserError, match="activations"):
        apply_quantization(Transformer(ModelConfig(**SHAPE)), config, {})


def test_parts_of_one_matrix_must_agree() -> None:
    config = config_of(SCHEMES[8]) | {"ignore": ["model.layers.0.self_attn.k_proj"]}
    with pytest.raises(UserError, match=r"parts of blocks\.0\.attention\.qkv"):
        apply_quantization(Transformer(ModelConfig(**SHAPE)), config, {})


def test_linear_only_and_modules_left_out_by_name_or_pattern() -> None:
    config = config_of(SCHEMES[8], tie_embeddings=False) | {"ignore": ["lm_head", "re:.*layers.0.mlp.*"]}
    config["config_groups"]["group_0"]["targets"] = ["Linear"]
    with torch.device("meta"):
        model = Transformer(ModelConfig(**SHAPE, tie_embeddings=False))
    apply_quantization(model, config, {})
    assert not isinstance(model.embedding, QuantizedEmbedding) and not isinstance(model.lm_head, QuantizedLinear)
    assert isinstance(model.blocks[1].mlp.down, QuantizedLinear)
    assert not isinstance(model.blocks[0].mlp.down, QuantizedLinear)
    assert isinstance(model.blocks[0].attention.out, QuantizedLinear)
