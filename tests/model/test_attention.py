"""Attention: a softmax by hand, who may look at whom, and that contexts are interchangeable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.model.attention import CausalContext, SegmentContext, causal_mask
from danlu.model.transformer import Transformer

Make = Callable[..., Transformer]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """The definition, one head at a time, in float64."""
    out = torch.empty_like(q)
    group = q.shape[2] // k.shape[2]
    for head in range(q.shape[2]):
        scores = q[:, :, head].double() @ k[:, :, head // group].double().transpose(1, 2) * scale
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        out[:, :, head] = (weights @ v[:, :, head // group].double()).to(q.dtype)
    return out


def test_two_tokens_by_hand() -> None:
    q = torch.tensor([[0.0], [1.0]]).view(1, 2, 1, 1)
    k = torch.tensor([[0.0], [2.0]]).view(1, 2, 1, 1)
    v = torch.tensor([[10.0], [20.0]]).view(1, 2, 1, 1)
    # The second token's scores are 0 and 2: weights 1 / (1 + e^2) and e^2 / (1 + e^2) = 0.119203, 0.880797
    out = CausalContext().attend(0, q, k, v, None, 1.0).flatten()
    torch.testing.assert_close(out, torch.tensor([10.0, 18.80797]))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_causal_context_is_the_definition(kv_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 9, 4, 8), torch.randn(2, 9, kv_heads, 8), torch.randn(2, 9, kv_heads, 8)
    out = CausalContext().attend(0, q, k, v, window, 0.3)
    allowed = causal_mask(9, window, q.device)
    torch.testing.assert_close(out, plain_attention(q, k, v, allowed, 0.3), atol=1e-5, rtol=1e-5)


def test_the_mask_of_a_window_by_hand() -> None:
    assert causal_mask(4, 2, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 11), st.sampled_from([None, 4]))
def test_a_token_never_changes_what_came_before(place: int, window: int | None) -> None:
    torch.manual_seed(0)
    from danlu.model.config import ModelConfig

    model = Transformer(
        ModelConfig(
            family="mistral", vocab_size=61, hidden_size=32, n_layers=2, n_heads=4, n_kv_heads=2, intermediate_size=48,
            sliding_window=window,
        )
    )  # fmt: skip
    ids = torch.randint(0, 61, (1, 12))
    changed = ids.clone()
    changed[0, place] = (changed[0, place] + 1) % 61
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, place], after[:, place], atol=1e-4)


def test_a_window_forgets(make_model: Make) -> None:
    """With one layer and a window of 3, token 0 cannot reach token 3."""
    model = make_model(n_layers=1, sliding_window=3)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    other = torch.tensor([[9, 2, 3, 4, 5]])
    with torch.no_grad():
        a, b = model(ids), model(other)
    assert not torch.allclose(a[:, 2], b[:, 2], atol=1e-5)
    torch.testing.assert_close(a[:, 3:], b[:, 3:], atol=1e-6, rtol=0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_packed_samples_do_not_see_each_other(lengths: list[int]) -> None:
    """Logits of each sample in a packed row are those of the sample alone."""
    torch.manual_seed(0)
    from danlu.model.config import ModelConfig

    model = Transformer(
        ModelConfig(vocab_size=61, hidden_size=32, n_layers=2, n_heads=4, n_kv_heads=2, intermediate_size=48,
                    qk_norm=True, sliding_window=4, sliding_layers=(1,))
    )  # fmt: skip
    samples = [torch.randint(0, 61, (length,)) for length in lengths]
    ids = torch.cat(samples)[None]
    segments = torch.cat([torch.full((n,), index) for index, n in enumerate(lengths)])[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        packed = model(ids, positions, SegmentContext(segments))[0].split(lengths)
        for sample, logits in zip(samples, packed, strict=True):
            torch.testing.assert_close(logits, model(sample[None])[0], atol=1e-5, rtol=1e-5)


def test_one_segment_is_the_causal_context(make_model: Make) -> None:
    model = make_model()
    ids = torch.randint(0, 61, (2, 10))
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids, None, SegmentContext(torch.zeros(2, 10))), model(ids), atol=1e-5, rtol=1e-5
        )


class CacheContext:
    """The smallest context of an engine: keeps k and v of all tokens so far and attends over them."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
        if layer_index in self.kept:
            k = torch.cat((self.kept[layer_index][0], k), 1)
            v = torch.cat((self.kept[layer_index][1], v), 1)
        self.kept[layer_index] = (k, v)
        allowed = causal_mask(k.shape[1], window, q.device)[-q.shape[1] :]
        return plain_attention(q, k, v, allowed, scale)


@pytest.mark.parametrize("window", [None, 3])
def test_any_context_plugs_in_and_a_cache_equals_the_full_pass(make_model: Make, window: int | None) -> None:
    model = make_model(sliding_window=window)
    ids = torch.randint(0, 61, (2, 9))
    cache = CacheContext()
    with torch.no_grad():
        pieces = [
            model(ids[:, a:b], torch.arange(a, b), cache) for a, b in ((0, 4), (4, 5), (5, 9))
        ]  # a prompt, a token, several at once
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=1e-5)
