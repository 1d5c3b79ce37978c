"""All of safety in one call, as the pipeline makes it for each document.

    make_safe(text, config, language=..., licence=..., meta=...) -> Safe(text, reason, detail, scores, changes)

    licence, opt-out       no look at the text                                         drop
    chat markers           "<|im_start|>" is written apart, but not in code            change
    personal data          found, then replaced, masked, kept, or the document dropped change or drop
    toxic, adult, hate     rates per 1000 units against limits                         drop
    injection              score against a limit                                       drop
    scorer                 any callable text -> 0..1, a trained classifier             drop

The cheap ones first; scores of what was looked at are always returned, so that limits can be changed afterwards
without looking again. Scores are numbers by name: "adult", "abuse", "hate", "injection", "personal" (finds), "scorer".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from danlu.data.safety.injection import find_injections, neutralise, score_injection
from danlu.data.safety.licence import LicenceConfig, judge_licence, judge_robots
from danlu.data.safety.personal import PersonalConfig, treat
from danlu.data.safety.toxic import Scorer, judge_toxic


class SafetyConfig(BaseModel):
    """What is looked for. None switches a part off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    personal: PersonalConfig | None = PersonalConfig()
    # Rates per 1000 units. Pages of advertising have 50 and more, novels and news below 3; not tuned by training.
    toxic: dict[str, float] | None = {"adult": 10.0, "abuse": 15.0, "hate": 10.0}
    injection: float | None = 0.9  # one plain sentence scores 0.6, a hidden one 0.95 and more
    neutralise_markers: bool = True
    scorer_limit: float = 0.9
    licence: LicenceConfig = LicenceConfig()


DEFAULT = SafetyConfig()


@dataclass(frozen=True)
class Safe:
    """`reason` is "" when the text is to be kept. `changes` counts what was replaced, by kind."""

    text: str
    reason: str = ""
    detail: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)


def make_safe(
    text: str,
    config: SafetyConfig = DEFAULT,
    *,
    language: str = "",
    licence: str = "",
    meta: Mapping[str, Any] | None = None,
    n_units: int | None = None,
    scorer: Scorer | None = None,
) -> Safe:
    """Treat a text and judge it. A dropped text comes back as it was given, so that it can be looked at."""
    reason, detail = judge_licence(licence, config.licence)
    if not reason and config.licence.honour_opt_out and meta:
        reason, detail = judge_robots(meta)
    if reason:
        return Safe(text, reason, detail)
    reason, detail, scores = judge_safety(text, config, n_units=n_units, scorer=scorer)
    treated, changes = text, {}
    if config.neutralise_markers and not language.startswith("code:"):
        treated, count = neutralise(treated)
        if count:
            changes["chat_marker"] = count
    if config.personal is not None:
        result = treat(treated, config.personal)
        treated, changes = result.text, {**changes, **result.found}
        scores["personal"] = float(sum(result.found.values()))
        if result.drop and not reason:
            reason, detail = "safety:personal", result.drop
    return Safe(text if reason else treated, reason, detail, scores, changes)


def judge_safety(
    text: str, config: SafetyConfig = DEFAULT, *, n_units: int | None = None, scorer: Scorer | None = None
) -> tuple[str, str, dict[str, float]]:
    """(reason, detail, scores) for what a text says; nothing is changed. `n_units` saves counting them again."""
    reason = detail = ""
    scores: dict[str, float] = {}
    if config.toxic is not None:
        reason, detail, scores = judge_toxic(text, config.toxic, n_units)
    if config.injection is not None:
        scores["injection"] = score_injection(text, find_injections(text))
        if not reason and scores["injection"] >= config.injection:
            reason, detail = "safety:injection", f"{scores['injection']:g} >= {config.injection:g}"
    if scorer is not None:
        scores["scorer"] = float(scorer(text))
        if not reason and scores["scorer"] >= config.scorer_limit:
            reason, detail = "safety:scorer", f"{scores['scorer']:.4g} >= {config.scorer_limit:g}"
    return reason, detail, scores
