"""Cross-entropy without the logits of the whole batch.

The last layer of a language model is its widest: for B*T = 16,384 positions and V = 32,768 words the logits are
2 GiB in float32, the probabilities another 2 GiB and their gradient a third. None of that needs to exist at once.
For one position with hidden state ``h`` [D], head ``W`` [V, D] and target ``y``

    z = W h                      logits                      [V]
    loss = logsumexp(z) - z_y
    d loss / d z = softmax(z) - onehot(y)                    [V]
    d loss / d h = W^T (softmax(z) - onehot(y))              [D]
    d loss / d W = (softmax(z) - onehot(y)) h^T              [V, D]

the gradient needs nothing but what the forward pass has in its hands. So we walk over the positions in chunks and
finish each one, gradient included, while its logits are still in the cache; ``backward`` only multiplies by the
incoming scalar. Checkpointing the head (the obvious other way) would compute the logits twice: a third more work in
the layer that costs most in a small model. The idea is in Liger Kernel's fused linear cross-entropy (Hsu et al.,
arXiv:2410.10989, section 3.2) and Wijmans et al., "Cut Your Losses" (arXiv:2411.09009).

The trap: the gradients made in the forward pass are right only if ``loss`` is used linearly (scaled, summed). That is
how a training loop uses it; second derivatives are refused.

Worked example (one position, D = 1, V = 2): h = [1], W = [[0], [0]], y = 0 gives z = [0, 0], loss = ln 2,
p - onehot = [-0.5, 0.5], dh = 0, dW = [[-0.5], [0.5]].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.kernels.linear import linear_cross_entropy
from danlu.kernels.rows import softmax_cross_entropy_

IGNORE = -100
"""A target with this value is not counted: padding, and in fine-tuning everything the user said."""

CHUNK_BYTES_CPU = 4 << 20  # logits of one chunk: large enough for the products, small enough for a cache
CHUNK_BYTES_DEVICE = 256 << 20  # on a GPU few, large multiplications win


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None) -> tuple[Tensor, int]:
    """Sum of the negative log-likelihoods and the number of positions it runs over.

    hidden ``[..., D]``, weight ``[V, D]`` (the head), targets ``[...]`` int64 with ``IGNORE`` where nothing is asked.
    Returns the loss (scalar, float32, differentiable in hidden and weight) and the count. The sum, not the mean:
    only the caller knows over how many micro-batches the mean runs. All targets ignored gives loss 0 and zero
    gradients, not NaN. Under autocast the multiplications run in the autocast dtype, the softmax in float32.
    """
    hidden = hidden.reshape(-1, hidden.shape[-1])  # [N, D]
    targets = targets.reshape(-1)  # [N]
    asked = targets != IGNORE
    if not bool(asked.all()):  # what nobody asks for is not computed: in fine-tuning that is half of the head's work
        hidden, targets = hidden[asked], targets[asked]
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if chunk is None:
        limit = CHUNK_BYTES_CPU if kind == "cpu" else CHUNK_BYTES_DEVICE
        chunk = max(64, limit // (dtype.itemsize * weight.shape[0]))
    wanted = torch.is_grad_enabled()  # inside a Function grad mode is always off, so ask here
    loss = _ChunkedCrossEntropy.apply(hidden, weight, targets, chunk, dtype, wanted)
    return loss, len(targets)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, dtype: torch.dtype, wanted: bool
    ) -> Tensor:
        need_hidden, need_weight = (wanted and needed for needed in ctx.needs_input_grad[:2])
        with torch.autocast(hidden.device.type, enabled=False):
            compiled = linear_cross_entropy(hidden.to(dtype), weight, targets, chunk, need_hidden, need_weight)
            if compiled is None:
                compiled = _by_chunks(hidden, weight.to(dtype), targets, chunk, need_hidden, need_weight)
        losses, grad_hidden, grad_weight = compiled
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.save_for_backward(grad_hidden, grad_weight)
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # Not in place: autograd may run this twice under retain_graph, and saved tensors must not change.
        saved = zip((grad_hidden, grad_weight), ctx.dtypes, strict=True)
        scaled = [None if g is None else (g.float() * grad_output).to(dtype) for g, dtype in saved]
        return scaled[0], scaled[1], None, None, None, None


def _by_chunks(
    hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The losses [N] and the gradients of their sum; the products are in the dtype of head [V, D]."""
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if need_hidden else None
    grad_weight = torch.zeros_like(head, dtype=torch.float32) if need_weight else None
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        h = hidden[part].to(head.dtype)  # [C, D]
        losses[part], g = _softmax_cross_entropy(h @ head.T, targets[part], need_hidden or need_weight)  # [C], [C, V]
        if grad_hidden is not None:
            grad_hidden[part] = g @ head
        if grad_weight is not None:
            if head.dtype == torch.float32:
                grad_weight.addmm_(g.T, h)  # [V, D]
            else:
                grad_weight += g.T @ h  # accumulated in float32 over the chunks
    return losses, grad_hidden, grad_weight


def _softmax_cross_entropy(z: Tensor, y: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Logits [C, V] and targets [C] -> losses [C] and softmax - onehot [C, V] in the dtype of z; z is overwritten."""
    losses = softmax_cross_entropy_(z, y, gradient)
    if losses is not None:
        return losses, z
    wide, y = z.float(), y.unsqueeze(1)  # every line below works in this one buffer
    wide -= wide.amax(dim=1, keepdim=True)
    at_target = wide.gather(1, y)  # [C, 1]
    sums = wide.exp_().sum(dim=1, keepdim=True)  # [C, 1]
    losses = (sums.log() - at_target).squeeze(1)
    if gradient:
        wide.div_(sums).scatter_add_(1, y, wide.new_full((len(y), 1), -1.0))
    return losses, wide.to(z.dtype)
