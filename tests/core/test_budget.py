import pytest
from pydantic import BaseModel

from danlu.core.budget import Budget


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("3m", "seconds", 180),
        ("90s", "seconds", 90),
        ("1h30m", "seconds", 5400),
        ("2 minutes", "seconds", 120),
        ("60 steps", "steps", 60),
        ("1 step", "steps", 1),
        ("20M tokens", "tokens", 20e6),
        ("1e15 flops", "flops", 1e15),
        ("40%", "share", 0.4),
    ],
)
def test_forms(text: str, kind: str, amount: float) -> None:
    assert Budget.parse(text) == Budget(kind, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "soon", "3", "0s", "-3m", "3 apples", "steps", "3m of it"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no budget"):
        Budget.parse(text)


def test_a_share_follows_the_whole() -> None:
    assert Budget.parse("25%").of(Budget.parse("60 steps")) == Budget("steps", 15)
    assert Budget.parse("1%").of(Budget.parse("10 steps")) == Budget("steps", 1)
    assert Budget.parse("50%").of(Budget.parse("5m")) == Budget("seconds", 150)
    assert Budget.parse("7 steps").of(Budget.parse("5m")) == Budget("steps", 7)


def test_in_a_config_it_is_text_both_ways() -> None:
    class Config(BaseModel):
        budget: Budget

    config = Config.model_validate({"budget": "2h"})
    assert config.budget.amount == 7200
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("text", ["3m", "60 steps", "20M tokens", "1e15 flops", "40%"])
def test_str_reads_back(text: str) -> None:
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)
