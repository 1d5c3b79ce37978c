"""The ways to round, and what a person may ask of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from danlu.compress.walk.calibration import CalibrationConfig, refuse_unused
from danlu.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from danlu.compress.walk.layers import Moments
    from danlu.kernels.grid import Grid
    from danlu.model.quantized import Scheme
    from danlu.model.transformer import Transformer

OUTER = ("embedding", "lm_head")


class QuantizeConfig(CalibrationConfig):
    method: str = "rtn"
    bits: int = 8
    group: Literal["row", 32, 64, 128] | None = None  # weights that share a scale; None: a row for 8 bits, 32 for 4
    symmetric: bool | None = None  # None: as the method likes it best
    head_bits: Literal[4, 8, 16] = 8  # of embedding and head below 8 bits; 16: left as they are
    damp: float = Field(default=0.01, gt=0, lt=1)  # gptq: of the mean diagonal of the Hessian
    trust: float = Field(default=0.5, ge=0, le=1)  # gptq: how far to make up for the errors of earlier matrices
    refine: int = Field(default=2, ge=0)  # gptq: rounds of looking again at scales and numbers (refine.py)
    tune: int = Field(default=0, ge=0)  # steps that train scales and norms when all is rounded (tune.py)
    # Bits a weight, over all: a scheme for each matrix (mixed.py).
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    budget_rows: int = Field(default=8, ge=1)  # of the calibration text, to see which matrices are sensitive


Round = Callable[["QuantizeConfig", "Scheme", "Tensor", "Moments | None"], "tuple[Grid, dict[str, int]]"]


@dataclass(frozen=True)
class Method:
    """A way to round. needs_text: it looks at what matrices are fed; smoothing: awq, smoothquant; makes_up: for the
    errors of earlier matrices, for which the text goes through the unchanged model, too."""

    bits: tuple[int, ...]
    summary: str
    round: Round | None = None  # None: to nearest, whatever the scheme
    kind: str = "int"
    needs_text: bool = False
    smoothing: str = ""
    symmetric: bool = True
    makes_up: bool = False


def _hqq(config: QuantizeConfig, scheme: Scheme, weight: Tensor, inputs: Moments | None) -> tuple[Grid, dict[str, int]]:
    from danlu.compress.quantize.hqq import hqq

    return hqq(weight, scheme), {}


def _gptq(
    config: QuantizeConfig, scheme: Scheme, weight: Tensor, inputs: Moments | None
) -> tuple[Grid, dict[str, int]]:
    from danlu.compress.quantize.gptq import for_new_inputs, gptq
    from danlu.compress.quantize.refine import refine

    assert inputs is not None
    if inputs.cross is not None and config.trust:
        weight = for_new_inputs(weight, inputs.hessian, inputs.cross, config.trust)
    found, raised = gptq(weight, inputs.hessian, scheme, damp=config.damp)
    return refine(weight, inputs.hessian, found, scheme, config.refine, config.damp), {"damped_again": raised}


METHODS: Mapping[str, Method] = {
    "rtn": Method((8, 4), "round to nearest; no text needed"),
    "hqq": Method((4, 8), "scales for an error that ignores outliers; no text needed", _hqq, symmetric=False),
    "gptq": Method((4, 8), "rounds so that outputs stay", _gptq, needs_text=True, symmetric=False, makes_up=True),
    "awq": Method((4,), "finer steps for columns with large inputs", None, "int", True, "awq", False),
    "awq+gptq": Method((4,), "awq first, then gptq", _gptq, "int", True, "awq", False),
    "smoothquant": Method((8,), "outliers of the inputs moved into the weights", None, "int", True, "smoothquant"),
    "fp8": Method((8,), "eight-bit floats, a scale a row", kind="float8"),
    "nf4": Method((4,), "sixteen quantiles of a normal distribution: to store, not to multiply", kind="nf4"),
}


def choose(config: QuantizeConfig) -> Method:
    """The row of METHODS. Raises UserError that lists what there is."""
    row = METHODS.get(config.method)
    if row is None or config.bits not in row.bits:
        known = [f"{name} with {' or '.join(map(str, one.bits))} bits" for name, one in METHODS.items()]
        raise UserError(
            f'there is no method "{config.method}" with {config.bits} bits', "available: " + ", ".join(known)
        )
    return row


def refuse_idle(config: QuantizeConfig, method: Method, reads: bool) -> None:
    """Raises UserError for a setting that `method` does not look at: whoever gave it expects something of it."""
    rounds = method.round is _gptq
    of_gptq = {"damp": rounds, "refine": rounds, "trust": method.makes_up}
    of_text = dict.fromkeys(CalibrationConfig.model_fields, reads)
    others = {"budget_rows": config.budget is not None, "head_bits": config.bits < 8}
    refuse_unused(config, of_gptq | of_text | others, f"{config.method} with {config.bits} bits")


def scheme_of(config: QuantizeConfig) -> Scheme:
    """How the matrices of the blocks will be stored. Raises UserError where the method leaves no choice."""
    from danlu.model.quantized import FLOAT8, NF4, Scheme

    method = choose(config)
    if method.kind != "int":
        own = FLOAT8 if method.kind == "float8" else NF4
        if config.symmetric is False or config.group not in (None, own.group or "row"):
            raise UserError(f"{config.method} has groups and zero points of its own", "leave group and symmetric out")
        return own
    group = (None if config.bits == 8 else 32) if config.group is None else config.group
    symmetric = method.symmetric if config.symmetric is None else config.symmetric
    if config.bits == 8 and config.symmetric is None:
        symmetric = True  # zero points are worth nothing there, and the fast products have none
    return Scheme(config.bits, None if group == "row" else group, symmetric)


def plan_for(config: QuantizeConfig, scheme: Scheme, model: Transformer) -> dict[str, Scheme]:
    """One scheme for all matrices but perhaps the outer ones. Raises UserError for a matrix that does not divide."""
    from danlu.model.quantized import plan_of

    plan = plan_of(model, scheme)
    if scheme.bits < 8 and config.head_bits != 8:
        outer = {name: scheme for name in plan if name in OUTER and config.head_bits == 4}
        plan = {name: own for name, own in plan.items() if name not in OUTER} | outer
    for name, own in plan.items():
        weight = model.get_parameter(f"{name}.weight")
        own.check(weight.shape[0], weight.shape[1], name)
    return plan
