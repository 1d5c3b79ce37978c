"""After rounding: scales and norms that bring the model's predictions back, the whole numbers staying as they are.

Rounding looks at one matrix at a time, and at the text it is shown. What is left over shows in what the model predicts,
and that can still be moved without touching a whole number, since a weight is linear in its scale:

    w = s (q - z),      s <- s (1 + d),      norm weights <- as they are + d

The loss is the divergence from the float model's predictions (danlu/train/divergence.py), on rows of the calibration
text that rounding has not seen: those that it has, it fits already, and more of the same makes other text worse. A few
dozen steps do; Adam, rising over WARM_UP steps and then falling to nothing. Of NF4 and float8, which have no whole
numbers, the norms alone are trained.

Trained scales are the second phase of EfficientQAT (Chen et al., arXiv:2407.11062), trained norms are norm tweaking (Li
et al., arXiv:2309.02784); here both are a last step behind GPTQ.

Worked example, one weight with s = 0.5, q - z = 3, so w = 1.5: the loss wants 1.56, and d = 0.04 gives it.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.compress.training.straight_through import towards
from danlu.core.artifact import Artifact
from danlu.core.device import probe
from danlu.core.errors import Interrupted
from danlu.core.stage import StageRun
from danlu.model.config import ModelConfig
from danlu.model.layers import RMSNorm
from danlu.model.quantized import Quantized, QuantizedLinear, float_twin
from danlu.model.transformer import Transformer
from danlu.train.loop import Micro

NORMS = (RMSNorm, nn.LayerNorm)
STEP_ROWS, CHECK_ROWS = 2, 4
LEARNING_RATE = 2e-4
WARM_UP = 5
BYTES_EACH = (
    13  # of a weight: the teacher, the whole numbers, and the weights as they are and again for the pass backward
)


def rows_for(n_steps: int) -> int:
    """How many rows of text so many steps read."""
    return n_steps * STEP_ROWS + CHECK_ROWS if n_steps else 0


def planned_bytes(shape: ModelConfig, length: int) -> int:
    """The most memory that `tune_` takes beside the program, with rows of so many tokens. From shapes."""
    kept = 12 * shape.hidden_size + 6 * shape.intermediate_size  # floats a token and layer, for the pass backward
    return BYTES_EACH * _weights(shape) + 4 * STEP_ROWS * length * shape.n_layers * kept


def _weights(shape: ModelConfig) -> int:
    attention = shape.hidden_size * sum(shape.qkv_sizes) + shape.n_heads * shape.head_dim * shape.hidden_size
    mlp = (3 if shape.mlp == "swiglu" else 2) * shape.hidden_size * shape.intermediate_size
    outer = (1 if shape.tie_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return shape.n_layers * (attention + mlp) + outer


class Scaled(nn.Module):
    """The matrix of a quantised layer with scales that can be trained."""

    def __init__(self, module: Quantized) -> None:
        super().__init__()
        grid = module.grid()
        n_rows, n_groups = grid.scale.shape
        values = grid.values.view(n_rows, n_groups, -1)
        self.values = values if grid.zero is None else values.to(torch.int16) - grid.zero[..., None]
        self.scale = grid.scale.float()
        self.more = nn.Parameter(torch.zeros_like(self.scale))
        self.bias = getattr(module, "bias", None)

    def trained(self) -> Tensor:
        return self.scale * (1 + self.more)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.values * self.trained()[..., None]).flatten(1)
        return F.linear(x, weight, self.bias)


def tune_(model: Transformer, original: Artifact, ids: Tensor, run: StageRun) -> dict[str, Any]:
    """Train the scales and norms of a quantised `model`, in place, on rows ids [n, T] but the last CHECK_ROWS.

    `original` is the artifact with the model in floats. Products are computed in the dtype that this machine is fastest
    in. Returns the steps and, a token of the last rows, the divergence before and after; what did not lower it is
    thrown away. With less text than that nothing happens, and a warning says so. Raises Interrupted on SIGINT.
    """
    from danlu.model.hub import load

    n_steps = (len(ids) - CHECK_ROWS) // STEP_ROWS
    if n_steps < 1:
        message = "the calibration text has no rows beside those that rounding read: scales are not trained on others"
        run.events.emit("warning", message=message)
        return {}
    teacher, _ = load(original.path)
    loss_of = towards(teacher.float().eval().requires_grad_(False), 1.0)
    dtype: torch.dtype = getattr(torch, probe().dtype)
    student = _trainable(model)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not any(isinstance(module, Scaled) for module in student.modules()):
        message = "the numbers are no multiples of a scale (nf4, fp8): tune trains the norms alone, which gains little"
        run.events.emit("warning", message=message)

    def divergence(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            total, counted = loss_of(student, Micro(rows, rows), torch.device("cpu"))
        return total / counted

    def checked() -> float:
        with torch.no_grad():
            return sum(float(divergence(row[None])) for row in ids[-CHECK_ROWS:]) / CHECK_ROWS

    before = checked()
    optimizer = torch.optim.Adam(trained, betas=(0.9, 0.95))
    with run.graceful():
        for step in range(n_steps):
            if run.stop_requested:
                raise Interrupted(f"all blocks are rounded; the {n_steps} steps behind them begin anew")
            with torch.enable_grad():
                divergence(ids[step * STEP_ROWS : (step + 1) * STEP_ROWS]).backward()
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / n_steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            run.progress(step + 1, n_steps, "steps")
    after = checked()
    if after < before:
        _take_over(model, student)
    else:
        run.events.emit(
            "derived", text=f"training scales brought nothing ({before:.4f}, then {after:.4f}): left as rounded"
        )
    return {"tuned_steps": n_steps, "divergence_before": before, "divergence_after": after}


def _trainable(model: Transformer) -> Transformer:
    """A copy whose scales and norms, and nothing else, have a gradient."""
    student = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear) and module.on_grid and name != "lm_head":
            student.set_submodule(name, Scaled(module))
        elif isinstance(module, Quantized):
            student.set_submodule(name, float_twin(module, torch.float32))
    student.float().requires_grad_(False)
    for module in student.modules():
        if isinstance(module, Scaled):
            module.more.requires_grad_(True)
        elif isinstance(module, NORMS):
            module.weight.requires_grad_(True)
    return student


@torch.no_grad()
def _take_over(model: Transformer, student: Transformer) -> None:
    for name, module in student.named_modules():
        own: Any = model.get_submodule(name)
        if isinstance(module, Scaled):
            own.weight_scale.copy_(module.trained())
        elif isinstance(module, NORMS):
            own.weight.copy_(module.weight)
