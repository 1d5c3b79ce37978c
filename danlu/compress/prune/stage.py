"""The stage `compress.prune`.

    model + text  --->  model: config.json, model.safetensors, the tokenizer, report.json

`method` is a row of `METHODS`. Zeros leave every shape as it was: the file is no smaller and the engine no faster,
until something that knows zeros reads it. Channels, heads and layers leave a smaller model of the same family, faster
wherever it runs. What it costs, `evaluate.compare` says on held-out text; `compress.recover` trains some of it back.

The text runs through the model as it is pruned, so that each block is judged by what the ones before it now give. One
block is in memory in floats at a time. The embedding and the head are left alone, as in the papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.compress.prune.methods import choose
from danlu.compress.walk.calibration import CalibrationConfig, refuse_unused
from danlu.core.artifact import Artifact, Manifest, write_json
from danlu.core.device import peak_bytes
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun, stage

SHARD_BYTES = 2 * 10**9  # of a file of weights: what is copied at once when the model is written
FEW = 256  # parts that are worth naming in the report


class PruneConfig(CalibrationConfig):
    method: str = "wanda"
    share: float | None = None  # of weights, heads, channels, layers or numbers that go; None: the method's own
    pattern: str = ""  # "2:4": of each 4 neighbours in a row 2 stay


def estimate(config: PruneConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """In memory the result, what is being written, and the text; on disk finished blocks in float32, and the result."""
    model = parents.get("model")
    if model is None:
        return Estimate()
    return Estimate(memory_bytes=model.size + min(model.size, SHARD_BYTES) + 1e9, disk_bytes=3.0 * model.size)


@stage("compress.prune", makes="model", takes={"model": "model", "calibration?": "corpus"}, estimate=estimate)
def prune(config: PruneConfig, run: StageRun, model: Artifact, calibration: Artifact | None = None) -> dict[str, Any]:
    """Take away what a model needs least: single weights, channels, heads, layers, rank.

    Raises UserError for an unknown method, a share or pattern that the model cannot have, a model that is compressed
    already, a method that needs text and gets none, text or a setting without use, and numbers that are not finite;
    Interrupted after Ctrl-C.
    """
    import torch

    from danlu.compress.prune.pruner import share_of_zeros
    from danlu.compress.walk.blockwise import Source, change_blocks, context_of, planned_bytes, say_memory
    from danlu.compress.walk.calibration import calibration_ids
    from danlu.compress.walk.damping import tell_damping
    from danlu.compress.walk.layers import Walk
    from danlu.model.hub import save_model

    method, pattern = choose(config.method, config.share, config.pattern)
    if method.calibrated and calibration is None:
        raise UserError(f"{config.method} needs text that shows what the model is fed", "give a corpus as calibration")
    if calibration is not None and not method.calibrated:
        raise UserError(f"{config.method} looks at no text", "leave calibration out")
    refuse_unused(config, dict.fromkeys(CalibrationConfig.model_fields, method.calibrated), config.method)
    source = Source(model)
    network, before = source.model, source.model.n_params
    pruner = method.make(network.config, pattern)
    walk, tokens = None, 0
    if method.calibrated:
        assert calibration is not None
        if source.tokenizer is None:
            raise UserError(f"{model.id} has no tokenizer to read the calibration text with", "prune by magnitude")
        ids = calibration_ids(config, calibration, source.tokenizer, network.config.max_position, run.events)
        walk, tokens = Walk(network, ids), ids.numel()
    planned = planned_bytes(
        network.config, bits_per_weight=8 * source.dtype.itemsize, tokens=tokens, streams=1 if walk is not None else 0
    )
    say_memory(planned, run)

    def pass_by(index: int, block: Any) -> None:
        if walk is not None:
            walk.through(block)

    with torch.no_grad():
        changed, facts = change_blocks(
            source, run, source.dtype, lambda index, block: pruner.change(block, walk), finished=pass_by
        )
        pruned = pruner.finish(changed, facts)
    tell_damping(facts, run.events)
    save_model(pruned, run.out, source.tokenizer, max_shard_size=SHARD_BYTES)
    found = {
        "method": config.method,
        "share": pattern.share,
        "pattern": config.pattern,
        "zeros": share_of_zeros(pruned),
        "parameters_before": before,
        "parameters": pruned.n_params,
    }
    told = [{key: value for key, value in one.items() if key != "kept" or len(value) <= FEW} for one in facts]
    write_json(run.out / "report.json", found | {"layers": told} | context_of(model))
    run.clear_work()
    return found | {"planned_memory_bytes": planned, "peak_memory_bytes": peak_bytes()}  # not in the payload
