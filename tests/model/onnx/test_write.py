"""Graphs of every family in onnxruntime: the logits are danlu's, in one pass, token by token, and padded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from danlu.core.errors import DanluError, StageFailed, UserError
from danlu.model.config import ModelConfig
from danlu.model.hub import load_model, save_model
from danlu.model.onnx.weights import nibbles
from danlu.model.onnx.write import write_onnx
from danlu.model.quantized import FLOAT8, NF4, Scheme, plan_of, quantize_
from danlu.model.transformer import Transformer
from tests.model.onnx.mobile import MOBILE_OPERATORS
from tests.model.onnx.runtime import Session

SHAPE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 96,
    "max_position": 64,
}  # fmt: skip
GPT2 = {
    "family": "gpt2", "norm": "layer", "mlp": "gelu", "positions": "learned", "qkv_bias": True, "output_bias": True,
    "mlp_bias": True, "n_kv_heads": 4,
}  # fmt: skip
LLAMA = {"family": "llama"}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position": 16}
LLAMA3 = {
    "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 16
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-untied-biased": LLAMA | {"tie_embeddings": False, "qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "llama-linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama-dynamic": LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position": 12},
    "llama3": LLAMA | {"rope_scaling": LLAMA3},
    "mistral": {"family": "mistral", "sliding_window": 5, "n_kv_heads": 1, "head_dim": 24},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "sliding_window": 4, "sliding_layers": [1]},
    "qwen3": {"family": "qwen3", "qk_norm": True, "head_dim": 32},
    "qwen3-yarn": {"family": "qwen3", "qk_norm": True, "rope_scaling": YARN},
    "gpt2": GPT2,
    "gpt2-erf": GPT2 | {"gelu_tanh": False, "tie_embeddings": False},
}  # fmt: skip


def make(case: str, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SHAPE | CASES[case] | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Saves a model and writes it as ONNX; the directory of that."""

    def run(model: Transformer, kind: str = "as-is", **more: Any) -> Path:
        save_model(model, tmp_path / "model")
        (tmp_path / "onnx").mkdir()
        facts = write_onnx(tmp_path / "model", tmp_path / "onnx", kind, **more)
        assert facts["checked_by"] == ["onnx", "onnxruntime"]
        return tmp_path / "onnx"

    return run


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_family_in_one_pass_and_token_by_token(case: str, write: Callable[..., Path]) -> None:
    model = make(case)
    session = Session(write(model) / "model.onnx")
    ids = torch.randint(0, 128, (2, 17))
    whole = session(ids)
    torch.testing.assert_close(whole, model(ids), rtol=1e-4, atol=1e-4)
    session.forget()
    pieces = [session(ids[:, :6]), session(ids[:, 6:9])] + [session(ids[:, t : t + 1]) for t in range(9, 17)]
    if case != "llama-dynamic":  # there a key keeps the angle of the length at which it was read
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)
    assert session.cache["past_key_values.1.key"].shape == (2, model.config.n_kv_heads, 17, model.config.head_dim)


