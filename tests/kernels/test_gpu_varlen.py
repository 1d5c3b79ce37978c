"""Chunks of a prompt through torch's attention: what it is given, with a stand-in that computes what it promises."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.kernels.gpu import varlen
from danlu.kernels.gpu.batch import PagedBatch
from tests.kernels.on_gpu import DEVICE, attention, kernels_on  # noqa: F401
from tests.kernels.test_gpu_attention import make

pytestmark = pytest.mark.usefixtures("kernels_on")


def promised(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool = False, num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """torch's documentation in plain arithmetic: the last query of a sequence stands at its last key."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and num_splits == 1
    begins_q, begins_k = cu_seq_q.tolist(), cu_seq_k.tolist()
    assert begins_q[-1] == len(query) and begins_k[-1] == len(key) == len(value)
    assert enable_gqa or query.shape[1] == key.shape[1]
    out = torch.empty_like(query)
    sizes_q, sizes_k = [], []
    for q0, q1, k0, k1 in zip(begins_q, begins_q[1:], begins_k, begins_k[1:], strict=False):
        sizes_q.append(q1 - q0), sizes_k.append(k1 - k0)
        group = query.shape[1] // key.shape[1]
        k, v = (x[k0:k1].repeat_interleave(group, dim=1) for x in (key, value))
        at, other = torch.arange(k1 - k0 - (q1 - q0), k1 - k0)[:, None], torch.arange(k1 - k0)
        left, right = window_size
        hidden = (other > at + right) | ((other < at - left) if left >= 0 else False)
        scores = torch.einsum("nhd,lhd->hnl", query[q0:q1], k) * scale
        weights = scores.masked_fill(hidden.to(scores.device), -torch.inf).softmax(-1)
        out[q0:q1] = torch.einsum("hnl,lhd->nhd", weights, v)
    assert (max_q, max_k) == (max(sizes_q), max(sizes_k))
    return out


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The way as on a GPU that has the function; says how many rows came by it."""
    rows: list[int] = []

    def counted(query: Tensor, *args: Any, num_splits: int, **options: Any) -> Tensor:
        rows.append(len(query))
        return promised(query, *args, num_splits=num_splits, **options)

    monkeypatch.setattr(varlen, "torch_function", lambda: counted)
    monkeypatch.setattr(varlen, "_device_takes", lambda device_type, dtype: True)
    varlen._works.cache_clear()
    yield rows
    varlen._works.cache_clear()


@pytest.mark.parametrize("window", [None, 1, 9, 33, 500])
@pytest.mark.parametrize("sizes", [[(20, 20)], [(1, 5), (18, 60), (1, 7), (40, 41)], [(3, 9), (17, 17), (25, 90)]])
def test_it_is_the_reference(stand_in: list[int], sizes: list[tuple[int, int]], window: int | None) -> None:
    q, keys, values, batch = make(sizes, group=3, kv_heads=2, page=4)
    got = attention.paged_attention(q, keys, values, batch, 0.25, window)
    wanted = attention.paged_attention_reference(q, keys, values, batch, 0.25, window)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)
    assert stand_in[-1] == sum(n for n, _ in sizes if n > 16), "the long sequences, at once"


def test_only_what_a_window_sees_is_copied(stand_in: list[int]) -> None:
    _, _, _, batch = make([(20, 100), (30, 30)], page=4)
    at = varlen.layout(batch, 4, 10)
    assert at.k_begins.tolist() == [0, 29, 59] and at.most_keys == 30  # 20 rows see 19 + 10
    assert isinstance(at.rows, slice) and (at.rows.start, at.rows.stop) == (0, 50)


def test_a_layout_is_made_once_a_step(stand_in: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    q, keys, values, batch = make([(20, 20)])
    attention.paged_attention(q, keys, values, batch, 0.25)
    monkeypatch.setattr(varlen, "layout", None)
    attention.paged_attention(q, keys, values, batch, 0.25)


def test_a_first_launch_that_is_wrong_is_told_once_and_not_used(
    stand_in: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*args: Any, scale: float, **options: Any) -> Tensor:
        return promised(*args, scale=2 * scale, num_splits=1, **options)

    monkeypatch.setattr(varlen, "torch_function", lambda: wrong)
    q, keys, values, batch = make([(20, 20)])
    with caplog.at_level(logging.WARNING, "danlu"):
        for _ in range(2):
            got = attention.paged_attention(q, keys, values, batch, 0.25)
    wanted = attention.paged_attention_reference(q, keys, values, batch, 0.25)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)
    assert len(caplog.records) == 1 and "wrong numbers" in caplog.text


def test_it_can_be_switched_off(stand_in: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_VARLEN", "off")
    q, keys, values, batch = make([(20, 20)])
    attention.paged_attention(q, keys, values, batch, 0.25)
    assert stand_in == []


def test_not_on_a_cpu() -> None:
    assert DEVICE.type == "cuda" or not varlen.enabled(torch.zeros(20, 2, 16, dtype=torch.bfloat16))


def test_an_older_function_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, is_causal: bool = False) -> None: ...

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", older)
    varlen.torch_function.cache_clear()
    assert varlen.torch_function() is None
    varlen.torch_function.cache_clear()


@pytest.mark.skipif(varlen.torch_function() is None, reason="this torch has no varlen_attn that is used")
def test_torch_takes_what_it_is_given() -> None:
    """The installed function itself, on tensors without numbers: it checks names, heads and dtypes."""
    assert "num_splits" in inspect.signature(varlen.torch_function()).parameters  # type: ignore[arg-type]
    batch = PagedBatch.of([(0, 1, 4, [2]), (1, 20, 50, [0, 1, 3, 4]), (21, 30, 30, [5, 6])], "meta")
    q = torch.empty(51, 4, 64, dtype=torch.bfloat16, device="meta")
    cache = torch.empty(8, 16, 2, 64, dtype=torch.bfloat16, device="meta")
    out = torch.empty_like(q)
    for window in (None, 8):
        varlen.attend_long(out, q, cache, cache, batch, 0.125, window)
