"""The stage `compress.quantize`: weights in fewer bits.

    model  --->  model: config.json with quantization_config, model.safetensors, the tokenizer, report.json

A method is a row of `METHODS`: its name, the number of bits, and a function that changes a loaded model in place and
says how far the weights moved. `danlu compress MODEL --method M --bits B` chooses the row.

`rtn`, round to nearest: every matrix, embedding and head included. No data is needed. Norms and biases stay as they
are: they are a thousandth of the bytes.

    float32   4 N K bytes
    8 bits    N K + 4 N bytes                one scale per output row         smaller by  3/4 - 1/K  (K = 256: 74.6 %)
    4 bits    N K / 2 + 2 N K / 32 bytes     one scale per 32 weights         smaller by  85.9 %

With the small steps of 8 bits cleverer rounding (GPTQ, AWQ) has nothing left to win; it pays from 4 bits down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danlu.core.artifact import Artifact, Manifest, write_json
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageConfig, StageRun, stage

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer


class QuantizeConfig(StageConfig):
    method: str = "rtn"
    bits: int = 8


@dataclass(frozen=True)
class Method:
    """A way to make a model smaller. `apply` changes the model and returns error measures."""

    bits: int
    summary: str
    apply: Callable[[Transformer], dict[str, float]]


def _round_to_nearest(bits: int) -> Callable[[Transformer], dict[str, float]]:
    def apply(model: Transformer) -> dict[str, float]:
        from danlu.model.quantized import quantize_

        return quantize_(model, bits)

    return apply


METHODS: Mapping[str, tuple[Method, ...]] = {
    "rtn": (
        Method(8, "round to nearest, one scale per output row", _round_to_nearest(8)),
        Method(4, "round to nearest, one scale per 32 weights", _round_to_nearest(4)),
    ),
}
_ALIASES = {"int8": "rtn", "int4": "rtn"}


def estimate(config: QuantizeConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """From the size of the model: it is held once whole and once in a quarter of the bytes."""
    model = parents.get("model")
    return Estimate(memory_bytes=1.25 * model.size, disk_bytes=0.26 * model.size) if model else Estimate()


@stage("compress.quantize", version="2", makes="model", takes={"model": "model"}, estimate=estimate)
def quantize(config: QuantizeConfig, run: StageRun, model: Artifact) -> dict[str, Any]:
    """Write a model again with fewer bits per weight.

    Raises UserError for an unknown method or number of bits, and for a model that is quantised already.
    """
    from danlu.model.hub import load, save_model
    from danlu.model.quantized import is_quantized

    method = choose(config.method, config.bits)
    loaded, tokenizer = load(model.path)
    if is_quantized(loaded):
        raise UserError(f"{model.id} is quantised already", "compress the model it was made from")
    before = sum(tensor.numel() * tensor.element_size() for tensor in loaded.state_dict().values())
    in_float32 = sum(4 * tensor.numel() for tensor in loaded.state_dict().values())
    errors = method.apply(loaded)
    save_model(loaded, run.out, tokenizer)
    after = sum(file.stat().st_size for file in run.out.glob("*.safetensors"))
    facts = {
        "method": config.method,
        "bits": config.bits,
        "bytes_before": before,
        "bytes_in_float32": in_float32,
        "bytes_after": after,
        "smaller": 1 - after / before,
        "smaller_than_float32": 1 - after / in_float32,
        **errors,
    }
    write_json(run.out / "report.json", facts | _context(model))
    return facts


def choose(name: str, bits: int) -> Method:
    """The row of METHODS. Raises UserError that lists what there is."""
    available = [f"{method} with {row.bits} bits" for method, rows in METHODS.items() for row in rows]
    for row in METHODS.get(_ALIASES.get(name, name), ()):
        if row.bits == bits:
            return row
    raise UserError(f'there is no method "{name}" with {bits} bits', "available: " + ", ".join(available))


def _context(model: Artifact) -> dict[str, Any]:
    """The length of the training windows goes with the weights: an evaluation asks for it."""
    file = model.path / "report.json"
    if not file.is_file():
        return {}
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return {"context": report["context"]} if isinstance(report, dict) and "context" in report else {}