@pytest.mark.parametrize("case", ["llama", "mistral", "gpt2"])
@torch.no_grad()
def test_rows_of_unequal_length_are_padded_on_the_left(case: str, write: Callable[..., Path]) -> None:
    model = make(case)
    session = Session(write(model) / "model.onnx")
    long, short = torch.randint(0, 128, (1, 9)), torch.randint(0, 128, (1, 5))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = session(torch.cat([long, torch.cat([torch.zeros(1, 4, dtype=torch.int64), short], 1)]), mask, positions)
    torch.testing.assert_close(logits[:1], model(long), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1:, 4:], model(short), rtol=1e-4, atol=1e-4)
    new = torch.tensor([[7], [8]])
    mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.int64)], 1)
    logits = session(new, mask, torch.tensor([[9], [5]]))
    torch.testing.assert_close(logits[:1, 0], model(torch.cat([long, new[:1]], 1))[:, -1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1:, 0], model(torch.cat([short, new[1:]], 1))[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["llama", "qwen3", "gpt2", "llama-untied-biased"])
@torch.no_grad()
def test_float16(case: str, write: Callable[..., Path]) -> None:
    model = make(case)
    directory = write(model, "float16")
    session = Session(directory / "model.onnx")
    ids = torch.randint(0, 128, (2, 12))
    found = torch.cat([session(ids[:, :7]), session(ids[:, 7:])], 1)
    assert (found - model(ids)).norm() / found.norm() < 4e-3
    assert next(iter(session.cache.values())).dtype == "float16"


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("case", ["llama", "llama-untied-biased", "qwen3", "gpt2"])
@torch.no_grad()
def test_a_quantised_model_keeps_its_numbers(case: str, kind: str, tmp_path: Path, write: Callable[..., Path]) -> None:
    model = make(case)
    quantize_(model, int(kind[3:]))
    directory = write(model)
    ids = torch.randint(0, 128, (2, 40))
    wanted = model(ids)
    exact = Session(directory / "model.onnx")
    torch.testing.assert_close(torch.cat([exact(ids[:, :30]), exact(ids[:, 30:])], 1), wanted, rtol=1e-4, atol=1e-4)
    rounded = Session(directory / "model.onnx", exact=False)(ids)
    assert 0 < (rounded - wanted).norm() / wanted.norm() < 0.05
    with pytest.raises(UserError, match="quantised already"):
        write_onnx(tmp_path / "model", tmp_path, "int4")


SCHEMES_OF_ALL = [Scheme(8, 32), Scheme(8, None, False), Scheme(4, 32, False), Scheme(4, 64), Scheme(4, 64, False)]


@pytest.mark.parametrize("scheme", SCHEMES_OF_ALL, ids=str)
@torch.no_grad()
def test_every_grid(scheme: Scheme, write: Callable[..., Path]) -> None:
    """Also of the embedding and the head, which are one here; blocks.1's down projection stays in float."""
    model = make("llama", intermediate_size=128)
    plan = plan_of(model, scheme, head=scheme)
    del plan["blocks.1.mlp.down"]
    quantize_(model, plan)
    session = Session(write(model) / "model.onnx")
    ids = torch.randint(0, 128, (1, 40))
    torch.testing.assert_close(session(ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", [FLOAT8, NF4])
@torch.no_grad()
def test_numbers_that_are_on_no_grid(scheme: Scheme, tmp_path: Path, write: Callable[..., Path]) -> None:
    model = make("llama", intermediate_size=128)
    quantize_(model, scheme)
    directory = write(model, "float32")
    ids = torch.randint(0, 128, (1, 40))
    torch.testing.assert_close(Session(directory / "model.onnx")(ids), model(ids), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=f"is {scheme.kind}, for which onnxruntime has no product"):
        write_onnx(tmp_path / "model", tmp_path)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@torch.no_grad()
def test_a_float_model_is_rounded_on_the_way(kind: str, write: Callable[..., Path]) -> None:
    model = make("llama")
    directory = write(model, kind)
    quantize_(model, int(kind[3:]))
    ids = torch.randint(0, 128, (1, 40))
    torch.testing.assert_close(Session(directory / "model.onnx")(ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "saved"), [("float16", 0.49), ("int8", 0.70), ("int4", 0.83)])
def test_size(kind: str, saved: float, write: Callable[..., Path]) -> None:
    """Of a shape with SmolLM2's proportions: a fifth of the weights is the embedding."""
    wide = make("llama", vocab_size=5000, hidden_size=256, intermediate_size=704, n_layers=6)
    directory = write(wide, kind)
    assert 1 - (directory / "model.onnx").stat().st_size / (4 * wide.n_params) > saved


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_operators_are_those_of_the_mobile_packages(case: str, kind: str, write: Callable[..., Path]) -> None:
    graph = onnx.load(write(make(case), kind) / "model.onnx")
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", 15)]
    assert {node.op_type for node in graph.graph.node} <= MOBILE_OPERATORS
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.graph.initializer}
    assert types == ({"FLOAT", "INT64", "INT8"} if kind == "int8" else {"FLOAT", "INT64"})


def test_int4_needs_only_standard_operators(write: Callable[..., Path]) -> None:
    graph = onnx.load(write(make("qwen3"), "int4") / "model.onnx")
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", 21)]
    assert {node.op_type for node in graph.graph.node} <= MOBILE_OPERATORS  # of another set, and on a type it has not


def test_a_tied_head_is_one_tensor(write: Callable[..., Path]) -> None:
    tensors = onnx.load(write(make("llama", vocab_size=6000)) / "model.onnx").graph.initializer
    assert [tensor.name for tensor in tensors if 6000 in tensor.dims] == ["embedding.weight"]


@torch.no_grad()
def test_large_tensors_lie_in_a_second_file(write: Callable[..., Path]) -> None:
    model = make("qwen3")
    directory = write(model, inline_limit=1000)
    ids = torch.randint(0, 128, (1, 9))
    torch.testing.assert_close(Session(directory / "model.onnx")(ids), model(ids), rtol=1e-4, atol=1e-4)
    assert (directory / "model.onnx").stat().st_size < (directory / "model.onnx.data").stat().st_size


def test_what_lies_beside_it(write: Callable[..., Path]) -> None:
    model = make("llama")
    model.config = model.config.model_copy(update={"bos_id": 1, "eos_ids": (2, 3)})
    directory = write(model)
    assert sorted(file.name for file in directory.iterdir()) == [
        "config.json", "genai_config.json", "generation_config.json", "model.onnx"
    ]  # fmt: skip
    told = json.loads((directory / "genai_config.json").read_text())
    assert told["model"]["eos_token_id"] == [2, 3] and told["model"]["pad_token_id"] == 2
    names = {one.name for one in onnx.load(directory / "model.onnx").graph.input}
    for name in told["model"]["decoder"]["inputs"].values():
        assert (name % 0 if "%d" in name else name) in names


def test_a_number_that_float16_has_not(write: Callable[..., Path]) -> None:
    model = make("llama")
    torch.nn.init.constant_(model.blocks[0].mlp.down.weight, 1e5)
    with pytest.raises(UserError, match=r"mlp\.down has a weight that float16 cannot hold"):
        write(model, "float16")


def test_a_graph_that_is_refused_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    from danlu.model.onnx.decoder import Decoder

    monkeypatch.setattr(Decoder, "_turn", lambda self, x: self.graph.op("Concat", x, x, axis=-1))
    with pytest.raises(StageFailed, match=r"onnx\w* refuses the graph"):
        write(make("llama"), inline_limit=1000)
    assert not list((tmp_path / "onnx").iterdir())


def test_logits_that_are_not_finite(tmp_path: Path, write: Callable[..., Path]) -> None:
    model = make("llama")
    torch.nn.init.constant_(model.norm.weight, 3e38)
    with pytest.raises(StageFailed, match="no finite logits"):
        write(model)
    assert not list((tmp_path / "onnx").iterdir())


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    save_model(make("llama"), tmp_path / "model")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DanluError, match=r'pip install "danlu\[onnx\]"'):
        write_onnx(tmp_path / "model", tmp_path)


def test_two_numbers_in_a_byte() -> None:
    values = np.array([[1, -8, 7], [-1, 0, 5], [2, 3, -2]], dtype=np.int8)
    assert nibbles(values).tolist() == [0x81, 0xF7, 0x50, 0x32, 0x0E]
    transposed = nibbles(values.T)  # row after row of what is asked for, not of the memory
    assert transposed.tolist() == [0xF1, 0x82, 0x30, 0x57, 0x0E]


@torch.no_grad()
def test_through_export_model(tmp_path: Path) -> None:
    from danlu.compress.export import export_model

    save_model(make("qwen3"), tmp_path / "model", dtype="float16")
    (tmp_path / "out").mkdir()
    facts = export_model(tmp_path / "model", tmp_path / "out", "onnx")
    assert facts["numbers"] == "float16" and facts["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    ids = torch.randint(0, 128, (1, 9))
    wanted = load_model(tmp_path / "model", dtype="float32")(ids)
    found = Session(tmp_path / "out" / "model.onnx")(ids)
    assert (found - wanted).norm() / wanted.norm() < 4e-3
