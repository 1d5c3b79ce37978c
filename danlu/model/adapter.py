"""LoRA adapters: a small change of a large model, in the layout of PEFT.

An adapter leaves every matrix W [N, K] of its base as it is and adds a product of two thin ones (LoRA,
arXiv:2106.09685, section 4.1):

    y = x W^T + scale (x A^T) B^T        A [r, K], B [N, r]
    scale = alpha / r                    or alpha / sqrt(r), rank-stabilised (arXiv:2312.03732)

so it is a hundredth of the model's size, and there are two ways to use it: beside the base, for those rows of a batch
that ask for it (danlu/engine), or once and for all by `merge`, W + scale B A. Both are this one formula.

    adapter_config.json          peft_type LORA, r, lora_alpha, target_modules, rank_pattern, alpha_pattern, ...
    adapter_model.safetensors    base_model.model.<module>.lora_A.weight [r, K], ....lora_B.weight [N, r]

<module> is the base's name for a matrix (model.layers.0.self_attn.q_proj); families.py knows where danlu has it. Query,
key and value are three matrices there and one here, so a `LowRank` says which rows of danlu's matrix it changes.

Reading is strict. PEFT passes over weights that its config does not name, and fills in zeros for those that are named
and not there; a damaged adapter then answers like its base, and nobody is told. Here both are errors. What changes the
mathematics in another way (DoRA, trained embeddings or biases, ...) is refused by name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from danlu.core.artifact import read_json, write_json
from danlu.core.errors import UserError, expect
from danlu.model.families import FAMILIES

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig
    from danlu.model.transformer import Transformer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

# Keys of adapter_config.json that make it more than W + scale B A, unless they are empty or false.
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases in the adapter",
    "layer_replication": "repeated layers",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "parameters outside linear layers",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
}
# How A and B began does not matter once they are trained, except where the base's own weights were changed with them.
_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class LowRank:
    """scale B A, added to rows `first .. first + N` of one of danlu's matrices."""

    module: str  # danlu's name: blocks.3.attention.qkv
    first: int
    a: Tensor  # [r, K]
    b: Tensor  # [N, r]
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def product(self) -> Tensor:
        """scale B A [N, K], float32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True)
class Adapter:
    """The parts of an adapter, at most one for each of the base's own matrices."""

    parts: tuple[LowRank, ...]
    base: str | None = None  # what its maker called the base; says nothing about whether it fits


@dataclass(frozen=True)
class Place:
    """Where one of the base's own matrices [rows, columns] is in danlu's model."""

    module: str
    first: int
    rows: int
    columns: int


def load_adapter(path_or_id: str | Path, config: ModelConfig) -> Adapter:
    """An adapter for a model of this config, from a directory or anything the store knows by name or id.

    Raises UserError when there is none, when it is damaged, when danlu cannot compute it, or when it does not fit.
    """
    expect("an adapter", path_or_id, (str, PathLike), "a path, or an id or name in the store")
    path = Path(path_or_id)
    if not path.exists():
        from danlu.core.store import default_store

        path = default_store().resolve(str(path_or_id), kind="adapter").path
    return read_adapter(path, config)


def read_adapter(path: Path, config: ModelConfig) -> Adapter:
    """The adapter of a directory; see `load_adapter`."""
    settings = _Settings(path)
    family = FAMILIES[config.family]
    for outside in ("embedding", "position_embedding", "lm_head"):
        for name in family.weights[outside].names if outside in family.weights else ():
            if settings.names(name):
                raise UserError(f"the adapter {path} changes {name}", "danlu adapts the matrices of the blocks only")
    tensors = _read_tensors(path)
    prefix = family.prefix
    matrices = places(config)
    if not any(name.startswith(prefix) for name, _ in tensors):  # made for the bare model, without a head
        matrices = {name.removeprefix(prefix): place for name, place in matrices.items()}
    wanted = [name for name in matrices if settings.names(name)]
    _check_fit(path, settings, tensors, matrices, wanted, config)
    parts = []
    for name in wanted:
        a, b, place = tensors[name, "A"], tensors[name, "B"], matrices[name]
        parts.append(LowRank(place.module, place.first, a, b, settings.scale(name)))
    return Adapter(tuple(parts), settings.base)


