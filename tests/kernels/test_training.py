"""The kernels of a training step against the same formulas in torch, in double precision: values and gradients.

In float32 the bound is a few roundings. In bfloat16 it is that of rounding inputs, probabilities and results to 8 bits:
the same bound that torch's own kernels keep.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels import call
from danlu.kernels.causal import causal_attention, norm_and_rotate
from danlu.kernels.linear import linear, linear_cross_entropy
from danlu.kernels.muon import Matrix, muon_update_
from danlu.kernels.rows import add_rms_norm, rms_norm, softmax_cross_entropy_, swiglu
from danlu.model.attention import causal_mask, sdpa
from danlu.model.rope import rotate
from danlu.train.optim import NEWTON_SCHULZ, orthogonalise

pytestmark = pytest.mark.skipif(call.kernels() is None, reason="no compiler here")
DTYPES = (torch.float32, torch.bfloat16)
own_products = pytest.mark.skipif(not call.products(), reason="torch's products are used here")


def bound(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-2


def close(got: Tensor | None, want: Tensor, limit: float) -> None:
    """The largest error is at most `limit` of the largest number, or a tenth of `limit` where that is 0."""
    assert got is not None and got.shape == want.shape
    error = (got.double() - want.double()).abs().max()
    assert error <= limit * want.double().abs().max() + limit * 0.1, f"error {error}"


def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def compare(
    kernel: Callable[..., Tensor | tuple[Tensor, ...] | None],
    formula: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """Outputs and gradients of `kernel` on the inputs, and of `formula` on the same numbers in double precision."""
    wide = [x.detach().double().requires_grad_() for x in inputs]
    got, want = kernel(*inputs), formula(*wide)
    assert got is not None, "the kernel declined"
    got, want = (out if isinstance(out, tuple) else (out,) for out in (got, want))
    directions = [torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype) for out in got]
    d_got = torch.autograd.grad(got, inputs, directions)
    d_want = torch.autograd.grad(want, wide, [d.double() for d in directions])
    for a, b in zip((*got, *d_got), (*want, *d_want), strict=True):
        close(a, b, bound(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "length", "heads", "kv_heads", "head_dim"),
    [(2, 256, 2, 1, 64), (1, 100, 4, 2, 32), (2, 33, 3, 3, 48), (1, 130, 2, 1, 128), (3, 2, 2, 2, 16)],
)
@pytest.mark.parametrize("segmented", [False, True])
def test_attention(
    batch: int, length: int, heads: int, kv_heads: int, head_dim: int, segmented: bool, dtype: torch.dtype
) -> None:
    shapes = [(batch, length, n, head_dim) for n in (heads, kv_heads, kv_heads)]
    scale = head_dim**-0.5
    segments = mask = None
    if segmented:
        segments = (torch.arange(length) * 3 // length).expand(batch, length).clone()
        segments[0] = segments[0].flip(0)
        mask = (causal_mask(length, None, segments.device) & (segments[:, :, None] == segments[:, None, :]))[:, None]
    compare(
        lambda q, k, v: causal_attention(q, k, v, scale, segments),
        lambda q, k, v: sdpa(q, k, v, mask, scale),
        draw(length, *shapes, dtype=dtype),
        dtype,
    )


def test_attention_of_two_tokens_by_hand() -> None:
    q, k = torch.ones(1, 2, 1, 16, requires_grad=True), torch.zeros(1, 2, 1, 16)
    v = torch.stack((torch.full((16,), 2.0), torch.full((16,), 4.0))).view(1, 2, 1, 16)
    out = causal_attention(q, k, v, 1.0)  # all scores 0: the second token sees both alike
    assert out is not None and out[0, 0].eq(2.0).all() and out[0, 1].eq(3.0).all()


def test_attention_shows_what_is_not_finite() -> None:
    q, k, v = draw(0, *[(1, 70, 1, 16)] * 3)
    with torch.no_grad():
        k[0, 3] = math.nan
    out = causal_attention(q, k, v, 0.25)
    assert out is not None and out[0, :3].isfinite().all() and out[0, 3:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "head_dim"), [(256, 64), (7, 6)])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("turns", [False, True])
def test_norm_and_rotate(length: int, head_dim: int, norms: bool, turns: bool, dtype: torch.dtype) -> None:
    heads = (3, 2, 2)
    (qkv,) = draw(1, (2, length, sum(heads), head_dim), dtype=dtype)
    weights = draw(2, (head_dim,), (head_dim,)) if norms else []
    angles = torch.rand(length, 1, head_dim // 2) * 6
    rotary = (angles.cos(), angles.sin()) if turns else None

    def formula(qkv: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        q, k, v = qkv.split(heads, dim=2)
        if weights:
            q, k = (F.rms_norm(x, (head_dim,), w, 1e-6) for x, w in zip((q, k), weights, strict=True))
        if turns:
            q, k = (rotate(x, angles.cos().double(), angles.sin().double()) for x in (q, k))
        return q, k, v

    def kernel(qkv: Tensor, *weights: Tensor) -> tuple[Tensor, ...] | None:
        return norm_and_rotate(qkv, heads, (weights[0], weights[1]) if weights else None, 1e-6, rotary)

    compare(kernel, formula, [qkv, *weights], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(300, 128), (5, 7)])
def test_norms(rows: int, size: int, dtype: torch.dtype) -> None:
    x, weight = draw(3, (rows, size), (size,))
    (added,) = draw(4, (rows, size), dtype=dtype)

    def kernel(x: Tensor, added: Tensor, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return add_rms_norm(x, added, weight, 1e-5)

    compare(kernel, lambda x, a, w: (x + a, F.rms_norm(x + a, (size,), w, 1e-5)), (x, added, weight), dtype)
    compare(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, (size,), w, 1e-5), (added, weight), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [320, 5])
def test_swiglu(inner: int, dtype: torch.dtype) -> None:
    gate_up = draw(5, (2, 9, 2 * inner), dtype=dtype)
    compare(swiglu, lambda x: F.silu(x[..., :inner]) * x[..., inner:], gate_up, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [4096, 37])
def test_softmax_cross_entropy(vocab: int, dtype: torch.dtype) -> None:
    z = torch.randn(70, vocab, generator=torch.Generator().manual_seed(6)).mul(5).to(dtype)
    targets = torch.arange(70) * 31 % vocab
    wide = z.double().requires_grad_()
    want = F.cross_entropy(wide, targets, reduction="none")
    (gradient,) = torch.autograd.grad(want.sum(), wide)
    close(softmax_cross_entropy_(z, targets, True), want, 1e-6)
    close(z, gradient, bound(dtype))


@own_products
@pytest.mark.parametrize(("rows", "n", "k"), [(300, 320, 128), (7, 16, 32), (129, 48, 80), (65, 640, 144)])
def test_linear(rows: int, n: int, k: int) -> None:
    (x,) = draw(7, (rows, k), dtype=torch.bfloat16)
    weight = draw(8, (n, k))[0].detach().bfloat16().float().requires_grad_()  # what the kernel rounds it to
    compare(linear, lambda x, w: x @ w.T, (x, weight), torch.bfloat16)
    y, direction = linear(x, weight), torch.randn(rows, n).bfloat16()
    assert y is not None
    (d_weight,) = torch.autograd.grad(y, weight, direction)
    close(d_weight, direction.double().T @ x.double(), 1e-6)  # summed in float32, not rounded


@own_products
@pytest.mark.parametrize(
    ("rows", "vocab", "size", "chunk"), [(300, 1024, 128, 128), (7, 32, 16, 64), (131, 112, 48, 64)]
)
def test_linear_cross_entropy(rows: int, vocab: int, size: int, chunk: int) -> None:
    (hidden,) = draw(9, (rows, size), dtype=torch.bfloat16)
    weight = (draw(10, (vocab, size))[0].detach() * 0.2).bfloat16().float()
    targets = torch.arange(rows) * 7 % vocab
    got = linear_cross_entropy(hidden.detach(), weight, targets, chunk, True, True)
    assert got is not None
    h, w = hidden.detach().double().requires_grad_(), weight.double().requires_grad_()
    losses = F.cross_entropy(h @ w.T, targets, reduction="none")
    for a, b in zip(got, (losses, *torch.autograd.grad(losses.sum(), (h, w))), strict=True):
        close(a, b.detach(), 1e-2)


@own_products
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (64, 128), (320, 128), (16, 48), (32, 16)])
def test_muon(rows: int, columns: int) -> None:
    weights, momentum, gradient = (t.detach() for t in draw(11, *[(rows, columns)] * 3))
    expected = momentum.lerp(gradient, 0.05)
    update = orthogonalise(gradient.lerp(expected, 0.95)[None])[0]
    want = weights * 0.99 - 0.02 * math.sqrt(max(rows, columns)) * update
    steps = want - weights
    matrix = Matrix(weights.clone(), momentum, gradient)
    left = muon_update_([matrix], NEWTON_SCHULZ, momentum=0.95, decay=0.99, scale=0.02, dtype=torch.bfloat16)
    assert not left
    close(matrix.momentum, expected, 1e-6)
    close(matrix.weights - weights, steps, 0.1)  # bfloat16 products: torch's own are as far off


@own_products
def test_muon_leaves_what_does_not_fit() -> None:
    odd = Matrix(*(torch.ones(3, 5) for _ in range(3)))
    small = Matrix(*(torch.ones(16, 16) for _ in range(3)))
    left = muon_update_([odd, small], NEWTON_SCHULZ, momentum=0.9, decay=1.0, scale=0.1, dtype=torch.bfloat16)
    assert len(left) == 1 and left[0] is odd and odd.weights.eq(1).all() and not small.weights.eq(1).all()
    whole = muon_update_([small], NEWTON_SCHULZ, momentum=0.9, decay=1.0, scale=0.1, dtype=torch.float32)
    assert len(whole) == 1


def test_any_number_of_threads_gives_the_same_bits() -> None:
    def everything() -> list[Tensor]:
        q, k, v = draw(12, (3, 90, 4, 32), (3, 90, 2, 32), (3, 90, 2, 32), dtype=torch.bfloat16)
        x, weight = draw(13, (90, 64), (64,))
        attended, normed = causal_attention(q, k, v, 0.2), rms_norm(x, weight, 1e-5)
        assert attended is not None and normed is not None
        loss = attended.float().square().sum() + normed.float().pow(3).sum()
        results = list(torch.autograd.grad(loss, (q, k, v, x, weight)))
        a, w = draw(14, (300, 128), (320, 128))
        y = linear(a.bfloat16(), w)
        if y is not None:
            results += torch.autograd.grad(y.float().square().sum(), (a, w))
        return results

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_declines_what_it_does_not_know() -> None:
    q, k, v = (t.double() for t in draw(15, *[(1, 4, 1, 16)] * 3))
    assert causal_attention(q, k, v, 1.0) is None
    q, k, v = draw(16, *[(1, 4, 1, 20)] * 3)  # no whole vectors
    assert causal_attention(q, k, v, 1.0) is None
    with torch.no_grad():
        assert swiglu(torch.ones(2, 4)) is None
    assert linear(torch.ones(2, 16).bfloat16(), torch.ones(24, 16)) is None
    assert softmax_cross_entropy_(torch.ones(2, 4).half(), torch.zeros(2, dtype=torch.int64), True) is None


@pytest.mark.parametrize("flags", ["-march=x86-64-v3", "-DDANLU_PAIRS=0", "-fsanitize=address,undefined"])
def test_other_machines_and_sanitizers(flags: str) -> None:
    """This file again, on the library compiled otherwise."""
    if os.environ.get("DANLU_CXXFLAGS"):
        pytest.skip("already inside")
    environment = {**os.environ, "DANLU_CXXFLAGS": flags}
    if "sanitize" in flags:
        asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
        if not Path(asan).is_file():
            pytest.skip("no libasan here")
        environment["DANLU_CXXFLAGS"] = f"-O1 -g {flags} -fno-sanitize-recover=all"
        environment |= {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
