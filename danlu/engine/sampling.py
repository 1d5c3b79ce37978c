"""From logits to the next token of each sequence.

The order of the transformations is fixed, and it is the order of the field's engines:

    logits [S, V]
      log-probabilities are read here, of the model itself
      + logit_bias, repetition penalty, frequency and presence penalty      (rows that ask for it)
      -inf where a grammar would break                                      (rows that have one)
      / temperature                                                         (temperature 0: argmax, done)
      keep the top_k largest; of these the smallest set with mass >= top_p; of these p >= min_p * max p
      softmax, and one draw

The draw is the inverse of the cumulative distribution in order of token id: one uniform number per token from the
sequence's own generator picks the first id whose cumulative probability exceeds it. One number, and not one per
vocabulary entry (Gumbel), because 150,000 random numbers a token cost more than the rest of this file. The order by id,
and not by probability, because then a row's result cannot depend on how its neighbours in the batch were sorted: a
seed gives the same answer alone and in company. Sums run in float64, so the tail of a large vocabulary is not lost.

What is drawn on a CPU is drawn by the compiled library where there is one (kernels/cpu/sample.h); `distribution` and
`draw` say the same in torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from danlu.engine.batch import Logits
from danlu.engine.request import Sampling, Sequence, TokenLogprob
from danlu.kernels.sample import draw_tokens

# How many of the largest logits are sorted in the search for top_p's cut before the whole row is. Not tuned.
SORT_FIRST = 1024
SCORE_ROWS = 32  # rows whose log-probabilities are held at once: a vocabulary of 150,000 takes 20 MB for them


def sample(logits: Logits, sequences: list[Sequence]) -> tuple[list[int], list[TokenLogprob | None], list[bool]]:
    """Choose one token per row (the logits are not mutated). Advances the generators of rows that draw.

    Returns (token ids, log-probabilities where asked for, whether the row was sound). A row with NaN, or without one
    finite logit, is not sound; its token means nothing.
    """
    settings = [sequence.sampling for sequence in sequences]
    ids, sound = logits.best_ids, [math.isfinite(best) for best in logits.best]
    if any(not s.greedy or s.changes_logits for s in settings):
        ids = _choose(logits, sequences, settings, sound)
    logprobs: list[TokenLogprob | None] = [None] * len(sequences)
    for row, s in enumerate(settings):
        if s.logprobs is not None:
            [logprobs[row]] = token_logprobs(logits.full[row : row + 1], [ids[row]], s.logprobs)
    return ids, logprobs, sound


def _choose(logits: Logits, sequences: list[Sequence], settings: list[Sampling], sound: list[bool]) -> list[int]:
    """The general path: rows with penalties are adjusted in a copy; rows that draw are drawn together.

    Rows that became unsound on the way are marked in `sound`.
    """
    adjusted = raw = logits.full.float()
    greedy = torch.tensor(logits.best_ids, device=raw.device)
    changed = [row for row, s in enumerate(settings) if s.changes_logits]
    if changed:
        adjusted = raw.clone()
        for row in changed:
            sequence = sequences[row]
            adjust(adjusted[row], settings[row], sequence.request.prompt_ids, sequence.counts)
            if sequence.matcher is not None:
                adjusted[row].masked_fill_(~sequence.matcher.allowed().to(raw.device), -torch.inf)
        best, greedy = adjusted.max(dim=-1)
        # A penalty can make an infinity, a grammar can leave nothing.
        sound[:] = [before and math.isfinite(now) for before, now in zip(sound, best.tolist(), strict=True)]
    ids: list[int] = greedy.tolist()
    drawing = [row for row, s in enumerate(settings) if not s.greedy]
    uniform = [torch.rand((), dtype=torch.float64, generator=sequences[row].generator) for row in drawing]
    able = [(row, float(number)) for row, number in zip(drawing, uniform, strict=True) if sound[row]]
    if able:
        rows, numbers = [row for row, _ in able], [number for _, number in able]
        picked = [settings[row] for row in rows]
        subset = adjusted if rows == list(range(len(adjusted))) else adjusted[rows]
        drawn = draw_tokens(
            subset, [s.temperature for s in picked], [s.top_k for s in picked], [s.top_p for s in picked],
            [s.min_p for s in picked], numbers,
        )  # fmt: skip
        if drawn is None:
            chance = torch.tensor(numbers, dtype=torch.float64, device=raw.device)
            drawn = draw(distribution(subset, picked), chance).tolist()
        for row, token in zip(rows, drawn, strict=True):
            ids[row] = token
    return ids


def adjust(logits: Tensor, s: Sampling, prompt_ids: list[int], counts: dict[int, int]) -> None:
    """Bias and penalties on one row, in place. logits [V]; `counts`: generated token id -> how often.

    Worked example, V = 3, logits [2, -1, 0.5], prompt [0], generated [1, 1]:
        repetition_penalty 2    tokens 0 and 1 were seen:            [2/2, -1*2, 0.5]    = [1, -2, 0.5]
        frequency_penalty 0.5   token 1 was generated twice:         [1, -2 - 1, 0.5]    = [1, -3, 0.5]
        presence_penalty 0.25   token 1 was generated:               [1, -3 - 0.25, 0.5] = [1, -3.25, 0.5]
    The prompt counts for repetition (CTRL, Keskar et al. 2019, section 4.1), not for the other two (OpenAI API).
    """
    if s.logit_bias:
        ids = torch.tensor(list(s.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(s.logit_bias.values()), dtype=logits.dtype, device=logits.device)
    if s.repetition_penalty != 1.0:
        ids = torch.tensor(sorted({*prompt_ids, *counts}), dtype=torch.long, device=logits.device)
        seen = logits[ids]
        logits[ids] = torch.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
    if counts and (s.frequency_penalty or s.presence_penalty):
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= s.frequency_penalty * times + s.presence_penalty


def distribution(logits: Tensor, settings: list[Sampling]) -> Tensor:
    """Temperature, top-k, top-p and min-p: [S, V] logits -> [S, V] probabilities in float64, each row summing to 1.

    Worked example, probabilities [0.5, 0.3, 0.15, 0.05] at temperature 1:
        top_k 2      [0.5, 0.3]            -> [0.625, 0.375, 0, 0]
        top_p 0.7    0.5 < 0.7 <= 0.8      -> the same two
        min_p 0.25   at least 0.25 * 0.5   -> [0.5, 0.3, 0.15] / 0.95
    Of tokens with equal logits at the cut the lower ids stay.
    """
    device = logits.device
    temperature = torch.tensor([s.temperature for s in settings], dtype=logits.dtype, device=device)
    logits = logits / temperature[:, None]
    sorting = [row for row, s in enumerate(settings) if 0 < s.top_k < logits.shape[1] or s.top_p < 1]
    if sorting:
        rows = torch.tensor(sorting, device=device)
        kept = _top_k_top_p(logits[rows], [settings[row] for row in sorting])
        logits[rows] = logits[rows].masked_fill(~kept, -torch.inf)
    probabilities = logits.double().softmax(dim=-1)
    if any(s.min_p for s in settings):
        min_p = torch.tensor([s.min_p for s in settings], dtype=torch.float64, device=device)
        floor = min_p[:, None] * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def _top_k_top_p(logits: Tensor, settings: list[Sampling]) -> Tensor:
    """The kept set as a mask [S, V].

    Sorting a whole vocabulary is the most expensive thing a sampler can do, and the cut nearly always lies among the
    first tokens; so only the largest are sorted, and the whole row when their mass does not reach top_p.
    """
    vocab = logits.shape[1]
    top_k = torch.tensor([s.top_k or vocab for s in settings], device=logits.device).clamp(max=vocab)
    top_p = torch.tensor([s.top_p for s in settings], dtype=torch.float64, device=logits.device)
    only_k = max((s.top_k for s in settings if s.top_k), default=0)
    width = min(vocab, max(SORT_FIRST, only_k))
    while True:
        values = logits.topk(width, dim=-1).values  # [S, W], largest first
        in_k = torch.arange(width, device=logits.device) < top_k[:, None]
        # Mass is relative to what top_k leaves; a row without top_k is relative to the whole vocabulary.
        whole = torch.where(
            top_k < vocab,
            values.double().masked_fill(~in_k, -torch.inf).logsumexp(dim=-1),
            logits.double().logsumexp(dim=-1),
        )
        mass = (values.double() - whole[:, None]).exp().masked_fill(~in_k, 0.0)
        before = mass.cumsum(dim=-1) - mass  # mass of all more likely tokens
        keep = in_k & ((before < top_p[:, None]) | (top_p >= 1)[:, None])
        keep[:, 0] = True
        n_keep = keep.sum(dim=-1)
        cut_short = (n_keep == width) & (top_k > width)
        if width == vocab or not bool(cut_short.any()):
            break
        width = vocab
    threshold = values.gather(1, n_keep[:, None] - 1)
    above, tied = logits > threshold, logits == threshold
    room = n_keep - above.sum(dim=-1)
    return above | (tied & (tied.cumsum(dim=-1) <= room[:, None]))


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling: [S, V] float64 probabilities, [S] float64 numbers in [0, 1) -> [S] ids.

    >>> draw(torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)).item()
    2
    """
    cumulative = probabilities.cumsum(dim=-1)
    # Scaled by the last entry, and strictly below it: an id of probability 0 is never the first to exceed the target.
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def token_logprobs(logits: Tensor, ids: list[int], n_top: int) -> list[TokenLogprob]:
    """Log-probability of one token per row and of the `n_top` most likely ones. logits [n, V], the model's own."""
    found: list[TokenLogprob] = []
    targets = torch.tensor(ids, device=logits.device)
    for rows, chosen in zip(logits.split(SCORE_ROWS), targets.split(SCORE_ROWS), strict=True):
        logprobs = rows.float().log_softmax(dim=-1)
        own = logprobs.gather(1, chosen[:, None])  # [n, 1]
        ranks = (logprobs > own).sum(dim=-1).tolist()
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(ranks)
        if n_top:
            best = logprobs.topk(min(n_top, logprobs.shape[1]), dim=-1)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            tops = [tuple(zip(*pair, strict=True)) for pair in pairs]
        found += map(TokenLogprob, chosen.tolist(), own[:, 0].tolist(), ranks, tops)
    return found
