from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.engine import sampling as sampling_module
from danlu.engine.batch import Logits
from danlu.engine.detokenize import TextStream
from danlu.engine.request import Request, Sampling, Sequence
from danlu.engine.sampling import adjust, distribution, draw, sample

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def kept(**settings_: float) -> list[float]:
    return distribution(P.log()[None], [Sampling(**settings_)])[0].tolist()  # type: ignore[arg-type]


def close(a: list[float], b: list[float]) -> None:
    assert a == pytest.approx(b, abs=1e-9)


def row(s: Sampling, prompt: tuple[int, ...] = (0,), counts: dict[int, int] | None = None) -> Sequence:
    generator = None if s.greedy else torch.Generator().manual_seed(s.seed or 0)
    made = Sequence(Request("r", list(prompt), s), 0, list(prompt), 99, TextStream(None), generator)
    made.counts = counts or {}
    return made


# --- worked examples ------------------------------------------------------------------------------------------------


def test_filters_by_hand() -> None:
    close(kept(), [0.5, 0.3, 0.15, 0.05])
    close(kept(top_k=2), [0.625, 0.375, 0, 0])
    close(kept(top_k=9), [0.5, 0.3, 0.15, 0.05])
    close(kept(top_p=0.7), [0.625, 0.375, 0, 0])
    close(kept(top_p=0.3), [1, 0, 0, 0])
    close(kept(min_p=0.25), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0])
    close(kept(min_p=1.0), [1, 0, 0, 0])
    # of the two that top_k leaves, the first holds 0.625, which is already 0.6
    close(kept(top_k=2, top_p=0.6), [1, 0, 0, 0])
    # temperature first: squares of P are [0.25, 0.09, 0.0225, 0.0025] / 0.365
    close(kept(temperature=0.5), [x / 0.365 for x in (0.25, 0.09, 0.0225, 0.0025)])
    close(kept(temperature=0.5, top_p=0.6), [1, 0, 0, 0])


def test_of_equal_logits_the_lower_ids_stay() -> None:
    flat = torch.zeros(1, 5)
    assert distribution(flat, [Sampling(top_k=2)])[0].tolist() == [0.5, 0.5, 0, 0, 0]
    assert distribution(flat, [Sampling(top_p=0.5)])[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_penalties_by_hand() -> None:
    s = Sampling(repetition_penalty=2, frequency_penalty=0.5, presence_penalty=0.25)
    logits = torch.tensor([2.0, -1.0, 0.5])
    adjust(logits, s, [0], {1: 2})
    assert logits.tolist() == [1.0, -3.25, 0.5]


def test_the_prompt_counts_for_repetition_only() -> None:
    logits = torch.tensor([2.0, 2.0])
    adjust(logits, Sampling(frequency_penalty=1, presence_penalty=1), [0], {})
    assert logits.tolist() == [2.0, 2.0]
    adjust(logits, Sampling(repetition_penalty=4), [0], {})
    assert logits.tolist() == [0.5, 2.0]


def test_bias_can_force_and_forbid() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    ids, _, _ = sample(Logits.of(logits), [row(Sampling(temperature=0, logit_bias={2: 100}))])
    assert ids == [2]
    ids, _, _ = sample(Logits.of(logits), [row(Sampling(temperature=0, logit_bias={0: -100}))])
    assert ids == [1]
    assert logits.tolist() == [[3.0, 1.0, 0.0]], "the model's logits are left alone"


def test_draw_picks_the_first_id_beyond_the_number_and_never_an_impossible_one() -> None:
    p = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]], dtype=torch.float64)
    for number, id_ in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.9999999999999999, 3)):
        assert draw(p, torch.tensor([number], dtype=torch.float64)).item() == id_


# --- properties -----------------------------------------------------------------------------------------------------


