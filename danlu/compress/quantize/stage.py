"""The stage `compress.quantize`: weights in fewer bits.

    model (, calibration: corpus)  --->  model: config.json with quantization_config, model.safetensors, the tokenizer,
                                         report.json

A method is a row of `METHODS`: what it does to a block's floats before anything is rounded, and how it then rounds a
matrix, perhaps with an eye on what the matrix is fed. `danlu compress MODEL --method M --bits B` chooses the row. The
model goes through block by block (blockwise.py): what is in memory is the result, one block in floats, and the text.

    float32                  4 N K bytes
    8 bits                   N K + 4 N bytes                     smaller by  3/4 - 1/K  (K = 256: 74.6 %)
    4 bits, groups of 32     N K / 2 + 2 N K / 32 bytes          smaller by  85.9 %
    with zero points         and N K / 64 bytes                  smaller by  85.5 %

Below 8 bits the embedding and the head keep 8 (decision 10). Norms and biases stay floats: a thousandth of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from danlu.compress.quantize.methods import OUTER, Method, QuantizeConfig, choose, plan_for, refuse_idle, scheme_of
from danlu.core.artifact import Artifact, Manifest, write_json
from danlu.core.device import peak_bytes
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun, stage

if TYPE_CHECKING:
    from torch import Tensor

    from danlu.compress.walk.blockwise import Source
    from danlu.model.quantized import Scheme


def estimate(config: QuantizeConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """From the size of the model: what results, and a block and the text while it is made (a guess at their share).

    With `tune` all of the model at once; where nobody counted its parameters, as if each were two bytes.
    """
    model = parents.get("model")
    if model is None:
        return Estimate()
    share = 0.3 if config.bits == 8 else 0.2
    memory = (share + 0.3) * model.size
    if config.tune:
        from danlu.compress.quantize.tune import BYTES_EACH

        memory = max(memory, BYTES_EACH * (model.metrics.get("parameters") or model.size / 2))
    return Estimate(memory_bytes=memory, disk_bytes=2 * share * model.size)


@stage(
    "compress.quantize",
    version="5",
    makes="model",
    takes={"model": "model", "calibration?": "corpus"},
    estimate=estimate,
)
def quantize(
    config: QuantizeConfig, run: StageRun, model: Artifact, calibration: Artifact | None = None
) -> dict[str, Any]:
    """Write a model again with fewer bits per weight.

    Raises UserError for an unknown method or number of bits, a model that is quantised already, a width that does not
    divide into groups, a budget that is too small, a method or budget that needs text without any, text or a setting
    that has no use, and numbers that are not finite before or after.
    """
    import torch

    from danlu.compress.quantize import mixed, sensitivity, tune
    from danlu.compress.walk.blockwise import TOO_LARGE, Source, change_blocks, context_of, planned_bytes, say_memory
    from danlu.compress.walk.damping import tell_damping
    from danlu.compress.walk.layers import Walk
    from danlu.model.finite import require_finite
    from danlu.model.hub import save_model
    from danlu.model.quantized import quantize_

    method, scheme = choose(config), scheme_of(config)
    mixing = config.budget is not None
    if mixing:
        mixed.check(config)
    reads = method.needs_text or mixing or config.tune > 0
    if reads and calibration is None:
        raise UserError(
            f"{'a budget' if mixing else config.method} needs text that shows what the model is fed",
            "--calibration CORPUS names one; rtn and hqq need none without budget and tune",
        )
    if calibration is not None and not reads:
        raise UserError(f"{config.method} looks at no text", "leave calibration out, or set a budget or tune")
    refuse_idle(config, method, reads)
    source = Source(model)
    plan = {} if mixing else plan_for(config, scheme, source.model)
    ids = further = None
    if reads and calibration is not None:
        text = _text(config, source, model, calibration, run, tune.rows_for(config.tune))
        ids, further = text[: config.rows], text[config.rows :]
    streams = (2 if method.makes_up and config.trust > 0 else 1) if method.needs_text else 0
    planned = planned_bytes(
        source.model.config,
        bits_per_weight=config.budget or scheme.bits_per_weight,
        tokens=ids.numel() if ids is not None and streams else 0,
        streams=streams,
    )
    if mixing and ids is not None:
        planned = max(planned, sensitivity.planned_bytes(source.model.config, ids[: config.budget_rows].numel()))
    if config.tune:
        planned = max(planned, tune.planned_bytes(source.model.config, text.shape[1]))
    say_memory(planned, run)
    mixture: dict[str, Any] = {}
    if config.budget is not None and ids is not None:
        damp = config.damp if method.needs_text else None
        plan, mixture = mixed.plan_under(config.budget, source, ids[: config.budget_rows], damp, run, config.seed)
    # the second stream is the same text in the model as it was
    walks = [Walk(source.model, ids) for _ in range(streams)] if ids is not None else []
    block_maker = _Blocks(config, method, plan, walks)
    original = source.block if len(walks) > 1 else None
    with torch.no_grad():
        result, facts = change_blocks(
            source,
            run,
            torch.float32,
            block_maker.change,
            finished=lambda index, block: block_maker.pass_by(block, original(index) if original else None),
        )
        outer = {name: own for name, own in plan.items() if name in OUTER}
        errors = [error for block in facts for error in block["errors"].values()]
        if outer:
            errors.append(quantize_(result.float(), outer)["max_error"])
    tuned = tune.tune_(result, model, further, run) if further is not None and config.tune else {}
    if 0 < tuned.get("tuned_steps", 0) < config.tune:
        message = f"the calibration text is enough for {tuned['tuned_steps']:,} of {config.tune:,} steps"
        run.events.emit("warning", message=message)
    require_finite(result, "", "the compressed model", TOO_LARGE)
    save_model(result, run.out, source.tokenizer)
    before, in_float32 = _sizes(model)
    after = sum(file.stat().st_size for file in run.out.glob("*.safetensors"))
    found = {
        "method": config.method,
        "bits": config.bits,
        "smaller": 1 - after / before,
        "group": "mixed" if mixing else scheme.group or "row",
        "symmetric": "mixed" if mixing else scheme.symmetric,
        "bytes_before": before,
        "bytes_in_float32": in_float32,
        "bytes_after": after,
        "smaller_than_float32": 1 - after / in_float32,
        "max_error": max(errors),
        "mean_error": sum(errors) / len(errors),
    }
    found |= {key: value for key, value in mixture.items() if key != "plan"} | tuned
    if ids is not None:
        found["calibration_tokens"] = ids.numel()
    tell_damping(facts, run.events)
    write_json(run.out / "report.json", found | mixture | {"blocks": facts} | context_of(model))
    run.clear_work()
    return found | {
        "planned_memory_bytes": planned,
        "peak_memory_bytes": peak_bytes(),
    }  # of this process: not in the payload


def _text(
    config: QuantizeConfig, source: Source, model: Artifact, calibration: Artifact, run: StageRun, more: int
) -> Tensor:
    """ids [n, T] of the calibration text: the rows that rounding looks at, and `more` behind them."""
    from danlu.compress.walk.calibration import calibration_ids

    if source.tokenizer is None:
        raise UserError(f"{model.id} has no tokenizer to read the calibration text with", "use rtn or hqq")
    return calibration_ids(config, calibration, source.tokenizer, source.model.config.max_position, run.events, more)


class _Blocks:
    """What happens to a block."""

    def __init__(self, config: QuantizeConfig, method: Method, plan: Mapping[str, Scheme], walks: list[Any]) -> None:
        """walks: none, or the text in the model as it becomes, and perhaps the text in the model as it was."""
        self.config, self.method, self.plan = config, method, plan
        self.walk, self.before = (*walks, None, None)[:2]

    def change(self, index: int, block: Any) -> dict[str, Any]:
        """Quantise the matrices of `block`. {errors: relative error of each matrix, ...}"""
        from danlu.compress.quantize.smoothing import awq_scale, smooth, smoothquant_scale
        from danlu.compress.walk.layers import matrix_names
        from danlu.model.quantized import empty_twin

        facts: dict[str, Any] = {"errors": {}}
        unchanged = self.before.inputs(block) if self.before is not None else None
        if self.method.smoothing:
            scale_of = awq_scale(scheme_of(self.config)) if self.method.smoothing == "awq" else smoothquant_scale
            smooth(block, self.walk.moments(block), scale_of)

        def visit(name: str, matrix: Any, inputs: Any) -> None:
            scheme = self.plan[f"blocks.{index}.{name}"]
            twin = empty_twin(matrix, scheme, name)
            if self.method.round is None:
                error = twin.fill(matrix.weight)
            else:
                found, own = self.method.round(self.config, scheme, matrix.weight, inputs)
                twin.put(scheme.store(found))
                error = twin.error(matrix.weight)
                for key, value in own.items():
                    facts[key] = facts.get(key, 0) + value
            facts["errors"][name] = error
            block.set_submodule(name, twin)

        if self.walk is None:
            for name in matrix_names(block):
                visit(name, block.get_submodule(name), None)
        else:
            self.walk.through(block, visit, unchanged)
        return facts

    def pass_by(self, block: Any, original: Any) -> None:
        """The text goes through a block that an earlier try has changed."""
        if self.before is not None:
            self.before.through(original)
        if self.walk is not None:
            self.walk.through(block)


def _sizes(model: Artifact) -> tuple[int, int]:
    """Bytes of the weights as they are, and in float32."""
    from safetensors import safe_open

    if model.path.is_file():
        from danlu.model.gguf.reader import GGUFFile

        with GGUFFile(model.path) as file:
            numbers = sum(_product(tensor.shape) for tensor in file.tensors.values())
        return model.path.stat().st_size, 4 * numbers
    files = sorted(model.path.glob("*.safetensors"))
    numbers = 0
    for path in files:
        with safe_open(path, framework="pt") as opened:
            numbers += sum(_product(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return sum(path.stat().st_size for path in files), 4 * numbers


def _product(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
