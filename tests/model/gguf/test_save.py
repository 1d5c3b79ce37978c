"""Files that danlu writes, read again: by danlu, and by the `gguf` package as an independent reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.compress.export import export_model
from danlu.core.errors import UserError
from danlu.kernels.grid import widen
from danlu.model import hub
from danlu.model.config import RopeScaling
from danlu.model.gguf import names, save
from danlu.model.gguf.load import load_gguf
from danlu.model.gguf.reader import open_gguf
from danlu.model.quantized import FLOAT8, Scheme, matrices, quantize_
from danlu.model.transformer import Transformer
from danlu.tokenizer.gguf import tokenizer_from_gguf
from danlu.tokenizer.tokenizer import Tokenizer
from tests.model.gguf.test_load import CONFIGS, as_gguf, random_model
from tests.tokenizer.test_gguf import small

IDS = torch.arange(24)[None] % 40


def stored(model: Transformer, path: Path, tokenizer: Tokenizer | None = None) -> Path:
    hub.save_model(model, path, tokenizer)
    return path


def exported(model: Path, directory: Path, kind: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    facts = export_model(model, directory, "gguf", kind)
    assert [file.name for file in directory.iterdir()] == [facts["file"]]
    return directory / facts["file"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_comes_back(name: str, tmp_path: Path) -> None:
    model = random_model(CONFIGS[name])
    loaded, tokenizer = load_gguf(exported(stored(model, tmp_path / "hf"), tmp_path / "out", "as-is"))
    assert tokenizer is None
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(IDS), model(IDS))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_is_what_the_rules_say(name: str, tmp_path: Path) -> None:
    """Keys and tensors, held against the rules of llama.cpp's converter as test_load.py has written them down."""
    gguf = pytest.importorskip("gguf")
    model = random_model(CONFIGS[name])
    reader = gguf.GGUFReader(exported(stored(model, tmp_path / "hf"), tmp_path / "out", "F32"))
    metadata, tensors = as_gguf(model)
    found = {key: field.contents() for key, field in reader.fields.items()}
    assert {key: found[key] for key in metadata} == pytest.approx(metadata)
    assert (found["general.file_type"], found["general.quantization_version"]) == (0, 2)
    assert {tensor.name for tensor in reader.tensors} == set(tensors)
    for tensor in reader.tensors:
        np.testing.assert_allclose(tensor.data, tensors[tensor.name], rtol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_types(kind: str, tmp_path: Path) -> None:
    """Both readers find the same values, near those of the model; the mixture is llama.cpp's."""
    gguf = pytest.importorskip("gguf")
    shape = {"hidden_size": 256, "intermediate_size": 288, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64}
    model = random_model(CONFIGS["llama"].model_copy(update=shape))
    path = exported(stored(model, tmp_path / "hf"), tmp_path / "out", kind)
    reader, plain = gguf.GGUFReader(path), as_gguf(model)[1]
    with open_gguf(path) as file:
        types = {name: info.type for name, info in file.tensors.items()}
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(file.tensor(tensor.name).numpy(), values)
            lost = np.linalg.norm(values - plain[tensor.name]) / np.linalg.norm(plain[tensor.name])
            assert lost < {"F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.01}.get(kind, 0.12), tensor.name
    assert {types[name] for name in types if name.endswith("_norm.weight")} == {"F32"}
    if kind == "Q4_K":
        matters = {"blk.2.attn_v.weight": "Q6_K", "blk.1.attn_v.weight": "Q4_K", "blk.0.ffn_down.weight": "Q5_0"}
        assert {name: types[name] for name in matters} == matters
        assert (types["blk.2.ffn_down.weight"], types["token_embd.weight"]) == ("Q8_0", "Q6_K")
    assert load_gguf(path)[0].config == model.config


@pytest.mark.parametrize(
    "scheme",
    [Scheme(8), Scheme(8, 32), Scheme(4, 32), Scheme(4, 64), Scheme(4, 128, symmetric=False)],
    ids=str,
)
def test_a_quantised_model_keeps_its_numbers(scheme: Scheme, tmp_path: Path) -> None:
    shape = {"hidden_size": 128, "intermediate_size": 256, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32}
    model = random_model(CONFIGS["llama"].model_copy(update=shape))
    quantize_(model, scheme)
    loaded, _ = load_gguf(exported(stored(model, tmp_path / "hf"), tmp_path / "out", "as-is"))
    for name, module in matrices(model).items():
        grid = module.grid()  # type: ignore[operator]
        wanted = widen(grid.values, grid.scale.half(), grid.zero)
        found = loaded.get_submodule(name).get_parameter("weight")
        exact = grid.zero is None  # the offset of Q4_1 is a float16 of its own
        torch.testing.assert_close(found, wanted, rtol=0, atol=0 if exact else 1e-3 * float(wanted.abs().max()))


def test_what_no_type_can_hold(tmp_path: Path) -> None:
    model = random_model(CONFIGS["llama"])
    quantize_(model, FLOAT8)
    source = stored(model, tmp_path / "hf")
    with pytest.raises(UserError, match=r"no type of GGUF holds.*float-quantized.*--type"):
        exported(source, tmp_path / "out", "as-is")
    loaded, _ = load_gguf(exported(source, tmp_path / "q8", "Q8_0"))
    with torch.inference_mode():
        assert (loaded(IDS) - model(IDS)).norm() / model(IDS).norm() < 0.05


def test_tokenizer_and_template_travel(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tokenizer = tokenizer_from_gguf({**small(), "tokenizer.chat_template": "{{ messages[0]['content'] }}!"})
    assert tokenizer is not None
    model = random_model(CONFIGS["qwen2"].model_copy(update={"vocab_size": 300}))
    path = exported(stored(model, tmp_path / "hf", tokenizer), tmp_path / "out", "F16")
    found = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    assert found["tokenizer.ggml.tokens"][:264] == small()["tokenizer.ggml.tokens"]
    assert len(found["tokenizer.ggml.tokens"]) == 300 and set(found["tokenizer.ggml.token_type"][264:]) == {5}
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.add_bos_token"]) == (261, False)
    _, again = load_gguf(path)
    assert again is not None and again.chat_template == "{{ messages[0]['content'] }}!"
    assert again.encode("hello<|im_end|> 早", special=True) == tokenizer.encode("hello<|im_end|> 早", special=True)
    assert again.stop_ids == tokenizer.stop_ids


def test_from_one_file_to_another(tmp_path: Path) -> None:
    first = exported(stored(random_model(CONFIGS["llama 3.1"]), tmp_path / "hf"), tmp_path / "one", "F32")
    second = exported(first, tmp_path / "two", "Q8_0")
    with open_gguf(second) as file:
        assert {info.type for info in file.tensors.values()} == {"F32", "F16", "Q8_0"}
    with pytest.raises(UserError, match="GGUF file already"):
        exported(first, tmp_path / "three", "as-is")


DYNAMIC = RopeScaling(type="dynamic", factor=2.0)
BETA = RopeScaling(type="yarn", factor=4.0, original_max_position=16, beta_slow=0.05)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"rope_scaling": DYNAMIC}, "rope type dynamic"),
        ("qwen2, yarn", {"rope_scaling": BETA}, "cannot say rope_scaling"),
        ("gpt2", {"gelu_tanh": False}, "cannot say gelu_tanh"),
        ("qwen3", {"output_bias": True, "qkv_bias": True}, "qwen3 has no output_bias"),
        ("qwen2", {"sliding_window": 5, "sliding_layers": (1,)}, "cannot say sliding"),
    ],
)
def test_what_gguf_cannot_say(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = stored(random_model(CONFIGS[name].model_copy(update=change)), tmp_path / "hf")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        export_model(source, tmp_path / "out", "gguf", "F32")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_family_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(random_model(CONFIGS["qwen3"]), tmp_path / "hf")
    known = {name: row for name, row in names.ARCHITECTURES.items() if name != "qwen3"}
    monkeypatch.setattr(names, "ARCHITECTURES", known)
    with pytest.raises(UserError, match='"qwen3" is not known'):
        exported(source, tmp_path / "out", "F32")


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    model = random_model(CONFIGS["llama"])
    model.embedding.weight.data[3, 5] = 1e6
    source = stored(model, tmp_path / "hf")
    with pytest.raises(UserError, match=r"token_embd\.weight has numbers that F16 cannot hold"):
        exported(source, tmp_path / "out", "F16")
    assert list((tmp_path / "out").iterdir()) == []
    assert exported(source, tmp_path / "bf16", "BF16").exists()


def test_a_file_that_llama_cpp_refuses_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a llama_cpp that refuses everything, found by the process that opens the file."""
    fake = tmp_path / "packages"
    fake.mkdir()
    (fake / "llama_cpp.py").write_text(
        "import sys\n"
        "class Parameters: n_gpu_layers = 0\n"
        "llama_model_default_params = Parameters\n"
        "def llama_model_load_from_file(path, parameters):\n"
        "    print('error loading model: too small', file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fake), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(save.importlib.util, "find_spec", lambda name: name)
    source = stored(random_model(CONFIGS["llama"]), tmp_path / "hf")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="refuses the file: error loading model: too small"):
        export_model(source, tmp_path / "out", "gguf", "F32")
    assert list((tmp_path / "out").iterdir()) == []


def test_same_bytes_twice(tmp_path: Path) -> None:
    source = stored(random_model(CONFIGS["llama"]), tmp_path / "hf")
    one, two = (exported(source, tmp_path / name, "Q4_0").read_bytes() for name in ("one", "two"))
    assert one == two