def reference(logits: torch.Tensor, s: Sampling) -> torch.Tensor:
    """The same filters the slow way: sort everything, walk down the list."""
    p = (logits.double() / torch.tensor(s.temperature, dtype=torch.float32)).float().double().softmax(-1)
    order = sorted(range(len(p)), key=lambda i: (-float(p[i]), i))
    if s.top_k:
        order = order[: s.top_k]
    total, mass, keep = sum(float(p[i]) for i in order), 0.0, []
    for i in order:
        if keep and mass >= s.top_p * total:
            break
        keep.append(i)
        mass += float(p[i])
    keep = [i for i in keep if float(p[i]) >= s.min_p * float(p.max())]
    out = torch.zeros_like(p)
    out[keep] = p[keep]
    return out / out.sum()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.lists(
        st.tuples(st.floats(0.2, 3), st.sampled_from([0, 1, 3, 17]), st.floats(0.05, 1), st.sampled_from([0.0, 0.1])),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([4, 1024]),
)
def test_the_fast_filters_equal_the_slow_ones(
    seed: int, rows: list[tuple[float, int, float, float]], sort_first: int
) -> None:
    logits = torch.randn(len(rows), 50, generator=torch.Generator().manual_seed(seed)) * 3
    wanted = [Sampling(temperature=t, top_k=k, top_p=p, min_p=m) for t, k, p, m in rows]
    before = sampling_module.SORT_FIRST
    sampling_module.SORT_FIRST = sort_first
    try:
        together = distribution(logits, wanted)
    finally:
        sampling_module.SORT_FIRST = before
    for i, s in enumerate(wanted):
        assert torch.allclose(together[i], reference(logits[i], s), atol=1e-6)


def test_a_seed_draws_the_same_alone_and_in_company() -> None:
    logits = torch.randn(6, 200, generator=torch.Generator().manual_seed(1))
    wanted = [
        Sampling(seed=1),
        Sampling(temperature=0),
        Sampling(seed=2, top_p=0.8),
        Sampling(seed=3, top_k=5, temperature=0.7),
        Sampling(seed=4, min_p=0.1, repetition_penalty=1.3),
        Sampling(seed=1),
    ]
    together, _, _ = sample(Logits.of(logits), [row(s) for s in wanted])
    alone = [sample(Logits.of(logits[i : i + 1]), [row(s)])[0][0] for i, s in enumerate(wanted)]
    assert together == alone


def test_draws_follow_the_distribution() -> None:
    n = 4000
    one = row(Sampling(seed=5))
    drawn = [sample(Logits.of(P.log()[None].float()), [one])[0][0] for _ in range(n)]
    for id_, p in enumerate(P.tolist()):
        spread = 4 * math.sqrt(p * (1 - p) / n)  # four standard errors
        assert abs(drawn.count(id_) / n - p) < spread


def test_logprobs_are_of_the_model_itself() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -4.0]])
    s = Sampling(temperature=0, logprobs=2, logit_bias={0: 100})
    ids, logprobs, _ = sample(Logits.of(logits), [row(s)])
    wanted = logits[0].log_softmax(-1)
    assert ids == [0] and logprobs[0] is not None
    assert logprobs[0].logprob == pytest.approx(float(wanted[0])) and logprobs[0].rank == 2
    assert logprobs[0].top == ((1, pytest.approx(float(wanted[1]))), (2, pytest.approx(float(wanted[2]))))


def test_a_row_of_nan_is_named_and_harms_nobody() -> None:
    logits = torch.tensor([[math.nan, 0.0], [0.0, 9.0], [math.inf, 0.0]])
    for s in (Sampling(temperature=0), Sampling(seed=1, top_k=1)):
        ids, _, sound = sample(Logits.of(logits), [row(s), row(s), row(s)])
        assert sound == [False, True, False] and ids[1] == 1


# --- a person's mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"n": None}, "n is None"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"stop": ["ok", ""]}, "stop string is ''"),
        ({"logit_bias": {1: 101}}, "logit_bias has 1: 101"),
        ({"logit_bias": {"1": 1}}, "logit_bias has '1': 1"),
        ({"logprobs": -1}, "logprobs is -1"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        Sampling(**wrong)  # type: ignore[arg-type]
