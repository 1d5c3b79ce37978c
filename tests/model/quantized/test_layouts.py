"""GPTQ and AWQ checkpoints: what danlu writes, unpacked from the formats' descriptions; what others write, read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from danlu.core.errors import UserError
from danlu.kernels.grid import pack
from danlu.model.hub import Checkpoint, load_model, save_model
from danlu.model.quantized import Quantized, Scheme, float_twin, matrices, schemes_of
from danlu.model.quantized.save import save_hf
from danlu.model.transformer import Transformer
from tests.model.quantized.models import FAMILIES, small, tensors_of, unpacked_awq, unpacked_gptq

IDS = torch.arange(40).view(1, 40) % 96
SCHEMES = [Scheme(4, 32), Scheme(4, 64), Scheme(4, 32, False)]
QKV = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]


def exported(model: Transformer, tmp_path: Path, kind: str) -> Path:
    save_model(model, tmp_path / "model")
    (tmp_path / kind).mkdir()
    save_hf(tmp_path / "model", tmp_path / kind, kind)
    return tmp_path / kind


def change(directory: Path, edit: Callable[[dict[str, torch.Tensor]], None], **words: Any) -> None:
    """Edit the tensors of a directory, and words of its quantization_config."""
    tensors = tensors_of(directory)
    edit(tensors)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    raw = json.loads((directory / "config.json").read_text())
    raw["quantization_config"] |= words
    (directory / "config.json").write_text(json.dumps(raw))


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_there_and_back_to_the_bit(kind: str, family: str, scheme: Scheme, tmp_path: Path) -> None:
    model = small(family, scheme)
    directory = exported(model, tmp_path, kind)
    for name in ("embedding", "lm_head"):
        if isinstance(module := getattr(model, name), Quantized):
            setattr(model, name, float_twin(module, torch.float16).float())
    again = load_model(directory, dtype=torch.float32)
    assert schemes_of(again) == schemes_of(model)
    assert torch.equal(again(IDS), model(IDS))
    assert load_model(directory).norm.weight.dtype == torch.float16

    checkpoint = Checkpoint(directory)  # what is lent is what is loaded
    with checkpoint.lent("blocks.1.attention.qkv"):
        lent = checkpoint.model.get_submodule("blocks.1.attention.qkv")
        mine = model.get_submodule("blocks.1.attention.qkv")
        assert isinstance(lent, Quantized) and isinstance(mine, Quantized)
        assert torch.equal(lent.widen(), mine.widen())


@torch.no_grad()
@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 32, False)], ids=str)
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_what_is_written_is_what_the_format_means(kind: str, scheme: Scheme, tmp_path: Path) -> None:
    model = small("llama", scheme)
    directory = exported(model, tmp_path, kind)
    tensors = tensors_of(directory)
    words = json.loads((directory / "config.json").read_text())["quantization_config"]
    assert words["quant_method"] == kind and words["bits"] == 4 and words["group_size"] == 32
    version = 2 if words.get("checkpoint_format") == "gptq_v2" else 1
    assert kind == "awq" or version == (1 if scheme.symmetric else 2)

    def unpacked(part: str) -> torch.Tensor:
        return unpacked_gptq(tensors, part, version) if kind == "gptq" else unpacked_awq(tensors, part, 32)

    qkv, down = model.blocks[0].attention.qkv, model.blocks[1].mlp.down
    assert torch.equal(torch.cat([unpacked(part) for part in QKV]), qkv.widen())
    assert torch.equal(unpacked("model.layers.1.mlp.down_proj"), down.widen())
    assert tensors["model.layers.0.self_attn.q_proj.scales"].dtype == torch.float16
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16 == tensors["lm_head.weight"].dtype


def test_a_word_of_each_format_by_hand(tmp_path: Path) -> None:
    """Rows 0 to 7 of column 0 are -8 .. -1 in danlu, so 0 .. 7 in a file; all of row 0 is -8 .. -1 repeated."""
    model = small("llama", Scheme(4, 32))
    for part in ("gate_up", "down"):
        module = getattr(model.blocks[0].mlp, part)
        values = (torch.arange(module.rows)[:, None] + torch.arange(module.columns)) % 8 - 8
        module.weight_packed.copy_(pack(values.to(torch.int8)))
    down = "model.layers.0.mlp.down_proj"
    gptq = tensors_of(exported(model, tmp_path / "one", "gptq"))
    assert gptq[f"{down}.qweight"][0, 0].item() == 0x76543210
    assert gptq[f"{down}.qzeros"][0, 0].item() == 0x77777777  # version 1: eight, less one
    awq = tensors_of(exported(model, tmp_path / "two", "awq"))
    assert awq[f"{down}.qweight"][0, 0].item() == 0x75316420
    assert awq[f"{down}.qzeros"][0, 0].item() == -0x77777778  # 0x88888888


@torch.no_grad()
def test_version_1_with_zero_points_that_borrow(tmp_path: Path) -> None:
    """z = 0 becomes -1 in version 1: subtracted from the whole int32, as GPTQModel does."""
    model = small("llama", Scheme(4, 32, False))
    model.blocks[0].mlp.down.weight_zero_point[0, 0] = 0x0123_4500  # two zero points of 0
    directory = exported(model, tmp_path, "gptq")
    expected = load_model(directory, dtype="float32")(IDS)

    def less_one(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith("qzeros"):
                tensors[name] = tensors[name] - torch.tensor(0x11111111, dtype=torch.int32)

    change(directory, less_one, checkpoint_format="gptq")
    assert torch.equal(load_model(directory, dtype="float32")(IDS), expected)


@torch.no_grad()
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_eight_bits(symmetric: bool, version: int, tmp_path: Path) -> None:
    model = small("qwen2", Scheme(4, 32))
    directory = exported(model, tmp_path, "gptq")
    torch.manual_seed(1)
    wide: dict[str, torch.Tensor] = {}

    def rewrite(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".qweight")]:
            part = name.removesuffix(".qweight")
            columns, rows = 8 * tensors[name].shape[0], tensors[name].shape[1]
            q = torch.randint(0, 256, (columns, rows))
            z = torch.full((columns // 32, rows), 128) if symmetric else torch.randint(1, 256, (columns // 32, rows))
            scales = tensors[f"{part}.scales"].abs() / 16
            shifts = 2 ** torch.arange(0, 32, 8)
            stored = z - 1 if version == 1 else z
            tensors[name] = (q.view(-1, 4, rows) * shifts[:, None]).sum(1).to(torch.int32)
            tensors[f"{part}.qzeros"] = (stored.view(z.shape[0], -1, 4) * shifts).sum(2).to(torch.int32)
            tensors[f"{part}.scales"] = scales
            groups = torch.arange(columns) // 32
            wide[part] = (scales.float()[groups] * (q - z[groups]).float()).t()

    change(directory, rewrite, bits=8, checkpoint_format="gptq_v2" if version == 2 else "gptq")
    again = load_model(directory, dtype="float32")
    assert set(schemes_of(again).values()) == {Scheme(8, 32, symmetric)}
    assert torch.equal(again.blocks[0].attention.qkv.widen(), torch.cat([wide[part] for part in QKV]))
    assert torch.equal(again.blocks[1].mlp.down.widen(), wide["model.layers.1.mlp.down_proj"])
    assert again(IDS).isfinite().all()


@torch.no_grad()
def test_columns_in_order_of_importance_become_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small("llama", Scheme(4, 32, False))
    directory = exported(model, tmp_path, "gptq")
    torch.manual_seed(2)

    def scatter(tensors: dict[str, torch.Tensor]) -> None:  # one of three parts: the others go with it
        name = f"{QKV[1]}.g_idx"
        tensors[name] = tensors[name][torch.randperm(len(tensors[name]))]

    change(directory, scatter, desc_act=True)
    with caplog.at_level(logging.WARNING, "danlu"):
        again = load_model(directory, dtype="float32")
    assert "1 of 8 quantised matrices are widened" in caplog.text
    tensors = tensors_of(directory)
    qkv = again.blocks[0].attention.qkv
    assert not isinstance(qkv, Quantized)
    assert torch.equal(qkv.weight, torch.cat([unpacked_gptq(tensors, part, 2) for part in QKV]))
    assert isinstance(again.blocks[1].attention.qkv, Quantized)
    checkpoint = Checkpoint(directory, "float32")
    with checkpoint.lent("blocks.0.attention.qkv"):
        assert torch.equal(checkpoint.model.blocks[0].attention.qkv.weight, qkv.weight)


def test_empty_biases_of_old_files_are_passed_over_and_others_named(tmp_path: Path) -> None:
    directory = exported(small("llama", Scheme(4, 32)), tmp_path, "gptq")
    name = "model.layers.0.mlp.down_proj.bias"
    change(directory, lambda tensors: tensors.update({name: torch.zeros(64)}))
    load_model(directory)
    change(directory, lambda tensors: tensors.update({name: torch.ones(64)}))
    with pytest.raises(UserError, match=r"holds model\.layers\.0\.mlp\.down_proj\.bias"):
        load_model(directory)


def test_whole_rows_and_a_quantised_head(tmp_path: Path) -> None:
    """group_size -1, and a head of 4 bits beside an embedding of floats: as the tensors say, not the words."""
    directory = exported(small("llama", Scheme(4, 32)), tmp_path, "gptq")

    def one_group(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if name.endswith((".scales", ".qzeros")):
                tensors[name] = tensors[name][:1]
            if name.endswith(".g_idx"):
                tensors[name] = torch.zeros_like(tensors[name])
        down = "model.layers.0.mlp.gate_proj"
        for key in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"lm_head.{key}"] = tensors[f"{down}.{key}"][..., : 96 if key == "scales" else None]
        tensors["lm_head.qweight"] = tensors["lm_head.qweight"][:, :96]
        tensors["lm_head.qzeros"] = tensors["lm_head.qzeros"][:, :12]
        del tensors["lm_head.weight"]

    change(directory, one_group, group_size=-1)
    again = load_model(directory, dtype="float32")
    schemes = schemes_of(again)
    assert schemes["lm_head"] == Scheme(4) == schemes["blocks.0.mlp.down"] and "embedding" not in schemes
    assert set(schemes) == set(matrices(again)) - {"embedding"}
    assert torch.equal(again.lm_head.widen(), unpacked_gptq(tensors_of(directory), "lm_head", 1))


def drop(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{QKV[0]}.{key}"]

    return edit


def three_bits(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("qweight")]:
        tensors[name] = tensors[name][: tensors[name].shape[0] * 3 // 4]


def groups_of_16(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.endswith(("qzeros", "scales"))]:
        tensors[name] = tensors[name].repeat(2, 1)


def only_norms(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "norm" not in name]:
        del tensors[name]


def each(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: change(own).clone() for name, own in tensors.items() if name.endswith(key)})

    return edit


@pytest.mark.parametrize(
    ("kind", "edit", "words", "message"),
    [
        ("gptq", lambda tensors: None, {"checkpoint_format": "marlin"}, 'GPTQ format "marlin"'),
        ("awq", lambda tensors: None, {"version": "gemv_fast"}, 'AWQ version "gemv_fast" with 4 bits'),
        ("awq", lambda tensors: None, {"bits": 8}, 'AWQ version "gemm" with 8 bits'),
        ("gptq", three_bits, {"bits": 3}, "q_proj has 3 bits in groups of 32"),
        ("gptq", groups_of_16, {"group_size": 16}, "q_proj has 4 bits in groups of 16"),
        ("gptq", drop("qzeros"), {}, "lack model.layers.0.self_attn.q_proj.qzeros"),
        ("awq", drop("qweight"), {}, "lack model.layers.0.self_attn.q_proj.qweight"),
        ("gptq", only_norms, {}, 'none in the layout "gptq"'),
        (
            "gptq",
            lambda tensors: None,
            {"bits": 8},
            "config.json has 8 bits, and model.layers.0.self_attn.q_proj.qweight 4",
        ),
        ("awq", lambda tensors: None, {"group_size": 64}, "config.json has groups of 64"),
        ("gptq", each("qweight", lambda t: t[:, :-1]), {}, "q_proj.qweight is [8, 63], not [8, 64]"),
        ("gptq", each("qzeros", lambda t: t[:-1]), {}, "q_proj.qzeros is [1, 8], not [2, 8]"),
        ("gptq", each("qzeros", lambda t: t.long()), {}, "q_proj.qzeros is int64, not int32"),
        ("awq", each("qweight", lambda t: t.flatten()), {}, "q_proj.qweight is [512], which is no matrix"),
        ("gptq", each("scales", lambda t: t[0, 0]), {}, "q_proj.scales is [], which is no matrix"),
        ("gptq", each("g_idx", lambda t: t + 7), {}, "q_proj.g_idx has groups from 7 to 8, and there are 2"),
        ("gptq", each("g_idx", lambda t: t - 1), {}, "q_proj.g_idx has groups from -1 to 0"),
        ("gptq", each("g_idx", lambda t: t[None]), {}, "q_proj.g_idx is [1, 64], not [64]"),
    ],
)
def test_what_danlu_has_not_is_refused_by_name(
    kind: str, edit: Callable[[dict[str, torch.Tensor]], None], words: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = exported(small("llama", Scheme(4, 32)), tmp_path, kind)
    change(directory, edit, **words)
    with pytest.raises(UserError) as error:
        load_model(directory)
    assert message in str(error.value)
