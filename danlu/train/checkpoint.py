"""Checkpoints: everything a run is, written in one step, read back to the same bits.

    WORK/checkpoints/step-00000120/
        model.safetensors        the weights as they are trained (float32)
        optimizer.safetensors    momenta, variances, the step counter
        random.safetensors       state of torch's generators (CPU, every CUDA device)
        state.json               data cursor, what was spent, the curve so far, Python's and numpy's generators

A run that is killed and one that is not must end in the same bits, so whatever the next step reads must be here.
The directory is written under a temporary name, flushed to the disk and renamed: at every moment the newest complete
checkpoint has its final name and nothing else has. The last two are kept, because a disk can be damaged later too.

Nothing is pickled. A pickle runs code when it is opened, and a checkpoint is a file people hand to each other.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.artifact import atomic_directory, write_json
from danlu.core.errors import StageFailed
from danlu.train.optim import Optimizer

_NAME = re.compile(r"step-(\d+)")


def save_checkpoint(
    work: Path, step: int, model: nn.Module, optimizer: Optimizer, state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write the checkpoint of ``step`` below ``work`` and delete all but the newest ``keep``.

    ``state`` is the caller's own, JSON with string keys. Raises StageFailed when the disk is full; the checkpoints
    that were there stay.
    """
    from safetensors.torch import save_file

    path = work / "checkpoints" / f"step-{step:08d}"
    tensors, generators = _random_state()
    try:
        with atomic_directory(path) as temporary:
            save_file(_weights(model), temporary / "model.safetensors")
            save_file(_contiguous(optimizer.state_dict()), temporary / "optimizer.safetensors")
            save_file(tensors, temporary / "random.safetensors")
            write_json(temporary / "state.json", {"step": step, "random": generators, "state": state})
    except Exception as error:  # safetensors reports a full disk with a class of its own
        if not (isinstance(error, OSError) or type(error).__name__ == "SafetensorError"):
            raise
        raise StageFailed(
            f"the checkpoint of step {step} could not be written ({error})", "free some disk space and run it again"
        ) from error
    for old in list(checkpoints(work))[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def resume(
    work: Path, model: nn.Module, optimizer: Optimizer, warn: Callable[[str], None] = lambda message: None
) -> dict[str, Any] | None:
    """Load the newest checkpoint below ``work`` into model, optimiser and generators; None when there is none.

    Returns the ``state`` that was saved with it. A checkpoint that cannot be read is reported through ``warn`` and the
    one before it is taken. What a killed process left half-written is removed.
    """
    from safetensors.torch import load_file

    _sweep(work / "checkpoints")
    for path in checkpoints(work):
        try:  # read everything before changing anything
            weights = load_file(path / "model.safetensors")
            moments = load_file(path / "optimizer.safetensors")
            tensors = load_file(path / "random.safetensors")
            saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if set(weights) != set(_weights(model)):
                raise ValueError("its weights are those of another model")
        except Exception as error:  # a damaged file fails in many ways: OSError, ValueError, SafetensorError
            warn(f"checkpoint {path.name} cannot be read ({error}); going back to the one before")
            continue
        with torch.no_grad():
            for name, param in model.named_parameters():
                param.copy_(weights[name])
        optimizer.load_state_dict(moments)
        _restore_random_state(tensors, saved["random"])
        state: dict[str, Any] = saved["state"]
        return state
    return None


def checkpoints(work: Path) -> Iterator[Path]:
    """Complete checkpoints below ``work``, newest first."""
    folder = work / "checkpoints"
    if folder.is_dir():
        yield from sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def _sweep(folder: Path) -> None:
    """Remove temporary siblings of processes that were killed while writing."""
    if folder.is_dir():
        for path in folder.iterdir():
            if not _NAME.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name; a tied weight appears once. Buffers are derived from the config and not saved."""
    return _contiguous({name: param.detach() for name, param in model.named_parameters()})


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
    }


def _restore_random_state(tensors: dict[str, Tensor], generators: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda.{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    version, words, gauss = generators["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = generators["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