def write_adapter(adapter: Adapter, path: Path, config: ModelConfig) -> None:
    """Write an adapter as a directory that PEFT opens on the same base. Replaces what is there."""
    assert adapter.parts
    place_of = {(place.module, place.first): name for name, place in places(config).items()}
    parts = {place_of[part.module, part.first]: part for part in adapter.parts}
    rank = Counter(part.rank for part in adapter.parts).most_common(1)[0][0]
    alpha = Counter(part.scale * part.rank for part in adapter.parts).most_common(1)[0][0]
    ends = sorted({name.rpartition(".")[2] for name in parts})
    by_end = {name for name in place_of.values() if name.rpartition(".")[2] in ends} == set(parts)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, part in parts.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = part.a.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = part.b.detach().cpu().contiguous()
    save_file(dict(sorted(tensors.items())), path / WEIGHTS, metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "target_modules": ends if by_end else sorted(parts),
        "rank_pattern": {re.escape(name): part.rank for name, part in parts.items() if part.rank != rank},
        "alpha_pattern": {
            re.escape(name): part.scale * part.rank for name, part in parts.items() if part.scale * part.rank != alpha
        },
        "modules_to_save": None,
        "init_lora_weights": True,
        "fan_in_fan_out": any(entry.turned for entry in FAMILIES[config.family].weights.values()),
    }
    write_json(path / CONFIG, settings)


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter) -> None:
    """Add an adapter to the weights of its base, in place. Raises UserError, and changes nothing, if it is quantised.

    Worked example, scale 2: W = [[1, 0], [0, 1]], A = [[1, 1]], B = [[3], [0]] becomes [[7, 6], [0, 1]].
    """
    modules: list[Any] = [model.get_submodule(part.module) for part in adapter.parts]
    for part, module in zip(adapter.parts, modules, strict=True):
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"an adapter cannot be merged into {part.module}, which is quantised or of low rank",
                "merge it into the float model and compress the result, or serve it beside the base",
            )
    for part, module in zip(adapter.parts, modules, strict=True):
        rows = module.weight[part.first : part.first + part.b.shape[0]]
        rows.copy_(rows.float() + part.product().to(rows.device))


# ---- names -----------------------------------------------------------------------------------------------------


def places(config: ModelConfig) -> dict[str, Place]:
    """The matrices of all blocks by the name that the base's family gives them.

    >>> places(config)["model.layers.3.self_attn.k_proj"]                       H = 9, Hkv = 3, hd = 64, D = 576
    Place(module='blocks.3.attention.qkv', first=576, rows=192, columns=576)
    """
    c = config
    shapes: dict[str, tuple[tuple[int, ...], int]] = {  # rows of each part, columns
        "attention.qkv": (c.qkv_sizes, c.hidden_size),
        "attention.out": ((c.hidden_size,), c.n_heads * c.head_dim),
        "mlp.gate_up": ((c.intermediate_size, c.intermediate_size), c.hidden_size),
        "mlp.up": ((c.intermediate_size,), c.hidden_size),
        "mlp.down": ((c.hidden_size,), c.intermediate_size),
    }
    found = {}
    for layer in range(c.n_layers):
        for module, entry in FAMILIES[c.family].weights.items():
            if (end := module.removeprefix("blocks.{}.")) not in shapes:
                continue
            rows, columns = shapes[end]
            first = 0
            for name, n in zip(entry.names, rows if len(entry.names) > 1 else (sum(rows),), strict=True):
                found[name.format(layer)] = Place(module.format(layer), first, n, columns)
                first += n
    return found


def _check_fit(
    path: Path,
    settings: _Settings,
    tensors: Mapping[tuple[str, str], Tensor],
    matrices: Mapping[str, Place],
    wanted: list[str],
    config: ModelConfig,
) -> None:
    """Every matrix named has its A and B, of the right shape, and nothing is left over; else UserError."""
    shape = f"a {config.family} of {config.n_layers} layers and width {config.hidden_size}"
    hint = f"it was made for {settings.base}" if settings.base else "it was made for another base"
    strange = sorted(name for name, _ in tensors if name not in matrices)
    if strange:
        raise UserError(f"the adapter {path} changes {strange[0]}, which {shape} does not have", hint)
    for name in wanted:
        place, r = matrices[name], settings.rank(name)
        for which, expected in (("A", (r, place.columns)), ("B", (place.rows, r))):
            found = tensors.get((name, which))
            if found is not None and tuple(found.shape) != expected:
                message = f"{name}.lora_{which} is {list(found.shape)}, and {shape} needs {list(expected)}"
                raise UserError(f"the adapter {path} does not fit: {message}", hint)
    missing = [f"{name}.lora_{which}" for name in wanted for which in "AB" if (name, which) not in tensors]
    if missing or not wanted:
        message = f"it lacks {missing[0]}" if missing else "its target_modules name no matrix of it"
        raise UserError(f"the adapter {path} does not fit {shape}: {message}", hint)
    unnamed = sorted(name for name, _ in tensors if name not in wanted)
    if unnamed:
        raise UserError(
            f"{path / WEIGHTS} changes {unnamed[0]}, which target_modules in {CONFIG} does not name",
            "the two files do not belong together: copy the adapter again",
        )


# ---- reading ---------------------------------------------------------------------------------------------------


def _read_tensors(path: Path) -> dict[tuple[str, str], Tensor]:
    """(module, "A" or "B") -> matrix. Raises UserError for anything that is not one, or not finite."""
    file = path / WEIGHTS
    if not file.exists():
        pickled = (path / "adapter_model.bin").exists()
        hint = "convert adapter_model.bin to safetensors first: danlu does not unpickle" if pickled else ""
        raise UserError(f"{path} has no {WEIGHTS}", hint or "copy the adapter again")
    tensors = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                found = _TENSOR.fullmatch(name)
                if found is None:
                    raise UserError(f"{file} holds {name}, which is no lora_A or lora_B of a matrix")
                tensors[found[1], found[2]] = opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or damaged ({error})", "copy or download it again") from None
    for (module, which), tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            what = "holds a value that is not finite" if tensor.is_floating_point() else f"is {tensor.dtype}"
            raise UserError(f"{file}: {module}.lora_{which} {what}", "copy or train it again")
    return tensors


