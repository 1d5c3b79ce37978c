"""What llama.cpp calls an architecture and its tensors, as tables.

`ARCHITECTURES` maps the modules of danlu's decoder to GGUF names, as `families.py` maps them to Hugging Face's. Where
danlu has one matrix and the file several (query, key, value), their rows are joined in order.

One thing is more than names. The `llama` architecture of llama.cpp turns neighbours (x[2i], x[2i+1]) by the rotary
angle where danlu and Hugging Face turn halves (x[i], x[i + hd/2]), so llama.cpp's converter reorders the rows of the
query and key projections, head by head, and `halves` undoes it: with hd = 4, the rows stored as 0 2 1 3 come back as
0 1 2 3. Files of Qwen2 and Qwen3 are not reordered.

Source: llama.cpp's converter for the names and the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Architecture:
    """One row of `ARCHITECTURES`: what llama.cpp calls an architecture, in danlu's terms."""

    families: tuple[str, ...]  # the first is what a file of it becomes
    weights: Mapping[str, tuple[str, ...]]  # module of danlu -> modules in the file; {} is the number of the layer
    fields: Mapping[str, Any] = field(default_factory=dict)  # of ModelConfig, implied by the architecture
    epsilon: str = "attention.layer_norm_rms_epsilon"
    biases: tuple[str, ...] = ("qkv_bias",)  # of ModelConfig: those that llama.cpp reads
    interleaved: tuple[str, ...] = ()  # modules in the file whose rows are reordered for rotary pairs of neighbours


_LLAMA_WEIGHTS = {
    "embedding": ("token_embd",),
    "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
    "blocks.{}.attention.qkv": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "blocks.{}.attention.q_norm": ("blk.{}.attn_q_norm",),
    "blocks.{}.attention.k_norm": ("blk.{}.attn_k_norm",),
    "blocks.{}.attention.out": ("blk.{}.attn_output",),
    "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.gate_up": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
    "lm_head": ("output",),
}

_GPT2_WEIGHTS = {
    "embedding": ("token_embd",),
    "position_embedding": ("position_embd",),
    "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
    "blocks.{}.attention.qkv": ("blk.{}.attn_qkv",),
    "blocks.{}.attention.out": ("blk.{}.attn_output",),
    "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.up": ("blk.{}.ffn_up",),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
    "lm_head": ("output",),
}

_GPT2_FIELDS = {
    "norm": "layer",
    "mlp": "gelu",
    "positions": "learned",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
}

_BIASES = ("qkv_bias", "output_bias", "mlp_bias")
ROPE_FACTORS = "rope_freqs.weight"  # no weights, but a setting: by what each rotary frequency is divided

ARCHITECTURES: dict[str, Architecture] = {
    # also Mistral and SmolLM2, which llama.cpp counts as llama
    "llama": Architecture(
        ("llama", "mistral"), _LLAMA_WEIGHTS, biases=_BIASES, interleaved=("blk.{}.attn_q", "blk.{}.attn_k")
    ),
    "qwen2": Architecture(("qwen2",), _LLAMA_WEIGHTS),
    "qwen3": Architecture(("qwen3",), _LLAMA_WEIGHTS, fields={"qk_norm": True}),
    "gpt2": Architecture(
        ("gpt2",), _GPT2_WEIGHTS, fields=_GPT2_FIELDS, epsilon="attention.layer_norm_epsilon", biases=_BIASES
    ),
}


def architecture_of(family: str) -> str:
    """The name of the architecture that a family of danlu has in llama.cpp. UserError when the table has none."""
    for name, row in ARCHITECTURES.items():
        if family in row.families:
            return name
    raise UserError(
        f'what llama.cpp calls the family "{family}" is not known',
        "a row is missing in danlu/model/gguf/names.py: the names of its tensors and the order of their rows",
    )


def gguf_parts(name: str, tensor: str) -> list[str]:
    """The GGUF names whose rows make up danlu's `tensor`, in the architecture `name`.

    >>> gguf_parts("qwen2", "blocks.3.mlp.gate_up.weight")
    ['blk.3.ffn_gate.weight', 'blk.3.ffn_up.weight']
    """
    module, _, kind = tensor.rpartition(".")
    first, _, rest = module.partition(".")
    if first != "blocks":
        return [f"{part}.{kind}" for part in ARCHITECTURES[name].weights[module]]
    layer, _, inner = rest.partition(".")
    return [f"{part.format(layer)}.{kind}" for part in ARCHITECTURES[name].weights[f"blocks.{{}}.{inner}"]]


def is_interleaved(architecture: str, name: str) -> bool:
    """Whether the rows of the tensor `name` are stored as rotary pairs of neighbours."""
    first, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    module = f"{first}.{{}}.{inner.rpartition('.')[0]}"
    return number.isdecimal() and module in ARCHITECTURES[architecture].interleaved


def halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows `[H * hd, ...]` from pairs of neighbours to pairs of halves: row 2 i + j of a head goes to j * hd/2 + i."""
    heads = rows.unflatten(0, (-1, head_dim // 2, 2))  # [H, hd/2, 2, ...]
    return heads.transpose(1, 2).reshape(rows.shape)


def neighbours(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The way back of `halves`: row j * hd/2 + i of a head goes to 2 i + j."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(rows.shape)
