"""Types of the target `hf`: opened by transformers with compressed-tensors, and by danlu."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.compress.export import TARGETS, export_model
from danlu.core.errors import UserError
from danlu.model.hub import load_model, save_model
from danlu.model.low_rank import apply_ranks, ranks_of
from danlu.model.quantized import FLOAT8, NF4, SCHEMES, Quantized, Scheme, is_quantized, quantize_, schemes_of
from danlu.model.quantized.save import TYPES
from tests.model.quantized.models import FAMILIES, small, tensors_of

IDS = torch.arange(40).view(1, 40) % 96


def export(model: Any, tmp_path: Path, kind: str) -> Path:
    save_model(model, tmp_path / "model")
    (tmp_path / "out").mkdir()
    facts = export_model(tmp_path / "model", tmp_path / "out", "hf", kind)
    notes = facts.pop("notes")
    assert bool(notes) == (
        (kind == "as-is" and is_quantized(model)) or (kind == "compressed-tensors" and zeros_packed(model))
    )
    assert facts == {"type": kind, "bytes": (tmp_path / "out" / "model.safetensors").stat().st_size}
    return tmp_path / "out"


def zeros_packed(model: Any) -> bool:
    return any(scheme.bits == 4 and not scheme.symmetric for scheme in schemes_of(model).values())


def in_transformers(directory: Path, dequantize: bool = False) -> torch.Tensor:
    """Logits of the directory in transformers, in float32."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    how = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **how)
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits


MIXED = {
    "blocks.0.attention.qkv": Scheme(4, 32), "blocks.0.mlp.down": Scheme(8), "blocks.1.mlp.gate_up": Scheme(4, 64),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    "scheme", [Scheme(8), Scheme(8, 32), Scheme(4, 32), Scheme(4, 64, False), FLOAT8, MIXED], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_opens_compressed_tensors(family: str, scheme: Scheme | dict[str, Scheme], tmp_path: Path) -> None:
    model = small(family, None if isinstance(scheme, dict) else scheme)
    if isinstance(scheme, dict):
        quantize_(model, scheme)
    directory = export(model, tmp_path, "compressed-tensors")
    again = load_model(directory, dtype=torch.float32)
    assert schemes_of(again) == {n: s for n, s in schemes_of(model).items() if n not in ("embedding", "lm_head")}
    assert tensors_of(directory)["model.embed_tokens.weight"].dtype == torch.bfloat16
    logits = again(IDS)
    assert logits.std() > 0.1
    # without dequantize it has no room for packed zero points (transformers 5.24 with compressed-tensors 0.20)
    zeros = isinstance(scheme, Scheme) and not scheme.symmetric
    torch.testing.assert_close(in_transformers(directory, dequantize=zeros), logits, rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("scheme", [None, SCHEMES[4], NF4], ids=str)
@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_transformers_opens_floats(family: str, scheme: Scheme | None, tmp_path: Path) -> None:
    model = small(family, scheme)
    directory = export(model, tmp_path, "float")
    again = load_model(directory)
    assert not is_quantized(again) and again.norm.weight.dtype == torch.bfloat16
    for name, module in model.named_modules():
        if isinstance(module, Quantized):
            assert torch.equal(again.get_submodule(name).weight, module.widen(torch.bfloat16))
    torch.testing.assert_close(in_transformers(directory), again.float()(IDS), rtol=0, atol=1e-3)


@torch.no_grad()
def test_matrices_of_low_rank_are_multiplied_out(tmp_path: Path) -> None:
    model = small("qwen2", None)
    apply_ranks(model, {"blocks.0.mlp.down": 5, "blocks.1.attention.qkv": 7})
    for name in ranks_of(model):
        for factor in ("weight_left", "weight_right"):
            torch.nn.init.normal_(model.get_submodule(name).get_parameter(factor), std=0.1)
    directory = export(model, tmp_path, "float")
    again = load_model(directory, dtype=torch.float32)
    assert not ranks_of(again)
    assert torch.equal(again.blocks[0].mlp.down.weight, model.blocks[0].mlp.down.weight.bfloat16().float())
    torch.testing.assert_close(in_transformers(directory), again(IDS), rtol=0, atol=1e-3)


@torch.no_grad()
def test_as_is_keeps_every_bit(tmp_path: Path) -> None:
    model = small("llama", SCHEMES[4])
    directory = export(model, tmp_path, "as-is")
    again = load_model(directory)
    assert schemes_of(again) == schemes_of(model) and torch.equal(again(IDS), model(IDS))


@pytest.mark.parametrize("kind", [kind for kind, row in TYPES.items() if row.blocks])
def test_a_model_of_floats_is_compressed_first(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not quantised.*danlu compress it first"):
        export(small("llama", None), tmp_path, kind)


@pytest.mark.parametrize(
    ("kind", "scheme", "message"),
    [
        ("gptq", Scheme(8), r"gptq holds matrices of 4 bits in groups, all alike: blocks\.0\.attention\.qkv is not"),
        ("awq", Scheme(4), "awq holds matrices of 4 bits in groups"),
        ("awq", FLOAT8, "awq holds matrices of 4 bits in groups"),
        ("gptq", {"blocks.0.mlp.down": Scheme(4, 32)}, r"blocks\.0\.attention\.qkv is not"),
        ("gptq", {"embedding": Scheme(8)}, "nothing in the blocks"),
        ("compressed-tensors", NF4, "compressed-tensors has no NF4"),
    ],
)
def test_what_a_type_cannot_hold(kind: str, scheme: Scheme | dict[str, Scheme], message: str, tmp_path: Path) -> None:
    model = small("llama", None if isinstance(scheme, dict) else scheme)
    if isinstance(scheme, dict):
        quantize_(model, scheme)
    with pytest.raises(UserError, match=message):
        export(model, tmp_path, kind)


def test_groups_that_differ(tmp_path: Path) -> None:
    model = small("llama", None)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "blocks" in name]
    quantize_(model, {name: Scheme(4, 64 if "down" in name else 32) for name in names})
    with pytest.raises(UserError, match=r"the groups of this model differ.*compressed-tensors holds every mixture"):
        export(model, tmp_path, "awq")


def test_numbers_beyond_float16(tmp_path: Path) -> None:
    model = small("llama", SCHEMES[4])
    model.norm.weight[3] = 1e6
    with pytest.raises(UserError, match=r"norm\.weight has numbers beyond torch\.float16"):
        export(model, tmp_path, "gptq")


def test_the_table_of_targets_names_the_types() -> None:
    assert TARGETS["hf"].types == tuple(TYPES)


def test_a_tied_head_is_left_out_by_name(tmp_path: Path) -> None:
    directory = export(small("qwen2", SCHEMES[4]), tmp_path, "compressed-tensors")
    words = json.loads((directory / "config.json").read_text())["quantization_config"]
    assert words["ignore"] == ["lm_head"] and words["format"] == "pack-quantized"
