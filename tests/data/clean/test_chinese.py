from __future__ import annotations

import pytest

from danlu.core.errors import UserError
from danlu.data.clean import chinese


def test_there_and_back() -> None:
    pytest.importorskip("opencc")
    assert chinese.convert("頭髮發展，臺灣", "simplified") == ("头发发展，台湾", 5)
    assert chinese.convert("头发发展", "traditional") == ("頭髮發展", 3)
    assert chinese.convert("English only", "simplified") == ("English only", 0)
    assert chinese.convert("简体字", "simplified") == ("简体字", 0)


def test_without_opencc_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, extra: str) -> None:
        raise UserError(f"{name} is not installed", f'pip install "danlu[{extra}]"')

    monkeypatch.setattr(chinese, "need", missing)
    chinese._converter.cache_clear()
    with pytest.raises(UserError, match="opencc is not installed"):
        chinese.convert("漢字", "simplified")
    chinese._converter.cache_clear()
