"""Changing a model block by block, within the memory of one block, and going on after a kill.

    source files --one block, in floats--> change(block) --> work/block-00003.safetensors --> the model that is saved

The files lend their tensors (model/hub.py), so the source is never whole in memory; what is finished is, in its final
form. A try that was killed left the blocks that were done in `work`; the next one reads them instead of changing them
again. Text that goes through them is computed anew, from the same numbers: the result is the same to the last bit.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted
from danlu.core.progress import human_bytes
from danlu.core.stage import StageRun
from danlu.model.finite import require_finite
from danlu.model.low_rank import apply_ranks, ranks_of
from danlu.model.quantized import Quantized, Scheme, is_quantized, swap_
from danlu.model.transformer import Transformer

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig
    from danlu.tokenizer.tokenizer import Tokenizer

HOLES = 1.3  # measured with 28 blocks of 87 million weights: bench/compress.py --billions
TOO_LARGE = "its weights are too large for these bits or groups: take 8 bits in rows, or another method"
Change = Callable[[int, Any], Mapping[str, Any]]  # number and block, changed in place -> facts


def planned_bytes(
    config: ModelConfig, *, bits_per_weight: float, tokens: int = 0, streams: int = 0, squares: int = 3
) -> int:
    """The most memory that changing a model block by block will take, beside the program itself and the pages of the
    files that are read, which the system takes back when it needs them.

    tokens: of text that goes through; streams: how many models it goes through at once; squares: matrices [K, K] that
    are held for the widest matrix. From shapes, not a measurement:

        the result      all weights at `bits_per_weight`; embedding and head in floats, twice while they are rounded
        a block         in float32, and three times its largest matrix while that is rounded
        the text        hidden states of every stream, the inputs of every matrix of the stream that stays as it was,
                        and of one matrix of the other
        holes           between what stays and what is freed: the share of `HOLES`
    """
    c = config
    attention = c.hidden_size * sum(c.qkv_sizes) + c.n_heads * c.head_dim * c.hidden_size
    mlp = (3 if c.mlp == "swiglu" else 2) * c.hidden_size * c.intermediate_size
    outer = c.vocab_size * c.hidden_size * (1 if c.tie_embeddings else 2)
    widest = max(c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim)
    largest = (2 if c.mlp == "swiglu" else 1) * c.hidden_size * c.intermediate_size
    seen = 2 * c.hidden_size + c.n_heads * c.head_dim + c.intermediate_size
    result = c.n_layers * (attention + mlp) * bits_per_weight / 8 + 8 * outer
    block = 4 * (attention + mlp) + 3 * 4 * largest
    text = 4 * tokens * (streams * c.hidden_size + (seen if streams > 1 else 0) + 2 * widest) if tokens else 0
    return int(HOLES * (result + block + text + (4 * squares * widest**2 if tokens else 0)))


def say_memory(planned: int, run: StageRun) -> None:
    """What memory it will take, and whether that is there."""
    import psutil

    run.events.emit("derived", text=f"needs about {human_bytes(planned)} of memory beside the program")
    if planned > (free := psutil.virtual_memory().available):
        message = f"about {human_bytes(planned)} of memory are needed and {human_bytes(free)} are free"
        run.events.emit("warning", message=f"{message}: fewer or shorter rows of calibration text take less")


class Source:
    """A float model whose blocks are read one at a time. Raises UserError for one that is compressed."""

    def __init__(self, artifact: Artifact) -> None:
        from danlu.core.errors import UserError
        from danlu.model.hub import Checkpoint, load, load_tokenizer

        self._checkpoint: Checkpoint | None = None
        self.tokenizer: Tokenizer | None
        if artifact.path.is_dir():
            self._checkpoint = Checkpoint(artifact.path)
            self.model, self.tokenizer = self._checkpoint.model, load_tokenizer(artifact.path)
        else:  # a GGUF file, which has to be unpacked anyway
            self.model, self.tokenizer = load(artifact.path)
        if is_quantized(self.model):
            raise UserError(f"{artifact.id} is quantised already", "compress the model it was made from")
        if ranks_of(self.model):
            raise UserError(f"{artifact.id} is of low rank already", "compress the model it was made from")
        self.id, self.dtype = artifact.id, next(self.model.parameters()).dtype
        for name in ("embedding", "position_embedding", "norm", "lm_head"):
            if getattr(self.model, name) is not None:
                with self._lent(name):
                    require_finite(getattr(self.model, name), name, self.id)
                    setattr(self.model, name, copy.deepcopy(getattr(self.model, name)))

    @property
    def n_blocks(self) -> int:
        return self.model.config.n_layers

    def block(self, index: int) -> Any:
        """A copy of a block in float32, to be changed at will."""
        with self._lent(f"blocks.{index}"):
            block = copy.deepcopy(self.model.get_submodule(f"blocks.{index}"))
        require_finite(block, f"blocks.{index}", self.id)
        return block.float().requires_grad_(False)

    @contextmanager
    def _lent(self, name: str) -> Iterator[None]:
        if self._checkpoint is None:
            yield
            return
        with self._checkpoint.lent(name):
            yield


def change_blocks(
    source: Source,
    run: StageRun,
    dtype: torch.dtype,
    change: Change,
    finished: Callable[[int, Any], None] | None = None,
) -> tuple[Transformer, list[dict[str, Any]]]:
    """Change every block of `source`; the model that results, and the facts of each block.

    `change` gets a block in float32 and leaves it as it is to be stored, matrices quantised or not; `finished` is told
    of a block that an earlier try has changed. Floats are stored in `dtype`. Raises Interrupted on SIGINT, when
    a block is done.
    """
    facts: list[dict[str, Any]] = []
    with run.graceful():
        for index in range(source.n_blocks):
            if run.stop_requested:
                raise Interrupted(f"{index} of {source.n_blocks} blocks are done")
            file = run.work / f"block-{index:05d}.safetensors"
            block = source.block(index)
            if (done := _read(file, block)) is not None:
                facts.append(done)
                if finished is not None:
                    finished(index, block)
            else:
                facts.append(dict(change(index, block)))
                require_finite(block, f"blocks.{index}", "the compressed model", TOO_LARGE)
                _write(file, block, facts[-1])
            source.model.blocks[index] = block.to(dtype)
            run.progress(index + 1, source.n_blocks, "blocks")
    return source.model, facts


def _write(file: Path, block: nn.Module, facts: Mapping[str, Any]) -> None:
    schemes = {name: asdict(module.scheme) for name, module in block.named_modules() if isinstance(module, Quantized)}
    header = {"schemes": json.dumps(schemes), "ranks": json.dumps(ranks_of(block)), "facts": json.dumps(facts)}
    partial = file.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in block.state_dict().items()}, partial, metadata=header)
    partial.rename(file)


def _read(file: Path, block: nn.Module) -> dict[str, Any] | None:
    """Fill `block` from an earlier try; its facts. None where the file is not there, or half of one."""
    try:
        opened = safe_open(file, framework="pt")
    except (FileNotFoundError, SafetensorError):
        return None
    with opened:
        header = opened.metadata()
        swap_(block, {name: Scheme(**fields) for name, fields in json.loads(header["schemes"]).items()})
        apply_ranks(block, json.loads(header["ranks"]))
        block.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()}, assign=True)  # noqa: SIM118
    facts: dict[str, Any] = json.loads(header["facts"])
    return facts


def context_of(model: Artifact) -> dict[str, Any]:
    """The length of the training windows goes with the weights: an evaluation asks for it."""
    file = model.path / "report.json"
    if not file.is_file():
        return {}
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return {"context": report["context"]} if isinstance(report, dict) and "context" in report else {}