class _Settings:
    """adapter_config.json: which matrices, and rank and scale of each. Raises UserError for what danlu does not do."""

    def __init__(self, path: Path) -> None:
        self.file = path / CONFIG
        if not self.file.is_file():
            raise UserError(f"{path} has no {CONFIG}", f"an adapter is a directory with {CONFIG} and {WEIGHTS}")
        raw = read_json(self.file, "copy the adapter again")
        self._refuse(raw)
        self.base = raw.get("base_model_name_or_path") or None
        self._rank = self._number(raw, "r")
        self._alpha = self._number(raw, "lora_alpha")
        self._ranks = self._pattern(raw, "rank_pattern")
        self._alphas = self._pattern(raw, "alpha_pattern")
        self._stable = bool(raw.get("use_rslora"))
        targets = raw.get("target_modules")
        if not targets:
            raise UserError(f"{self.file} has no target_modules")
        self._targets = self._matcher(targets, "target_modules")
        self._excluded = self._matcher(raw.get("exclude_modules") or [], "exclude_modules")
        layers = raw.get("layers_to_transform")
        self._layers = [layers] if isinstance(layers, int) else layers
        if self._layers is not None and not all(isinstance(layer, int) for layer in self._layers):
            raise UserError(f"{self.file}: layers_to_transform is {layers!r}", "it is a list of layer numbers")

    def names(self, name: str) -> bool:
        """Whether the adapter changes this matrix."""
        layer = re.search(r"\.(\d+)\.", f".{name}")
        chosen = self._layers is None or (layer is not None and int(layer[1]) in self._layers)
        return chosen and self._targets(name) and not self._excluded(name)

    def rank(self, name: str) -> int:
        return int(_first(self._ranks, name, self._rank))

    def scale(self, name: str) -> float:
        rank = self.rank(name)
        return _first(self._alphas, name, self._alpha) / (math.sqrt(rank) if self._stable else rank)

    def _refuse(self, raw: Mapping[str, Any]) -> None:
        kind = raw.get("peft_type")
        if kind != "LORA":
            raise UserError(f"{self.file}: peft_type is {kind!r}", "danlu reads LORA")
        if (bias := raw.get("bias", "none")) != "none":
            raise UserError(f"{self.file}: bias is {bias!r}", 'danlu reads adapters with bias "none"')
        for key, what in _REFUSED.items():
            if raw.get(key):
                raise UserError(f"{self.file}: {key} is {raw[key]!r}", f"danlu does not compute {what}")
        beginning = raw.get("init_lora_weights")
        if beginning not in _BEGINNINGS:
            raise UserError(
                f"{self.file}: init_lora_weights is {beginning!r}, which changes the base too",
                "let PEFT convert it: save_pretrained(path_initial_model_for_weight_conversion=...)",
            )

    def _number(self, raw: Mapping[str, Any], key: str) -> float:
        value = raw.get(key)
        whole = key == "r"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < 1e9:
            raise UserError(f"{self.file}: {key} is {value!r}", f"it must be a positive {'whole ' * whole}number")
        return value

    def _pattern(self, raw: Mapping[str, Any], key: str) -> list[tuple[re.Pattern[str], float]]:
        """An expression for the end of a name -> a number of its own."""
        found = raw.get(key) or {}
        if not isinstance(found, dict):
            raise UserError(f"{self.file}: {key} is {found!r}", "it maps names to numbers")
        number = "r" if key == "rank_pattern" else "lora_alpha"
        return [
            (self._compile(rf"(.*\.)?({end})", key), self._number({number: value}, number))
            for end, value in found.items()
        ]

    def _matcher(self, names: object, key: str) -> Callable[[str], bool]:
        """A list holds names, or ends of names; a string is an expression for whole names, or "all-linear"."""
        if isinstance(names, str) and names.lower() == "all-linear":
            return lambda name: any(layer.isdigit() for layer in name.split("."))  # of the blocks, not the head
        if isinstance(names, str):
            pattern = self._compile(names, key)
            return lambda name: pattern.fullmatch(name) is not None
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise UserError(f"{self.file}: {key} is {names!r}", "it must be a list of names, or an expression")
        return lambda name: any(name == one or name.endswith(f".{one}") for one in names)

    def _compile(self, expression: str, key: str) -> re.Pattern[str]:
        try:
            return re.compile(expression)
        except re.error as error:
            raise UserError(f"{self.file}: {key} has {expression!r}, which is no expression ({error})") from None


def _first(patterns: list[tuple[re.Pattern[str], float]], name: str, otherwise: float) -> float:
    return next((value for pattern, value in patterns if pattern.fullmatch(name)), otherwise)
