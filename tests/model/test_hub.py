"""Directories in and out: same bytes for same weights, shards, dtypes, and every way a directory can be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.core.errors import UserError
from danlu.model import load, load_model, save_model
from danlu.model.hub import INDEX, WEIGHTS, Checkpoint
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer

Make = Callable[..., Transformer]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_a_round_trip_keeps_every_bit(make_model: Make, tmp_path: Path) -> None:
    model = make_model(tie_embeddings=False)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in again.parameters())


GPT2 = {
    "family": "gpt2", "positions": "learned", "norm": "layer", "mlp": "gelu", "qk_norm": False, "n_kv_heads": 4,
    "qkv_bias": True, "output_bias": True, "mlp_bias": True,
}  # fmt: skip


@pytest.mark.parametrize("shape", [{}, {"tie_embeddings": False}, GPT2], ids=["tied", "untied", "gpt2"])
@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_lent_is_what_is_loaded(
    make_model: Make, tmp_path: Path, shape: dict[str, object], bits: int, dtype: torch.dtype
) -> None:
    model = make_model(n_layers=3, intermediate_size=64, **shape)
    if bits:
        quantize_(model, bits)
    save_model(model, tmp_path)
    wanted = load_model(tmp_path, dtype=dtype).state_dict()
    checkpoint = Checkpoint(tmp_path)
    checkpoint.model.to(dtype)
    modules = {name.rpartition(".")[0] if name.count(".") < 2 else ".".join(name.split(".")[:2]) for name in wanted}
    seen = set()
    for name in sorted(modules):
        with checkpoint.lent(name):
            for key, tensor in checkpoint.model.get_submodule(name).state_dict().items():
                assert torch.equal(tensor, wanted[f"{name}.{key}"]) and tensor.dtype == wanted[f"{name}.{key}"].dtype
                seen.add(f"{name}.{key}")
    assert seen == set(wanted)
    assert all(tensor.is_meta for tensor in checkpoint.model.state_dict().values())
    loaded = checkpoint.load().state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items())


def test_a_loaded_model_has_memory_of_its_own(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    model = load_model(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = tmp_path / WEIGHTS
    with file.open("r+b") as handle:  # in place, where a map would show it
        handle.write(bytes(file.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_same_weights_are_the_same_bytes(make_model: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(make_model(), tmp_path / name)
    save_model(load_model(tmp_path / "a"), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_names_on_disk_are_hugging_faces(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    save_model(model, tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    key = stored["model.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(key, model.blocks[1].attention.qkv.weight[32:48])
    assert "lm_head.weight" not in stored  # tied


def test_shards_load_in_danlu_and_in_transformers(make_model: Make, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = make_model().eval()
    save_model(model, tmp_path, max_shard_size=8000)
    index = json.loads((tmp_path / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2 and not (tmp_path / WEIGHTS).exists()
    assert index["metadata"]["total_size"] == 4 * model.n_params
    ids = torch.randint(0, 61, (1, 9))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(ids), model(ids))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-4)

    save_model(model, tmp_path)  # one file again: the shards of before are gone
    assert sorted(file.name for file in tmp_path.glob("*safetensors*")) == [WEIGHTS]

    save_model(model, tmp_path, max_shard_size=8000)
    (tmp_path / shards[1]).unlink()
    with pytest.raises(UserError, match=shards[1]):
        load_model(tmp_path)


def test_dtypes_are_the_files_or_the_callers(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path / "half", dtype="bfloat16")
    assert json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_file(tmp_path / "half" / WEIGHTS)["model.norm.weight"].dtype == torch.bfloat16
    assert load_model(tmp_path / "half").norm.weight.dtype == torch.bfloat16
    assert load_model(tmp_path / "half", dtype=torch.float32).norm.weight.dtype == torch.float32
    config = json.loads((tmp_path / "half/config.json").read_text())
    del config["torch_dtype"]
    (tmp_path / "half/config.json").write_text(json.dumps(config))
    assert load_model(tmp_path / "half").norm.weight.dtype == torch.bfloat16  # what the file holds
    with pytest.raises(UserError, match="unknown dtype 'int3'"):
        load_model(tmp_path / "half", dtype="int3")


def test_without_a_tokenizer_there_is_none(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    model, tokenizer = load(tmp_path)
    assert isinstance(model, Transformer) and tokenizer is None


class EndOfText:
    """What save_model asks of a tokenizer."""

    bos_id, eos_id, pad_id, stop_ids = 1, 2, None, frozenset({2, 7})

    def save(self, path: Path) -> None:
        (path / "tokenizer.json").write_text("{}")


def test_the_ids_that_end_a_text_are_written(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path, EndOfText())  # type: ignore[arg-type]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, 7]}
    assert (tmp_path / "tokenizer.json").exists()
    assert load_model(tmp_path).config.eos_ids == (2, 7)


def test_old_checkpoints_without_prefix_and_with_leftovers_load(tmp_path: Path) -> None:
    """The first GPT-2 files: no "transformer." before the names, and the causal mask among the weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    reference = transformers.GPT2LMHeadModel(config).eval()
    reference.save_pretrained(tmp_path)
    stored = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    save_file({**stored, "h.0.attn.bias": torch.ones(1, 1, 16, 16)}, tmp_path / WEIGHTS)
    ids = torch.randint(0, 50, (1, 8))
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids), reference(ids).logits, atol=1e-4, rtol=1e-4)


