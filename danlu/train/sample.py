"""A look at what the model writes while it is trained.

A loss of 3.2 says little to a person and a line of text says much. This is the plainest generator there is: the whole
text through the whole model for every token, no cache. For two lines every tenth of a run that is cheap; to generate in
earnest there is the engine room, which stands beside this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from danlu.train.loop import head_weight, precision

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer


@torch.no_grad()
def continue_ids(
    model: nn.Module, ids: list[int], *, length: int, context: int, stop: frozenset[int], temperature: float, seed: int,
    dtype: torch.dtype = torch.float32,
) -> list[int]:  # fmt: skip
    """Up to ``length`` new ids after ``ids``. Draws from a generator of its own: training's stays untouched."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    new: list[int] = []
    for _ in range(length):
        window = torch.tensor([(ids + new)[-context:]], device=device)  # [1, T]
        with precision(device, dtype):
            last = model.hidden(window)[0, -1]  # type: ignore[operator]  # [D]
            logits = last @ head_weight(model).T.to(last.dtype)  # [V]
        chances = torch.softmax(logits.float().cpu() / temperature, dim=-1)
        new.append(int(torch.multinomial(chances, 1, generator=generator)))
        if new[-1] in stop:
            break
    model.train(was_training)
    return new


def sample_texts(
    model: nn.Module, tokenizer: Tokenizer, prompts: list[str], *, length: int, context: int, seed: int,
    temperature: float = 0.7, dtype: torch.dtype = torch.float32,
) -> list[str]:  # fmt: skip
    """Each prompt with its continuation. An empty prompt starts as a document does, after the separator."""
    start = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
    texts = []
    for i, prompt in enumerate(prompts):
        ids = ([start] if start is not None else []) + tokenizer.encode(prompt)
        if ids:
            new = continue_ids(
                model, ids, length=length, context=context, stop=tokenizer.stop_ids, temperature=temperature,
                seed=seed + i, dtype=dtype,
            )  # fmt: skip
            texts.append(prompt + tokenizer.decode(new, skip_special=True))
    return texts
