"""A written graph in onnxruntime, fed like danlu's own decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor


class Session:
    """Holds the cache of one batch. `exact` keeps activations in float where onnxruntime rounds them to 8 bits."""

    def __init__(self, file: Path, exact: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._outputs = [one.name for one in self._session.get_outputs()]
        self.forget()

    def forget(self) -> None:
        self.cache: dict[str, np.ndarray] = {}

    def __call__(self, ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V]. mask [B, P + T], default all ones; positions [B, T], default P, P + 1, ..."""
        batch, length = ids.shape
        past = next(iter(self.cache.values())).shape[2] if self.cache else 0
        mask = torch.ones(batch, past + length, dtype=torch.int64) if mask is None else mask
        if positions is None:
            positions = torch.arange(past, past + length).expand(batch, length)
        feed: dict[str, Any] = {
            "input_ids": ids.numpy(), "attention_mask": mask.numpy(), "position_ids": positions.contiguous().numpy()
        }  # fmt: skip
        for one in self._session.get_inputs():
            if one.name.startswith("past_key_values."):
                dtype = np.float16 if one.type == "tensor(float16)" else np.float32
                empty = np.zeros((batch, one.shape[1], 0, one.shape[3]), dtype)
                feed[one.name] = self.cache.get(one.name, empty)
        found = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        self.cache = {k.replace("present", "past_key_values"): v for k, v in found.items() if k != "logits"}
        return torch.from_numpy(found["logits"])
