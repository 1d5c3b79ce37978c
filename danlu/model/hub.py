"""The Hugging Face directory layout, in and out.

    config.json                     the shape (families.py translates it) and the dtype
    model.safetensors               all tensors, or
    model-00001-of-0000N.safetensors ...  and model.safetensors.index.json {"weight_map": {tensor: file}}
    generation_config.json          beginning and end ids
    tokenizer.json, tokenizer_config.json

Opening builds the model on the meta device (shapes without memory) and holds it against the files. Then there are two
ways to the numbers. Loading makes each tensor once, in its final dtype and place, and copies the file's bytes into it
from a memory map: the peak is the model itself. Lending is for a reader that keeps its own copy, as the compiled
kernels do: one module at a time, straight from the map, and nothing stays. What is joined in danlu (query, key and
value) is filled part by part.

Saving writes the same bytes for the same weights: names sorted, no times, no machine.

safetensors: 8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from danlu.core.artifact import read_json, write_json
from danlu.core.errors import UserError, expect
from danlu.model.families import FAMILIES, config_from_hf, config_to_hf
from danlu.model.low_rank import FORMAT as LOW_RANK
from danlu.model.low_rank import SHARED, apply_ranks, low_rank_config
from danlu.model.transformer import Transformer, fused_rows
from danlu.model.weights import INDEX, WEIGHTS, Weights, open_weights

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig
    from danlu.tokenizer.tokenizer import Tokenizer

SHAPE_OF_PACKED = ".weight_shape"  # beside each .weight_packed: other readers want the unpacked shape
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(path_or_id: str | Path) -> tuple[Transformer, Tokenizer | None]:
    """A model and its tokenizer from a directory, a .gguf file, or anything the store knows by name or id.

    The tokenizer is None when the directory has none. Raises UserError when there is no such thing or it is damaged.
    """
    path = find_model(path_or_id)
    if path.is_file():
        from danlu.model.gguf.load import load_gguf

        return load_gguf(path, dtype=None)
    return load_model(path), load_tokenizer(path)


def find_model(path_or_id: str | Path) -> Path:
    """The path itself, or that of the model which the store knows by this name or id. Raises UserError."""
    expect("a model", path_or_id, (str, PathLike), "a path, or an id or name in the store")
    path = Path(path_or_id)
    if path.exists():
        return path
    from danlu.core.store import default_store

    return default_store().resolve(str(path_or_id), kind="model").path


def load_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of a model directory; None when it has none. Raises UserError when it is damaged."""
    if not (path / "tokenizer.json").exists():
        return None
    from danlu.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(path)


