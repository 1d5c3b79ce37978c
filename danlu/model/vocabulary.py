"""A model learns to read more: rows for the tokens that an extended tokenizer has beyond the old one.

    embedding [V, D] -> [V', D]     row of a new token = mean of the rows of the old tokens it stands for

A new token is a row of old ones (see danlu/tokenizer/extend.py), and the model has met them in that order many times.
Their mean lies where such tokens lie and has their length, so the first steps of training start from sense and not from
noise; the same holds for the head, where the new token's logit begins at the mean of theirs. Nothing the model had is
touched: logits of old tokens stay what they were, bit for bit.

Some models have more rows than their tokenizer has tokens (Qwen2.5: 151,936 and 151,665). Such rows were never trained;
new tokens take them before any are added, so they too become means.

Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models"; the mean over sub-tokens is the
usual form of it (WECHSEL and others).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.model.transformer import Transformer
from danlu.tokenizer.extend import old_parts
from danlu.tokenizer.tokenizer import Tokenizer


def extend_embeddings(model: Transformer, old: Tokenizer, new: Tokenizer) -> list[int]:
    """Give `model` (changed in place) a row for every id of `new` that `old` has not; returns these ids.

    A new token begins as the mean of the rows of the old tokens it is made of; a new special token, which stands for no
    text, as the mean of all old rows. Raises UserError when `new` gives an old id another token, or `old` is not this
    model's.
    """
    if old.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the old tokenizer has {old.vocab_size} tokens, the model {model.config.vocab_size} rows",
            "give the tokenizer that the model was trained with",
        )
    for token_id in range(old.vocab_size):
        if old.token_bytes(token_id) != new.token_bytes(token_id):
            raise UserError(
                f"token {token_id} is another one in the new tokenizer", "extend the tokenizer of this model"
            )
    parts = old_parts(old, new)
    rows = max(model.config.vocab_size, new.vocab_size)
    for layer in (model.embedding, model.lm_head):
        if layer is not None:
            layer.weight = nn.Parameter(_extended(layer.weight.detach(), parts, rows, old.vocab_size))
    model.embedding.num_embeddings = rows
    if model.lm_head is not None:
        model.lm_head.out_features = rows
    model.config = model.config.model_copy(update={"vocab_size": rows})
    return list(parts)


def _extended(weight: Tensor, parts: dict[int, list[int]], rows: int, n_old: int) -> Tensor:
    """weight [V, D] -> [rows, D]; means are taken in float32."""
    grown = torch.zeros(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    grown[: len(weight)] = weight
    for token_id, old_ids in parts.items():
        source = weight[old_ids] if old_ids else weight[:n_old]
        grown[token_id] = source.float().mean(0).to(weight.dtype)
    return grown


class VocabularyConfig(StageConfig):
    """No settings: what happens follows from the two tokenizers."""


@stage("model.vocabulary", makes="model", takes={"model": "model", "tokenizer": "tokenizer"})
def vocabulary(config: VocabularyConfig, run: StageRun, model: Artifact, tokenizer: Artifact) -> dict[str, Any]:
    """Fit a model to an extended tokenizer: rows for the new tokens, everything else as it was."""
    from danlu.model.hub import load, save_model

    loaded, old = load(model.path)
    if old is None:
        raise UserError("the model carries no tokenizer", "import it together with its tokenizer")
    new = Tokenizer.load(tokenizer.path)
    before = loaded.config.vocab_size
    added = extend_embeddings(loaded, old, new)
    save_model(loaded, run.out, new)
    return {"new_tokens": len(added), "rows_before": before, "rows": loaded.config.vocab_size}
