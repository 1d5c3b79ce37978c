"""Text that shows a method what a model is fed.

A corpus' training documents, in an order that only the seed decides, are cut into rows of equal length until there are
enough. Whoever judges the compressed model must use other text: the held-out split of the same corpus is never read.

What can be wrong with such text costs quality and nothing else, so it is a warning: too little of it, or a language
that the model's tokenizer only knows byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.events import Events
from danlu.core.stage import StageConfig

if TYPE_CHECKING:
    from torch import Tensor

    from danlu.tokenizer.tokenizer import Tokenizer

FOREIGN = 1.6  # bytes a token: below this a tokenizer spells the text out instead of reading it
LITTLE = 4096  # tokens


class CalibrationConfig(StageConfig):
    rows: int = Field(default=32, ge=1)  # of calibration text
    length: int = Field(default=512, ge=8)  # tokens in a row
    seed: int = Field(default=0, ge=0, lt=1 << 63)  # which documents


def refuse_unused(config: StageConfig, used: Mapping[str, bool], who: str) -> None:
    """Raises UserError for a setting of `used` that `who` does not use and that is not what it is by default."""
    fields = type(config).model_fields
    for name, wanted in used.items():
        if not wanted and getattr(config, name) != fields[name].default:
            raise UserError(f"{who} has no use for {name}", "leave it out")


def calibration_ids(
    config: CalibrationConfig, corpus: Artifact, tokenizer: Tokenizer, longest: int, events: Events, more: int = 0
) -> Tensor:
    """ids [n, T] with n <= rows and T <= length, `longest` at most; and behind these up to `more` rows of other text.

    Raises UserError for a corpus without text. Warns, with what it costs, where there is little or it is foreign.
    """
    import torch

    from danlu.data.document import read_documents

    length = min(config.length, longest)
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    wanted, ids, n_bytes = config.rows * length, list[int](), 0
    order = sorted((_draw(config.seed, document.id), document.text) for document in read_documents(corpus))
    for _, text in order:
        if len(ids) >= wanted + more * length:
            break
        if text.strip():
            ids += tokenizer.encode(text) + end
            n_bytes += len(text.encode("utf-8", "replace"))
    if len(ids) < 2:
        raise UserError(f"{corpus.id} has no text to calibrate with", "take a corpus with training documents")
    length = min(length, len(ids))
    rows = min(config.rows + more, len(ids) // length)
    if rows * length < min(LITTLE, wanted):
        events.emit(
            "warning",
            message=f"only {rows * length:,} tokens of calibration text, {wanted:,} were wanted: "
            "the weights will fit it and little else. SmolLM2 in 4 bits lost 12.8 % of its perplexity with 512 tokens "
            "and 3.7 % with 16,384",
        )
    if n_bytes / len(ids) < FOREIGN:
        events.emit(
            "warning",
            message=f"{n_bytes / len(ids):.2f} bytes a token: the model hardly reads this text. "
            "SmolLM2 in 4 bits lost 8.0 % of its English perplexity with Chinese text, 3.7 % with English, and 23.4 % "
            "with none",
        )
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _draw(seed: int, document: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{document}".encode()).digest()
