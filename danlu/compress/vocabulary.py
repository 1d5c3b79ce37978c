"""The stage `compress.vocabulary`: a model cut to the languages that a user needs.

    model + corpus of the wanted languages  --->  model: fewer rows in embedding and head, a smaller tokenizer

Most rows of a vocabulary are for what somebody else writes: in a small model they are a fifth to a half of all
numbers. The tokens that occur in the corpus stay (`min_count` times at least), with all bytes and all special tokens,
the words of the chat template ("user", "assistant"), and what they are merged from (danlu/tokenizer/trim.py). A text
of kept tokens has the same tokens as before, and the model the same hidden states for it, bit for bit; its logits are
the old ones without the columns that are gone, so that each kept token is likelier by the same factor. Any other text
still goes through, in smaller pieces.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pydantic import Field

from danlu.core.artifact import Artifact, write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    import numpy as np

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

TEXTS_AT_ONCE = 512


class VocabularyConfig(StageConfig):
    min_count: int = Field(default=1, ge=1)  # a token that occurs less often in the corpus goes


@stage("compress.vocabulary", makes="model", takes={"model": "model", "corpus": "corpus"})
def vocabulary(config: VocabularyConfig, run: StageRun, model: Artifact, corpus: Artifact) -> dict[str, Any]:
    """Cut a model's vocabulary to what a corpus uses.

    Raises UserError when the model has no tokenizer or one that cannot be trimmed, when the model is quantised, and
    when the corpus is empty.
    """
    from danlu.model.finite import require_finite
    from danlu.model.hub import load, save_model
    from danlu.model.quantized import is_quantized
    from danlu.tokenizer.trim import trim_tokenizer

    network, tokenizer = load(model.path)
    if tokenizer is None:
        raise UserError(f"{model.id} carries no tokenizer", "import it together with its tokenizer")
    if is_quantized(network):
        raise UserError(f"{model.id} is quantised already", "trim the model it was made from, and then quantise")
    require_finite(network, "", model.id)
    counts = count_tokens(tokenizer, corpus, run)
    if not counts.sum():
        raise UserError(f"{corpus.id} has no text", "give texts of the languages that stay")
    used = (counts >= config.min_count).nonzero()[0].tolist()
    trimmed, ids = trim_tokenizer(tokenizer, [*used, *template_tokens(tokenizer)])
    before = network.config.vocab_size, network.n_params
    cut_rows(network, ids)
    save_model(network, run.out, trimmed)
    facts = {
        "rows_before": before[0],
        "rows": len(ids),
        "parameters_before": before[1],
        "parameters": network.n_params,
        "corpus_covered": float(counts[ids].sum() / counts.sum()),  # share of its tokens that stay as they are
    }
    if len(ids) == before[0]:
        told = f"all {before[0]:,} tokens occur in these texts, so that nothing is cut"
        run.events.emit("warning", message=f"{told}; a larger min_count cuts the rare ones")
    write_json(run.out / "report.json", facts)
    return facts


def count_tokens(tokenizer: Tokenizer, corpus: Artifact, run: StageRun) -> np.ndarray:
    """How often each token occurs in the training and validation documents, [V]."""
    import numpy as np

    from danlu.data.document import batched, read_documents

    counts, done = np.zeros(tokenizer.vocab_size, np.int64), 0
    for split in ("train", "validation"):
        for documents in batched(read_documents(corpus, split), TEXTS_AT_ONCE):
            ids, _ = tokenizer.encode_arrays([document.text for document in documents])
            counts += np.bincount(ids, minlength=len(counts))
            done += len(documents)
            run.progress(done, None, "documents")
    return counts


def template_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens of a chat in which nobody says anything; none without a template, or with one that wants more."""
    if tokenizer.chat_template is None:
        return []
    ids: list[int] = []
    for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user")):
        with contextlib.suppress(UserError):  # some templates have no system message
            chat = [{"role": role, "content": ""} for role in roles]
            ids += tokenizer.encode_chat(chat, add_generation_prompt=True)
    return ids


def cut_rows(model: Transformer, ids: list[int]) -> None:
    """Keep the rows `ids` of embedding and head, in this order; the ids in the config follow. In place."""
    from torch import nn

    for layer in (model.embedding, model.lm_head):
        if layer is not None:
            layer.weight = nn.Parameter(layer.weight.detach()[ids].clone())
    model.embedding.num_embeddings = len(ids)
    if model.lm_head is not None:
        model.lm_head.out_features = len(ids)
    new_of = {old: new for new, old in enumerate(ids)}
    config = model.config
    roles = {name: new_of.get(value) for name in ("bos_id", "pad_id") if (value := getattr(config, name)) is not None}
    ends = tuple(sorted(new_of[i] for i in config.eos_ids if i in new_of))
    model.config = config.model_copy(update={"vocab_size": len(ids), "eos_ids": ends, **roles})
