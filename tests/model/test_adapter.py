"""PEFT's layout in and out, the one formula, and what is wrong with an adapter, said by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.core.artifact import Manifest, describe_files
from danlu.core.errors import UserError
from danlu.core.store import Store
from danlu.model.adapter import CONFIG, WEIGHTS, Adapter, LowRank, load_adapter, merge, places, write_adapter
from danlu.model.config import ModelConfig
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.adapters import make_adapter

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "intermediate_size": 48, "max_position": 64,
}  # fmt: skip
QWEN3 = ModelConfig(**SIZES, family="qwen3", n_kv_heads=2, qk_norm=True)
LLAMA = ModelConfig(**SIZES, family="llama", n_kv_heads=1, head_dim=16)
GPT2 = ModelConfig(
    **SIZES, family="gpt2", positions="learned", norm="layer", mlp="gelu", qkv_bias=True, output_bias=True,
    mlp_bias=True,
)  # fmt: skip


def same(one: Adapter, other: Adapter) -> None:
    assert len(one.parts) == len(other.parts)
    for a, b in zip(one.parts, other.parts, strict=True):
        assert (a.module, a.first, a.scale) == (b.module, b.first, pytest.approx(b.scale))
        assert torch.equal(a.a, b.a) and torch.equal(a.b, b.b)


# ---- in and out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [QWEN3, LLAMA, GPT2], ids=lambda config: config.family)
@pytest.mark.parametrize(
    "ends", [(), ("proj", "c_fc"), ("q_proj", "v_proj", "c_attn"), ("1.mlp.down_proj", "1.mlp.c_proj")]
)
def test_what_is_written_is_read(tmp_path: Path, config: ModelConfig, ends: tuple[str, ...]) -> None:
    adapter = replace(make_adapter(config, ends=ends), base="somebody/base")
    write_adapter(adapter, tmp_path / "a", config)
    read = load_adapter(tmp_path / "a", config)
    same(adapter, read)
    assert read.base == "somebody/base"


def test_ranks_and_scales_of_their_own(tmp_path: Path) -> None:
    parts = [*make_adapter(LLAMA, rank=4).parts]
    parts[3] = make_adapter(LLAMA, rank=16, seed=1, scale=0.5).parts[3]
    parts[-1] = replace(parts[-1], scale=7.0)
    write_adapter(Adapter(tuple(parts)), tmp_path, LLAMA)
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert (raw["r"], raw["lora_alpha"], len(raw["rank_pattern"]), len(raw["alpha_pattern"])) == (4, 8.0, 1, 1)
    same(Adapter(tuple(parts)), load_adapter(tmp_path, LLAMA))


def test_the_layout_is_that_of_peft(tmp_path: Path) -> None:
    write_adapter(make_adapter(LLAMA, ends=("q_proj", "up_proj")), tmp_path, LLAMA)
    tensors = load_file(tmp_path / WEIGHTS)
    assert len(tensors) == 8
    assert tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"].shape == (48, 4)
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert raw["peft_type"] == "LORA" and raw["bias"] == "none" and raw["target_modules"] == ["q_proj", "up_proj"]


def test_a_name_lands_in_its_rows_of_the_joined_matrix() -> None:
    found = places(LLAMA)  # 4 query heads and one key and one value head of 16
    where = [
        (found[f"model.layers.1.self_attn.{p}_proj"].first, found[f"model.layers.1.self_attn.{p}_proj"].rows)
        for p in "qkv"
    ]
    assert where == [(0, 64), (64, 16), (80, 16)]
    assert found["model.layers.0.mlp.up_proj"].first == 48
    assert places(GPT2)["transformer.h.0.attn.c_attn"].rows == 96


# ---- the formula -----------------------------------------------------------------------------------------------


def test_merge_by_hand() -> None:
    model = Transformer(LLAMA)
    before = model.blocks[0].attention.qkv.weight.detach().clone()
    part = LowRank("blocks.0.attention.qkv", 64, torch.ones(1, 32), torch.tensor([[3.0]] + [[0.0]] * 15), 2.0)
    merge(model, Adapter((part,)))
    change = model.blocks[0].attention.qkv.weight.detach() - before
    torch.testing.assert_close(change[64], torch.full((32,), 6.0))
    assert not change[:64].any() and not change[65:].any()


def test_a_quantised_base_is_not_merged_into() -> None:
    model = Transformer(LLAMA)
    adapter = make_adapter(LLAMA)
    quantize_(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="quantised"):
        merge(model, adapter)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("config", [QWEN3, LLAMA, GPT2], ids=lambda config: config.family)
def test_peft_opens_what_danlu_writes_and_the_other_way_round(tmp_path: Path, config: ModelConfig) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = Transformer(config).eval()
    adapter = make_adapter(config, rank=4)
    adapter = Adapter((*adapter.parts[:-1], make_adapter(config, rank=8, seed=2, scale=0.25).parts[-1]))
    save_model(model, tmp_path / "base")
    write_adapter(adapter, tmp_path / "adapter", config)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(3))
    merge(model, adapter)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "back")
    same(adapter, load_adapter(tmp_path / "back", load_model(tmp_path / "base").config))


# ---- what the config may say -----------------------------------------------------------------------------------


@pytest.fixture
def change(tmp_path: Path) -> Callable[..., Path]:
    """An adapter on disk with some keys of its config changed."""

    def made(ends: tuple[str, ...] = (), config: ModelConfig = LLAMA, **keys: Any) -> Path:
        write_adapter(make_adapter(config, ends=ends), tmp_path, config)
        raw = json.loads((tmp_path / CONFIG).read_text())
        (tmp_path / CONFIG).write_text(json.dumps(raw | keys))
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("ends", "keys"),
    [
        ((), {"target_modules": "all-linear"}),
        (("q_proj", "v_proj"), {"target_modules": r".*\.self_attn\.(q|v)_proj"}),
        (("1.mlp.up_proj",), {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
        (("1.mlp.up_proj",), {"target_modules": ["up_proj"], "layers_to_transform": 1}),
        (("gate_proj", "up_proj"), {"target_modules": r".*\.mlp\..*", "exclude_modules": ["down_proj"]}),
        (("0.self_attn.o_proj",), {"target_modules": ["model.layers.0.self_attn.o_proj", "query_key_value"]}),
    ],
)
def test_ways_to_name_targets(change: Callable[..., Path], ends: tuple[str, ...], keys: dict[str, Any]) -> None:
    same(load_adapter(change(ends, **keys), LLAMA), make_adapter(LLAMA, ends=ends))


def test_scales(change: Callable[..., Path]) -> None:
    assert {p.scale for p in load_adapter(change(lora_alpha=32), LLAMA).parts} == {8.0}
    assert {p.scale for p in load_adapter(change(lora_alpha=32, use_rslora=True), LLAMA).parts} == {16.0}
    found = load_adapter(change(alpha_pattern={"layers.1.*.q_proj": 1, "q_proj": 2}), LLAMA).parts
    assert [p.scale for p in found if p.module.endswith("qkv") and not p.first] == [0.5, 0.25]
    assert {p.scale for p in found if p.first or not p.module.endswith("qkv")} == {2.0}


def test_an_adapter_of_the_bare_model(change: Callable[..., Path]) -> None:
    path = change(("q_proj",))
    tensors = load_file(path / WEIGHTS)
    save_file({name.replace(".model.model.", ".model."): t for name, t in tensors.items()}, path / WEIGHTS)
    same(load_adapter(path, LLAMA), make_adapter(LLAMA, ends=("q_proj",)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "use_dora.*DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa.*changes the base"),
        ({"r": 0}, "r is 0"),
        ({"r": 4.0}, "r is 4.0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"rank_pattern": {"q_proj": "x"}}, "r is 'x'"),
        ({"rank_pattern": [4]}, "rank_pattern is"),
        ({"target_modules": None}, "no target_modules"),
        ({"target_modules": "("}, "no expression"),
        ({"target_modules": {"a": 1}}, "target_modules is"),
        ({"target_modules": ["q_proj", "lm_head"]}, "changes lm_head"),
        ({"target_modules": ".*"}, "changes model.embed_tokens"),
        ({"target_modules": ["c_attn"]}, "name no matrix"),
        ({"target_modules": ["q_proj"]}, "down_proj, which target_modules .* does not name"),
        ({"layers_to_transform": ["one"]}, "layers_to_transform"),
        ({"r": 8}, r"q_proj.lora_A is \[4, 32\], and .* needs \[8, 32\]"),
        ({"rank_pattern": {"o_proj": 2}}, r"o_proj.lora_A is \[4, 64\]"),
    ],
)
def test_what_the_config_may_not_say(change: Callable[..., Path], keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_adapter(change(**keys), LLAMA)


# ---- damage, and other bases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"n_layers": 1}, "changes model.layers.1.*, which a llama of 1 layers"),
        ({"n_layers": 3}, r"lacks model.layers.2.self_attn.q_proj.lora_A"),
        ({"hidden_size": 64}, r"q_proj.lora_A is \[4, 32\], and a llama of 2 layers and width 64 needs \[4, 64\]"),
        ({"n_kv_heads": 2}, r"k_proj.lora_B is \[16, 4\]"),
        ({"intermediate_size": 64}, r"gate_proj.lora_B is \[48, 4\]"),
    ],
)
def test_another_base_is_refused_by_what_does_not_fit(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    write_adapter(replace(make_adapter(LLAMA), base="maker/model"), tmp_path, LLAMA)
    with pytest.raises(UserError, match=said) as caught:
        load_adapter(tmp_path, LLAMA.model_copy(update=other))
    assert "maker/model" in caught.value.hint
    with pytest.raises(UserError, match="which a gpt2"):
        load_adapter(tmp_path, GPT2)


NAME = "base_model.model.model.layers.0.self_attn.q_proj"


def test_damaged_tensors(change: Callable[..., Path]) -> None:
    def refused(said: str, alter: Callable[[dict[str, torch.Tensor]], Any]) -> None:
        path = change(("q_proj",))
        tensors = load_file(path / WEIGHTS)
        alter(tensors)
        save_file(tensors, path / WEIGHTS)
        with pytest.raises(UserError, match=said):
            load_adapter(path, LLAMA)

    refused(
        "q_proj.lora_B holds a value that is not finite",
        lambda t: t[f"{NAME}.lora_B.weight"].view(-1)[5:6].fill_(torch.nan),
    )
    refused("not finite", lambda t: t[f"{NAME}.lora_A.weight"].view(-1)[:1].fill_(torch.inf))
    refused("int8", lambda t: t.update({f"{NAME}.lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)}))
    refused("lacks model.layers.0.self_attn.q_proj.lora_B", lambda t: t.pop(f"{NAME}.lora_B.weight"))
    refused("lora_magnitude_vector", lambda t: t.update({f"{NAME}.lora_magnitude_vector": torch.zeros(64)}))
    refused(r"lora_A is \[4\]", lambda t: t.update({f"{NAME}.lora_A.weight": torch.zeros(4)}))


def test_damaged_files(change: Callable[..., Path], tmp_path: Path) -> None:
    path = change()
    whole = (path / WEIGHTS).read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        (path / WEIGHTS).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="truncated or damaged"):
            load_adapter(path, LLAMA)
    (path / WEIGHTS).rename(path / "adapter_model.bin")
    with pytest.raises(UserError, match="does not unpickle"):
        load_adapter(path, LLAMA)
    for text in ("{", "[]", "\udcff"):
        (path / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=CONFIG):
            load_adapter(path, LLAMA)
    (path / CONFIG).unlink()
    with pytest.raises(UserError, match=f"no {CONFIG}"):
        load_adapter(path, LLAMA)
    with pytest.raises(UserError, match="nowhere"):
        load_adapter(tmp_path / "nowhere", LLAMA)


def test_an_adapter_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_STORE", str(tmp_path / "store"))
    with pytest.raises(UserError, match='"poet"'):
        load_adapter("poet", LLAMA)
    store = Store(tmp_path / "store")
    identity = "adapter-0123456789abcdef"
    with store.new_directory(identity) as folder:
        write_adapter(make_adapter(LLAMA), folder, LLAMA)
        store.publish(folder, Manifest("adapter", identity, "toys.x", "1", {}, {}, describe_files(folder)))
    same(load_adapter("adapter-0123", LLAMA), make_adapter(LLAMA))
