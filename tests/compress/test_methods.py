"""One table of methods over three stages."""

from __future__ import annotations

import pytest

from danlu.compress.methods import stage_for, summaries
from danlu.core.errors import UserError
from danlu.core.stage import get_stage


def test_every_method_has_a_stage_that_takes_what_is_asked_of_it() -> None:
    for name in summaries():
        stage, values = stage_for(name, text="some-corpus")
        found = get_stage(stage)
        config = {key: value for key, value in values.items() if key not in found.takes}
        assert found.config(**config).model_dump() | config == found.config(**config).model_dump()
        assert set(values) - set(config) <= set(found.takes)


def test_what_is_asked_reaches_the_stage() -> None:
    assert stage_for("gptq", text="c") == ("compress.quantize", {"method": "gptq", "bits": 4, "calibration": "c"})
    assert stage_for("rtn", bits=4) == ("compress.quantize", {"method": "rtn", "bits": 4})
    assert stage_for("wanda", share=0.3) == ("compress.prune", {"method": "wanda", "share": 0.3})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gptqq", {}, 'no method "gptqq"'),
        ("wanda", {"bits": 4}, "no use for --bits"),
        ("gptq", {"share": 0.5}, "no use for --share"),
        ("vocabulary", {}, "needs the texts"),
    ],
)
def test_mistakes(method: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage_for(method, **options)  # type: ignore[arg-type]
