"""Quantised modules: the same decoder in every family, tied and untied, through a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from danlu.core.errors import UserError
from danlu.kernels.int4 import dequantize_groups, unpack_nibbles
from danlu.kernels.int8 import dequantize_rows
from danlu.model.config import ModelConfig
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import QuantizedEmbedding, QuantizedLinear, apply_quantization, quantize_, scheme_config
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


@torch.no_grad()
def test_int8_equals_the_dequantised_float_model(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path / "float")
    plain = load_model(tmp_path / "float")
    ids = torch.randint(0, 128, (2, 40))
    original = model(ids)
    errors = quantize_(model)
    assert 0 < errors["mean_error"] <= errors["max_error"] < 0.01
    state = dict(model.state_dict())
    for name in list(state):
        if name.endswith("weight_scale"):
            weight = name.removesuffix("_scale")
            state[weight] = dequantize_rows(state[weight], state.pop(name)[:, 0])
    plain.load_state_dict(state)
    torch.testing.assert_close(model(ids), plain(ids), rtol=1e-4, atol=1e-4)
    assert (model(ids) - original).norm() / original.norm() < 0.05
    few = model(ids[:1, :3])  # few rows take the packed route: bfloat16 roundings, layer by layer
    assert (few - plain(ids[:1, :3])).norm() / few.norm() < 0.03


@torch.no_grad()
def test_int4_equals_the_dequantised_float_model(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path / "float")
    plain = load_model(tmp_path / "float")
    ids = torch.randint(0, 128, (2, 40))
    errors = quantize_(model, 4)
    assert 0.02 < errors["mean_error"] <= errors["max_error"] < 0.12
    state = dict(model.state_dict())
    for name in list(state):
        if name.endswith("weight_packed"):
            stem = name.removesuffix("_packed")
            state[stem] = dequantize_groups(unpack_nibbles(state.pop(name)), state.pop(f"{stem}_scale"))
        elif name in ("embedding.weight", "lm_head.weight"):
            state[name] = dequantize_rows(state[name], state.pop(f"{name}_scale")[:, 0])
    plain.load_state_dict(state)
    torch.testing.assert_close(model(ids), plain(ids), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_int4_through_a_file(model: Transformer, tmp_path: Path) -> None:
    quantize_(model, 4)
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


def test_four_bits_everywhere_are_still_read(tmp_path: Path) -> None:
    model = Transformer(ModelConfig(**SHAPE))
    config = scheme_config(4)
    config |= {"format": "pack-quantized", "config_groups": {"g": config["config_groups"]["group_0"]}}
    config["config_groups"]["g"]["targets"] = ["Linear", "Embedding"]
    apply_quantization(model, config)
    assert model.embedding.weight_packed.shape == (128, 8)


def test_int4_of_a_width_that_does_not_divide() -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        quantize_(Transformer(ModelConfig(**SHAPE | {"intermediate_size": 100})), 4)


@torch.no_grad()
def test_a_saved_model_opens_as_it_was(model: Transformer, tmp_path: Path) -> None:
    quantize_(model)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again.embedding, QuantizedEmbedding)
    assert isinstance(again.blocks[0].attention.qkv, QuantizedLinear)
    ids = torch.randint(0, 128, (1, 40))
    assert torch.equal(again(ids), model(ids))
    assert load_model(tmp_path, dtype="bfloat16")(ids).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, 'quantised with "gptq"'),
        ({"format": "float-quantized"}, "float-quantized"),
        ({"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4}}}}, "danlu reads"),
        ({"ignore": ["model.layers.0.mlp.up_proj"]}, "can leave out only"),
        ({"config_groups": {}}, "targets"),
    ],
)
def test_other_schemes_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    model = Transformer(ModelConfig(**SHAPE))
    with pytest.raises(UserError, match=message):
        apply_quantization(model, scheme_config(8) | change)


def test_activation_quantisation_is_refused() -> None:
    config = scheme_config(8)
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    with pytest.raises(UserError, match="activations"):
        apply_quantization(Transformer(ModelConfig(**SHAPE)), config)


def test_linear_only_and_a_head_left_out() -> None:
    config = scheme_config(8) | {"ignore": ["lm_head"]}
    config["config_groups"]["group_0"]["targets"] = ["Linear"]
    with torch.device("meta"):
        model = Transformer(ModelConfig(**SHAPE, tie_embeddings=False))
    apply_quantization(model, config)
    assert not isinstance(model.embedding, QuantizedEmbedding) and not isinstance(model.lm_head, QuantizedLinear)
    assert isinstance(model.blocks[1].mlp.down, QuantizedLinear)
