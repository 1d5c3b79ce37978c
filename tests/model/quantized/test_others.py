"""Files in the compressed-tensors layout that danlu did not write: made here by the package itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.core.errors import UserError
from danlu.model.hub import Checkpoint, load_model, save_model
from danlu.model.quantized import FLOAT8, Quantized, Scheme, schemes_of
from tests.model.quantized.models import small, tensors_of

pytest.importorskip("compressed_tensors")
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

IDS = torch.arange(40).view(1, 40) % 96
CASES = {
    Scheme(4, 32): "pack-quantized",
    Scheme(4, 32, False): "pack-quantized",
    Scheme(4): "pack-quantized",
    Scheme(4, None, False): "pack-quantized",
    Scheme(8): "int-quantized",
    Scheme(8, 32, False): "int-quantized",
    FLOAT8: "float-quantized",
}
DYNAMIC = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def made_by_others(
    directory: Path, scheme: Scheme, tiny: tuple[str, ...] = (), activations: dict[str, Any] | None = None, **words: Any
) -> dict[str, torch.Tensor]:
    """A model of bfloat16, its head left alone, as compressed-tensors packs it; the matrices that it stands for.

    tiny: endings of matrices whose weights are around 1e-9.
    """
    save_model(small("llama", None).bfloat16(), directory)
    args = QuantizationArgs(
        num_bits=scheme.bits, type="float" if scheme.kind == "float8" else "int", symmetric=scheme.symmetric,
        strategy="group" if scheme.group else "channel", group_size=scheme.group, dynamic=False,
    )  # fmt: skip
    group = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(CASES[scheme])
    tensors, wide = tensors_of(directory), {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        part = name.removesuffix(".weight")
        weight = tensors.pop(name) * (1e-9 if part.endswith(tiny or ("none",)) else 1)
        grouped = weight.unflatten(1, (-1, scheme.group or weight.shape[1]))
        scale, zero = calculate_qparams(grouped.amin(2).float(), grouped.amax(2).float(), args)
        scale = scale.bfloat16()
        packed = compressor.compress({"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, group)
        tensors |= {f"{part}.{key}": tensor.clone() for key, tensor in packed.items()}
        exact = compressor.decompress(packed | {"weight_scale": packed["weight_scale"].float()}, group)
        wide[part] = exact["weight"].float()
    save_file(tensors, directory / "model.safetensors")
    raw = json.loads((directory / "config.json").read_text())
    raw["quantization_config"] = {
        "config_groups": {
            "group_0": {
                "input_activations": activations, "output_activations": None, "targets": ["Linear"],
                "weights": args.model_dump(mode="json"),
            }
        },
        "format": CASES[scheme], "global_compression_ratio": 1.6, "ignore": ["lm_head"], "kv_cache_scheme": None,
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "transform_config": {},
        "sparsity_config": {}, "version": "0.20.0",
    } | words  # fmt: skip
    (directory / "config.json").write_text(json.dumps(raw))
    return wide


def rows(wide: dict[str, torch.Tensor], *names: str) -> torch.Tensor:
    return torch.cat([wide[f"model.layers.0.{name}_proj"] for name in names])


@torch.no_grad()
@pytest.mark.parametrize("scheme", CASES, ids=str)
def test_read_to_the_bit(scheme: Scheme, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = made_by_others(tmp_path, scheme)
    model = load_model(tmp_path, dtype=torch.float32)
    assert set(schemes_of(model).values()) == {scheme} and len(schemes_of(model)) == 8
    assert not isinstance(model.lm_head, Quantized) and not isinstance(model.embedding, Quantized)
    block = model.blocks[0]
    assert torch.equal(block.attention.qkv.widen(), rows(wide, "self_attn.q", "self_attn.k", "self_attn.v"))
    assert torch.equal(block.mlp.down.widen(), rows(wide, "mlp.down"))
    assert model(IDS).isfinite().all() and not caplog.records
    assert load_model(tmp_path).norm.weight.dtype == torch.bfloat16


@torch.no_grad()
def test_scales_beyond_float16_make_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = made_by_others(tmp_path, Scheme(4, 32), tiny=("layers.0.mlp.down_proj", "layers.0.mlp.up_proj"))
    with caplog.at_level(logging.WARNING, "danlu"):
        model = load_model(tmp_path, dtype=torch.float32)
    assert "2 of 8 quantised matrices are widened to floats: their scales do not fit float16" in caplog.text
    mlp = model.blocks[0].mlp
    assert torch.equal(mlp.down.weight, rows(wide, "mlp.down")) and 0 < mlp.down.weight.abs().max() < 1e-8
    assert torch.equal(mlp.gate_up.weight, rows(wide, "mlp.gate", "mlp.up"))
    assert isinstance(model.blocks[1].mlp.down, Quantized)
    checkpoint = Checkpoint(tmp_path, "float32")
    with checkpoint.lent("blocks.0.mlp.down"):
        assert torch.equal(checkpoint.model.blocks[0].mlp.down.weight, mlp.down.weight)


@torch.no_grad()
def test_activations_that_are_rounded_as_they_come_stay_floats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = made_by_others(tmp_path, Scheme(8), activations=DYNAMIC)
    with caplog.at_level(logging.WARNING, "danlu"):
        model = load_model(tmp_path, dtype=torch.float32)
    assert "activations are computed in floats, not in 8 bits as the file asks for" in caplog.text
    assert torch.equal(model.blocks[0].mlp.down.widen(), rows(wide, "mlp.down"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": DYNAMIC | {"dynamic": False}}, "group_0 has scales for activations too"),
        ({"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}}, "has a transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "has a sparsity_config"),
    ],
)
def test_what_changes_the_numbers_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    made_by_others(tmp_path, Scheme(8), **change)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"config_groups": ["Linear"]}, "config_groups is ['Linear'], not a mapping"),
        ({"config_groups": {"group_0": 3}}, "group_0 is 3, not a mapping"),
        ({"ignore": 3}, "ignore is 3, not a list of names"),
        ({"ignore": ["re:((("]}, 'ignore has "re:((("'),
        ({"sparsity_config": "none"}, "sparsity_config is 'none', not a mapping"),
        ({"config_groups": {"group_0": {"targets": [1]}}}, "has None bits"),
        ({"format": ["x"]}, "format \"['x']\""),
        ({"quant_method": {"a": 1}}, "which danlu does not read"),
    ],
)
def test_words_that_make_no_sense(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_model(small("llama", Scheme(8)), tmp_path)
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text())
    raw["quantization_config"] |= words
    file.write_text(json.dumps(raw))
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_numbers_of_another_kind_are_not_cut_off(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(small("llama", Scheme(8)), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{name} is stored as .* and has to be int8"):
        load_model(tmp_path)
