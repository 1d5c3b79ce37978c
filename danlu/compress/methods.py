"""Every method by one name, whatever stage does it: what `danlu compress --method` can be.

quantize     rtn, hqq, gptq, awq, ...       --bits           compress.quantize
prune        wanda, sparsegpt, heads, ...   --share          compress.prune
vocabulary                                                   compress.vocabulary

What they cost beside the quality of the result (that is measured: docs/compress.md). Two stages train; they have no
method's name, since they want tokens and a budget of time:

|                          | text           | time                        | memory                        |
|--------------------------|----------------|-----------------------------|-------------------------------|
| rtn, nf4, fp8, hqq       | none           | of reading; hqq more rounds | the result, a block in floats |
| gptq, awq, smoothquant   | 16,000 tokens  | some forward passes over    | and hidden states of the text |
|                          |                | it, a factor for each matrix|                               |
| rtn or gptq, with budget | the same       | and one backward pass       | and the states of all blocks  |
| any of these with tune   | 2 rows a step  | and that of training, a step| 13 bytes a weight             |
| pruning                  | as gptq, or no | as gptq                     | as gptq                       |
| stage recover            | millions       | of training                 | 17 bytes a weight             |
| stage qat                | millions       | of training                 | 20 bytes a weight             |
| stage qat with distill   | millions       | and a forward pass a step   | 24 bytes a weight             |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.compress import prune, quantize
from danlu.core.errors import UserError, suggest

VOCABULARY = "vocabulary"


def summaries() -> dict[str, str]:
    """What each method does, in a line."""
    found = {name: f"{' or '.join(map(str, row.bits))} bits: {row.summary}" for name, row in quantize.METHODS.items()}
    found |= {name: row.summary for name, row in prune.METHODS.items()}
    return found | {VOCABULARY: "only the tokens that the texts use"}


def needs_text(method: str) -> bool:
    """Whether a method looks at text (`--calibration`)."""
    if method == VOCABULARY:
        return True
    return quantize.METHODS[method].needs_text if method in quantize.METHODS else prune.METHODS[method].calibrated


def stage_for(
    method: str, *, bits: int | None = None, share: float | None = None, text: str | None = None
) -> tuple[str, Mapping[str, Any]]:
    """The stage of a method and what to ask of it. `text` names a corpus.

    Raises UserError for an unknown method, and for a number that it has no use for.
    """
    used = {"bits": bits, "share": share}
    if method in quantize.METHODS:
        used.pop("bits")
        default = quantize.METHODS[method].bits[0]
        stage = "compress.quantize"
        values: dict[str, Any] = {"method": method, "bits": default if bits is None else bits, "calibration": text}
    elif method in prune.METHODS:
        used.pop("share")
        stage, values = "compress.prune", {"method": method, "share": share, "calibration": text}
    elif method == VOCABULARY:
        if text is None:
            raise UserError("vocabulary needs the texts whose tokens stay", "--calibration CORPUS names them")
        stage, values = "compress.vocabulary", {"corpus": text}
    else:
        raise UserError(f'there is no method "{method}"', suggest(method, summaries()))
    for name, value in used.items():
        if value is not None:
            raise UserError(f'"{method}" has no use for --{name}', "leave it out")
    return stage, {key: value for key, value in values.items() if value is not None}