def load_model(
    path: str | Path, *, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> Transformer:
    """The model of a Hugging Face directory, in evaluation mode, in `dtype` (None: the one the config names).

    Raises UserError for a missing directory, a broken or unknown config, and files that are truncated, lack a
    tensor, hold one too many or one of the wrong shape.
    """
    return Checkpoint(path, dtype).load(device)


class Checkpoint:
    """A model directory whose numbers are still in its files, and stay readable there as long as this lives.

    `model` has every shape and no memory. Its dtypes are those that tensors will have: change them with
    `model.to(dtype)`, and each is converted once, from the file's. Raises what `load_model` does.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype | str | None = None) -> None:
        path = Path(path)
        raw = read_config(path)
        config = _with_stop_ids(config_from_hf(raw, str(path / "config.json")), path)
        self._weights = open_weights(path)
        if config.n_layers > len(self._weights):  # told before as many are made
            raise UserError(
                f"{path / 'config.json'} promises {config.n_layers:,} layers and the files hold "
                f"{len(self._weights):,} tensors",
                "config.json and the weights do not belong together",
            )
        with torch.device("meta"):
            self.model = Transformer(config).eval()
        compressed = raw.get("quantization_config") or {}
        if not isinstance(compressed, dict):
            raise UserError(f"{path / 'config.json'}: quantization_config is no mapping", "copy the model again")
        if compressed.get("format") == LOW_RANK:
            apply_ranks(self.model, compressed.get("ranks"))
        elif compressed:
            from danlu.model.quantized import apply_quantization

            self._weights = apply_quantization(self.model, compressed, self._weights)
        self.model.to(_wanted_dtype(dtype, raw, self._weights))
        self._places = _places(self.model, self._weights)
        _compare(self.model, self._places, self._weights, path)
        self._lent: dict[Any, Tensor] = {}  # memory of joined tensors, by their name in every block, shape and dtype

    def load(self, device: torch.device | str | None = None) -> Transformer:
        """`model`, every tensor in memory of its own."""
        state: dict[str, Tensor] = {}
        for name, empty in self.model.state_dict().items():
            state[name] = torch.empty(empty.shape, dtype=empty.dtype, device=device or "cpu")
            self._read(name, state[name])
        self.model.load_state_dict(state, assign=True)
        return self.model

    @contextmanager
    def lent(self, name: str) -> Iterator[None]:
        """While it lasts, the module `name` of `model` can be read; not written, and no tensor of it be kept.

        Its tensors are views of the file, or lie in memory that the next loan uses again: on many machines fresh memory
        costs more than what is done with it.
        """
        module = self.model.get_submodule(name)
        empty = module.state_dict()
        module.load_state_dict({key: self._view(f"{name}.{key}", e) for key, e in empty.items()}, assign=True)
        try:
            yield
        finally:
            module.load_state_dict(empty, assign=True)

    def _view(self, name: str, empty: Tensor) -> Tensor:
        place = self._places[name]
        if len(place.names) == 1:
            stored = self._stored(place.names[0], empty)
            return (stored.t() if place.turned else stored).to(empty.dtype)
        general = re.sub(r"^blocks\.\d+\.", "blocks.{}.", name), empty.shape, empty.dtype
        if general not in self._lent:
            self._lent[general] = torch.empty(empty.shape, dtype=empty.dtype)
        self._read(name, self._lent[general])
        return self._lent[general]

    def _read(self, name: str, tensor: Tensor) -> None:
        """Fill `tensor` with the numbers of danlu's tensor `name`."""
        place = self._places[name]
        for part, target in zip(place.names, tensor.split(place.rows) if tensor.dim() else (tensor,), strict=True):
            stored = self._stored(part, target)
            target.copy_(stored.t() if place.turned else stored)

    def _stored(self, name: str, like: Tensor) -> Tensor:
        """A tensor of the files. Raises UserError where one holds whole numbers and the other does not: copying would
        cut numbers off."""
        found = self._weights[name].read()
        whole = not like.is_floating_point()
        if (found.dtype != like.dtype) if whole else not found.is_floating_point():
            raise UserError(
                f"{name} is stored as {_word(found.dtype)} and has to be {_word(like.dtype) if whole else 'floats'}",
                "config.json and the weights do not belong together",
            )
        return found


def save_model(
    model: Transformer,
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int = 5 * 10**9,
    layout: str | None = None,
) -> None:
    """Write a model as a Hugging Face directory, with its tokenizer when given.

    dtype None keeps the tensors' own. Files larger than `max_shard_size` bytes are split. Weight files of an earlier
    save in the same directory are replaced. `layout` of quantised matrices: that of compressed-tensors, or one of
    quantized/layouts. Raises UserError when the family or the layout cannot express the model.
    """
    from danlu.model.quantized import quantization_config

    path = Path(path)
    raw = config_to_hf(_with_ids(model.config, tokenizer))
    cast = _parse_dtype(dtype) if dtype is not None else None
    stored = cast or next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    raw["torch_dtype"] = str(stored).removeprefix("torch.")
    quantized, low_rank = quantization_config(model), low_rank_config(model)
    if quantized and low_rank:
        raise UserError("a model with matrices of low rank cannot be quantised as well", "choose one of the two")
    tensors = dict(_named_tensors(model))
    if layout is not None:
        from danlu.model.quantized.layouts import write_layout

        tensors, quantized = write_layout(layout, model, tensors)
    if quantized or low_rank:
        raw["quantization_config"] = quantized or low_rank
    path.mkdir(parents=True, exist_ok=True)
    _remove_weights(path)
    _write_weights(tensors, path, cast, max_shard_size)
    save_settings(model.config, path, tokenizer, raw)


def save_settings(
    config: ModelConfig, path: Path, tokenizer: Tokenizer | None, raw: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that a model directory holds beside the weights; returns generation_config.json.

    `raw` is config.json, None: what `config` says. Raises UserError when the family cannot express the config.
    """
    full = _with_ids(config, tokenizer)
    raw = config_to_hf(full) if raw is None else raw
    ends = {*config.eos_ids, *(tokenizer.stop_ids if tokenizer is not None else ())}
    generation = _generation_config(full, sorted(ends))
    write_json(path / "generation_config.json", generation)
    if tokenizer is not None:
        tokenizer.save(path)
    write_json(path / "config.json", raw)
    return generation


# ---- names -----------------------------------------------------------------------------------------------------


def hf_parts(config: ModelConfig, name: str) -> tuple[list[str], bool]:
    """The checkpoint names whose rows make up danlu's tensor `name`, and whether they are stored turned over.

    >>> hf_parts(config, "blocks.3.mlp.gate_up.weight")
    (['model.layers.3.mlp.gate_proj.weight', 'model.layers.3.mlp.up_proj.weight'], False)
    """
    module, _, kind = name.rpartition(".")
    layer = re.match(r"blocks\.(\d+)\.", module)
    entry = FAMILIES[config.family].weights[re.sub(r"^blocks\.\d+\.", "blocks.{}.", module)]
    names = [f"{part.format(layer[1] if layer else '')}.{kind}" for part in entry.names]
    names = names[:1] if kind == SHARED else names
    return names, entry.turned and kind == "weight"


def _part_rows(config: ModelConfig, name: str, parts: int, rows: int) -> tuple[int, ...]:
    """How many rows of danlu's tensor each part takes."""
    fused = fused_rows(config, name.rpartition(".")[0])
    if parts == 1 or fused is None:
        return (rows,)
    whole = sum(fused)
    return tuple(own * rows // whole for own in fused)  # packed zero points have fewer rows


# ---- reading ---------------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory, parsed. Raises UserError when it is not there or not JSON."""
    if not path.is_dir():
        raise UserError(f"no model directory {path}" if not path.exists() else f"{path} is not a directory")
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} has no config.json", "a model directory holds config.json and model.safetensors")
    return read_json(file, "copy the model again")


def _wanted_dtype(dtype: torch.dtype | str | None, raw: Mapping[str, Any], weights: Weights) -> torch.dtype:
    if dtype is not None:
        return _parse_dtype(dtype)
    named = raw.get("dtype") or raw.get("torch_dtype")
    if isinstance(named, str) and named in DTYPES:
        return DTYPES[named]
    for stored in weights.values():
        tensor = stored.read()
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def _parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}", "choose one of " + ", ".join(DTYPES))
    return DTYPES[dtype]


@dataclass(frozen=True)
class _Place:
    """Where one of danlu's tensors is in a checkpoint: tensors joined by rows, so many of each."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    turned: bool  # stored as columns first


def _places(model: Transformer, weights: Weights) -> dict[str, _Place]:
    """By danlu's names. A checkpoint of the bare model, without a head, leaves the family's prefix out."""
    family = FAMILIES[model.config.family]
    bare = not any(name.startswith(family.prefix) for name in weights)
    places = {}
    for name, empty in model.state_dict().items():
        names, turned = hf_parts(model.config, name)
        rows = _part_rows(model.config, name, len(names), empty.shape[0] if empty.dim() else 1)
        places[name] = _Place(tuple(n.removeprefix(family.prefix) if bare else n for n in names), rows, turned)
    return places


def _compare(model: Transformer, places: Mapping[str, _Place], weights: Weights, path: Path) -> None:
    """Every tensor is there, has its shape, and nothing is left over; else UserError that names them."""
    family = FAMILIES[model.config.family]
    expected: dict[str, tuple[int, ...]] = {}
    for name, empty in model.state_dict().items():
        place = places[name]
        for part, count in zip(place.names, place.rows, strict=True):
            shape = (count, *empty.shape[1:]) if empty.dim() else ()
            expected[part] = shape[::-1] if place.turned else shape
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise UserError(f"{path} lacks {_list(missing)}", "config.json and the weights do not belong together")
    wrong = [f"{n} is {list(weights[n].shape)}, not {list(s)}" for n, s in expected.items() if weights[n].shape != s]
    if wrong:
        raise UserError(f"{path}: {_list(wrong)}", "config.json and the weights do not belong together")
    ignored = (*family.ignored, SHAPE_OF_PACKED)
    left = [name for name in weights if name not in expected and not name.endswith(ignored)]
    if model.config.tie_embeddings:  # some savers write the tied head as well
        left = [name for name in left if name != "lm_head.weight"]
    if left:
        raise UserError(
            f"{path} holds {_list(sorted(left))}, which a {family.name} of this config does not have",
            "config.json and the weights do not belong together",
        )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


# ---- writing ---------------------------------------------------------------------------------------------------


def _named_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """(checkpoint name, tensor) of a model: views of its memory, cut and turned as the family wants them."""
    for name, tensor in model.state_dict().items():
        names, turned = hf_parts(model.config, name)
        rows = _part_rows(model.config, name, len(names), tensor.shape[0] if tensor.dim() else 1)
        parts = tensor.split(rows) if len(names) > 1 else [tensor.t() if turned else tensor]
        for part, piece in zip(names, parts, strict=True):
            yield part, piece
            if part.endswith(".weight_packed"):
                shape = torch.tensor([piece.shape[0], 8 * piece.shape[1]])
                yield part.removesuffix(".weight_packed") + SHAPE_OF_PACKED, shape


def _write_weights(tensors: dict[str, Tensor], path: Path, cast: torch.dtype | None, limit: int) -> None:
    def size(tensor: Tensor) -> int:
        dtype = cast if cast is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.numel() * dtype.itemsize

    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        if shards[-1] and filled + size(tensors[name]) > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size(tensors[name])
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # A copy of each, one shard at a time: safetensors wants whole contiguous storages.
        own = {name: _own_memory(tensors[name], cast) for name in names}
        save_file(own, path / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(size(tensor) for tensor in tensors.values())
        write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _own_memory(tensor: Tensor, cast: torch.dtype | None) -> Tensor:
    dtype = cast if cast is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=dtype, copy=True, memory_format=torch.contiguous_format)


def _remove_weights(path: Path) -> None:
    for old in path.glob("model*.safetensors*"):
        if old.name in (WEIGHTS, INDEX) or re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", old.name):
            old.unlink()


def _with_ids(config: ModelConfig, tokenizer: Tokenizer | None) -> ModelConfig:
    if tokenizer is None:
        return config
    eos = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    return config.model_copy(update={"bos_id": tokenizer.bos_id, "eos_ids": eos, "pad_id": tokenizer.pad_id})


def _with_stop_ids(config: ModelConfig, path: Path) -> ModelConfig:
    """The config with the end ids of generation_config.json, where instruct models keep their second one."""
    try:
        found = json.loads((path / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return config
    more = found if isinstance(found, list) else [found]
    ids = {*config.eos_ids, *(i for i in more if isinstance(i, int) and 0 <= i < config.vocab_size)}
    return config.model_copy(update={"eos_ids": tuple(sorted(ids))})


def _generation_config(config: ModelConfig, eos: list[int]) -> dict[str, Any]:
    """`eos` is all that ends an answer: an instruct model has two ends, that of the turn and that of the text."""
    found = {
        "bos_token_id": config.bos_id,
        "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else eos,
        "pad_token_id": config.pad_id,
    }
    return {key: value for key, value in found.items() if value is not None}