def said(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(path)
    return str(caught.value)


def test_what_is_not_there_is_said(make_model: Make, tmp_path: Path) -> None:
    assert "no model directory" in said(tmp_path / "nowhere")
    assert "has no config.json" in said(tmp_path)
    save_model(make_model(), tmp_path)
    (tmp_path / WEIGHTS).unlink()
    assert "has no model.safetensors" in said(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "does not unpickle" in said(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    assert "config.json cannot be read" in said(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "does not hold a JSON object" in said(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_sentence(make_model: Make, tmp_path: Path, keep: float) -> None:
    save_model(make_model(), tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: int(len(data) * keep)])
    assert "truncated or damaged" in said(tmp_path)


def test_tensors_that_do_not_fit_the_config_are_named(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    good = load_file(tmp_path / WEIGHTS)
    key = "model.layers.0.self_attn.k_proj.weight"

    save_file({name: tensor for name, tensor in good.items() if name != key}, tmp_path / WEIGHTS)
    assert f"lacks {key}" in said(tmp_path)
    save_file({**good, key: torch.zeros(8, 32)}, tmp_path / WEIGHTS)
    assert f"{key} is [8, 32], not [16, 32]" in said(tmp_path)
    save_file({**good, "model.layers.0.self_attn.k_proj.bias": torch.zeros(16)}, tmp_path / WEIGHTS)
    assert "holds model.layers.0.self_attn.k_proj.bias" in said(tmp_path)
    save_file({**good, key: torch.zeros(16, 32, dtype=torch.int32)}, tmp_path / WEIGHTS)
    assert f"{key} is stored as int32 and has to be floats" in said(tmp_path)
    save_file({**good, "lm_head.weight": torch.zeros(61, 32)}, tmp_path / WEIGHTS)
    load_model(tmp_path)  # the head of a tied model, written once more


def test_an_index_may_not_point_outside(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path, max_shard_size=8000)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    assert "not a file of this directory" in said(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": 3}')
    assert "is damaged" in said(tmp_path)


PAIRS: dict[str, object] = {"quant_method": "danlu", "format": "low-rank"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "promises 1,000,000,000 layers"),
        ({"hidden_size": 2**63}, "hidden_size must be from 1 to"),
        ({"head_dim": 2**40}, "head_dim must be from 1 to"),
        ({"rms_norm_eps": -1}, "norm_eps must be a positive number"),
        ({"rope_theta": float("inf")}, "rope_theta must be a positive number"),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"quantization_config": "gptq"}, "quantization_config is no mapping"),
        ({"quantization_config": {"quant_method": ["gptq"]}}, "which danlu does not read"),
        ({"quantization_config": PAIRS | {"ranks": [1]}}, "has no ranks"),
        ({"quantization_config": PAIRS | {"ranks": {"blocks.0.mlp.down": 2**62}}}, "blocks.0.mlp.down the rank"),
    ],
)
def test_a_config_that_promises_the_impossible(
    change: dict[str, object], message: str, make_model: Make, tmp_path: Path
) -> None:
    save_model(make_model(), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message in said(tmp_path)
