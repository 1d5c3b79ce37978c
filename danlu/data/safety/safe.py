"""All of safety for one text: what is written in place of personal data, and the scores that decide later.

    make_safe(text, language=...) -> Safe(text, scores, changes, drop)

    toxic, adult, hate     rates per 1,000 units                                        scores
    injection              0 to 1                                                       score
    chat markers           "<|im_start|>" is written apart, but not in code             change
    personal data          found, then replaced, masked or kept; its count is a score   change

Nothing is decided here but what a person asked to be dropped at sight (an action "drop" of `personal`): scores stay
beside the document, and `LIMITS` can be changed without looking at a text again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from danlu.data.safety.injection import find_injections, neutralise, score_injection
from danlu.data.safety.personal import PersonalConfig, treat
from danlu.data.safety.toxic import CATEGORIES, score_toxic

SCORES = (*CATEGORIES, "injection", "personal")
# Pages of advertising for adults have 50 and more, novels and news below 3; one plain sentence of orders to a model
# scores 0.6, a hidden one 0.95 and more. Not tuned by training.
LIMITS: dict[str, float] = {"adult": 10.0, "abuse": 15.0, "hate": 10.0, "injection": 0.9}


@dataclass(frozen=True)
class Safe:
    """`changes` counts what was replaced, by kind. `drop` says why the text must go, "" to keep it."""

    text: str
    scores: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    drop: str = ""


def score_safety(text: str, n_units: int | None = None) -> dict[str, float]:
    """The scores of what a text says: adult, abuse, hate and injection. `n_units` saves counting them again."""
    return {**score_toxic(text, n_units), "injection": score_injection(text, find_injections(text))}


def make_safe(
    text: str,
    personal: PersonalConfig | None = PersonalConfig(),  # noqa: B008  (frozen)
    *,
    language: str = "",
    neutralise_markers: bool = True,
    n_units: int | None = None,
) -> Safe:
    """Score a text, then replace what must not be learnt. A text to be dropped comes back as it was given."""
    scores = score_safety(text, n_units)
    treated, changes, drop = text, {}, ""
    if neutralise_markers and not language.startswith("code:"):
        treated, count = neutralise(treated)
        if count:
            changes["chat_marker"] = count
    if personal is not None:
        result = treat(treated, personal)
        treated, changes, drop = result.text, {**changes, **result.found}, result.drop
        scores["personal"] = float(sum(result.found.values()))
    return Safe(text if drop else treated, scores, changes, drop)


def exceeded(scores: Mapping[str, float], limits: Mapping[str, float] = LIMITS) -> tuple[str, str]:
    """(reason, detail) of the first score above its limit, ("", "") where there is none."""
    for name in SCORES:
        if name in limits and scores.get(name, 0.0) > limits[name]:
            return f"safety:{name}", f"{scores[name]:g} > {limits[name]:g}"
    return "", ""
