from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.formats.extract import Item, extract
from danlu.data.formats.mojibake import lost, repair

CLEAN = [
    "人生得意须尽欢，莫使金樽空对月。天生我材必有用，千金散尽还复来。",
    "文字处理软件可以打开这个文件，但是显示的是乱码，例如“锟斤拷”和“烫烫烫”。",
    "Le café déjà fermé, où l'on servait « CAFÉ»: 5 € – voilà.",
    "Fußgängerübergänge für Ärzte; Çà et là; São Paulo É»; naïve façade",
    "Привет, мир! Ελληνικά. 日本語の文章です。한국어 문장입니다.",
    "The mark Ã© is what é becomes when UTF-8 is read as Latin-1; déjà vu, naïve, café, Ärger.",
    "50 °C ± 2 µm, § 7, £3, ½ × ¾, Å, ‘quoted’ “text” … ™ ®",
    "沅变不惊，铁马冰河，鏂斧成风，鐨肤之痛，鏄然一新。",
    "",
]
LATIN = [
    ("文字。", "cp1252"),
    ("café “naïve” – 5 €", "latin-1"),
    ("数据比结构更重要", "latin-1"),
    ("Привет мир", "latin-1"),
]


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_is_left_alone(text: str) -> None:
    assert repair(text) == (text, "")


def test_poems_and_prose_of_this_project_are_left_alone() -> None:
    for path in sorted(Path(__file__).parents[3].glob("**/*.md"))[:40]:
        text = path.read_text("utf-8", "replace")
        assert repair(text) == (text, ""), path


@pytest.mark.parametrize(("text", "wrong"), LATIN)
def test_utf8_read_as_latin_is_turned_back(text: str, wrong: str) -> None:
    once = text.encode().decode(wrong)
    assert repair(once) == (text, "cp1252")
    twice = text.encode().decode("latin-1").encode().decode("latin-1")
    assert repair(twice) == (text, "cp1252+cp1252")
    assert repair(f"Intro. {once}\nMore: {once}")[0] == f"Intro. {text}\nMore: {text}"


@pytest.mark.parametrize(("broken", "text"), [("鏂囧瓧鏁版嵁澶勭悊", "文字数据处理"), ("浜虹敓鏄殑鏈夊湪", "")])
def test_utf8_read_as_gbk_is_turned_back_where_it_can_be(broken: str, text: str) -> None:
    """Not every pair of bytes is a GBK character: where one was lost, the text stays as it is."""
    assert repair(broken) == ((text, "gbk") if text else (broken, ""))


def test_what_is_lost_is_counted_and_left() -> None:
    assert repair("锟斤拷锟斤拷") == ("锟斤拷锟斤拷", "") and lost("锟斤拷 x \ufffd") == 2


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_repairing_twice_changes_nothing_more_and_never_fails(text: str) -> None:
    repaired, _ = repair(text)
    assert repair(repaired)[0] == repaired or len(repair(repaired)[0]) < len(repaired)


@given(
    st.text(
        alphabet="的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经",
        min_size=1,
        max_size=60,
    )
)
def test_chinese_is_never_taken_for_mojibake(text: str) -> None:
    assert repair(text) == (text, "")


@given(st.sampled_from(["naïve café", "Äpfel und Öl", "señor niño", "文字。", "“quotes” – dashes…"]), st.integers(1, 2))
def test_ftfy_agrees_on_latin_text(text: str, times: int) -> None:
    ftfy = pytest.importorskip("ftfy")
    broken = text
    for _ in range(times):
        broken = broken.encode().decode("latin-1")
    config = ftfy.TextFixerConfig(fix_character_width=False, uncurl_quotes=False, normalization=None)
    assert repair(broken)[0] == text == ftfy.fix_text(broken, config)


def test_repairs_are_told_and_code_is_left_alone(tmp_path: Path) -> None:
    broken = "文字。".encode().decode("latin-1")
    (tmp_path / "a.txt").write_text(broken, "utf-8")
    (tmp_path / "a.py").write_text(f"x = '{broken}'", "utf-8")
    (item,), (code,) = extract(tmp_path / "a.txt"), extract(tmp_path / "a.py")
    assert isinstance(item, Item) and item.text == "文字。" and item.meta == {"repaired": "cp1252"}
    assert isinstance(code, Item) and broken in code.text and code.meta == {}
