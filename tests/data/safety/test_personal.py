# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import planted
from danlu.data.safety.personal import KINDS, Found, PersonalConfig, find_personal, mask, treat


def values(text: str, config: PersonalConfig | None = None) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for kind, start, end in find_personal(text, config or PersonalConfig())]


def test_recall_and_precision_on_the_planted_set() -> None:
    table = planted.score(list(planted.plant(seed=7, n=3_000)), find_personal)  # type: ignore[arg-type]
    assert table["all"]["recall"] >= 0.98 and table["all"]["precision"] >= 0.98
    for kind, row in table.items():
        assert row["recall"] >= 0.95, (kind, row)


@pytest.mark.parametrize("name", [name for name, *_ in planted.NEAR_MISSES])
def test_near_misses(name: str) -> None:
    cases = [case for case in planted.plant(seed=8, n=1_700) if case.source == name]
    wrong = [(case.text, found) for case in cases if (found := values(case.text))]
    assert len(cases) >= 25 and len(wrong) <= 0.05 * len(cases), wrong[:5]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("张三，身份证11010519491231002X，手机13800138000。", [("id_card", "11010519491231002X"), ("mobile", "13800138000")]),
        ("身份证号：110105491231002", [("id_card", "110105491231002")]),
        ("数字110105491231002", []),
        ("Jane <jane.doe+x@mail.co.uk>, (415) 555-2671", [("email", "jane.doe+x@mail.co.uk"), ("phone", "(415) 555-2671")]),
        ("（0571）87654321转3 or 0571-87654321-802", [("landline", "（0571）87654321"), ("landline", "0571-87654321-802")]),
        ("京A·12345 粤BD12345 沪AF12345", [("plate", "京A·12345"), ("plate", "粤BD12345"), ("plate", "沪AF12345")]),
        ("GB82 WEST 1234 5698 7654 32 and 4111-1111-1111-1111", [("iban", "GB82 WEST 1234 5698 7654 32"), ("bank_card", "4111-1111-1111-1111")]),
        ("ghp_" + "a1B2" * 9, [("api_key", "ghp_" + "a1B2" * 9)]),
        ("密码是hT7-kq9Zx！", [("secret", "hT7-kq9Zx")]),
        ("server 8.8.4.4, fe80::1, 2400:cb00:2048::c629:d7a2", [("ip", "8.8.4.4"), ("ip", "2400:cb00:2048::c629:d7a2")]),
    ],
)  # fmt: skip
def test_worked_examples(text: str, found: list[tuple[str, str]]) -> None:
    assert values(text) == found


CLEAN = """
贞观二年，京师旱，蝗虫大起。太宗入苑视禾，见蝗虫，掇数枚而咒曰：“人以谷为命，而汝食之，是害于百姓。”
本书 ISBN 978-7-02-000220-7，1996 年 12 月第 2 版，印数 20000—40000 册，定价 59.70 元。
圆周率约为 3.14159265358979323846，自然对数的底 e ≈ 2.718281828459045。
2024-03-15 08:30:00 发布 v2.10.3.1，提交 3f2a9c1b7e，耗时 1700000000 纳秒，订单 202403151234567890。
In 1815, 68,000 men fought 72,000 at Waterloo; chapter 12.3.4 has the tables (pp. 1024-1048).
h = h * 1103515245 + 12345; assert x == 0xDEADBEEF; a[1::2]; std::vector<int> v; @property; icon@2x.png
The mean was 12.345678901 (95% CI 11.1-13.6), n = 13800138000 samples; doi:10.1038/s41586-020-2649-2
"""


def test_prose_and_numbers_hold_nothing() -> None:
    assert values(CLEAN) == []


def test_what_standards_set_aside_is_found_only_on_request() -> None:
    text = "ping 192.168.0.1 or 203.0.113.7 from a@example.com"
    assert values(text) == []
    assert [kind for kind, _ in values(text, PersonalConfig(reserved=True))] == ["ip", "ip", "email"]


def test_addresses_are_an_option() -> None:
    text = "寄到浙江省杭州市西湖区文三路123号4幢502室，谢谢。"
    assert values(text) == []
    assert values(text, PersonalConfig(addresses=True)) == [
        ("address", "浙江省杭州市西湖区文三路123号4幢502室")
    ] or values(text, PersonalConfig(addresses=True))[0][1].endswith("文三路123号4幢502室")


def test_replace_mask_keep_drop() -> None:
    text = "电话13800138000，邮箱zhang@mail.cn"
    assert treat(text).text == "电话<PHONE>，邮箱<EMAIL>" and treat(text).found == {"email": 1, "mobile": 1}
    assert treat(text, PersonalConfig(action="mask")).text == "电话138****8000，邮箱zha**@**il.cn"
    assert treat(text, PersonalConfig(action="keep")).text == text
    assert treat(text, PersonalConfig(actions={"mobile": "keep"})).text == "电话13800138000，邮箱<EMAIL>"
    dropped = treat(text, PersonalConfig(actions={"mobile": "drop"}))
    assert (dropped.text, dropped.drop) == (text, "mobile")
    assert treat(text, PersonalConfig(skip=("mobile",))).found == {"email": 1}
    assert mask("ab1") == "***"


def test_after_replacing_nothing_is_left() -> None:
    for case in planted.plant(seed=9, n=600):
        treated = treat(case.text).text
        assert find_personal(treated) == [], (case.text, treated)


@given(
    st.lists(
        st.sampled_from(
            [value for case in planted.plant(seed=10, n=60) for value in (case.text, "。", "\n", " ", "a", "1")]
        ),
        max_size=6,
    )
)
def test_spans_are_in_order_and_apart(parts: list[str]) -> None:
    text = "".join(parts)
    spans = find_personal(text)
    assert all(
        isinstance(span, Found) and span.kind in KINDS and 0 <= span.start < span.end <= len(text) for span in spans
    )
    assert all(a.end <= b.start for a, b in pairwise(spans))


@given(st.text(alphabet="0123456789 .-()+@:/aAx=中京QQ微信号", max_size=80))
def test_any_text(text: str) -> None:
    find_personal(text, PersonalConfig(addresses=True, reserved=True))


@pytest.mark.parametrize(
    "text",
    ["1" * 200_000, "1 " * 100_000, "1-" * 100_000, "a@" * 100_000, "@" * 200_000, "1.1." * 50_000, "-----BEGIN PRIVATE KEY-----\n" * 5_000,
     "eyJ" + "a" * 200_000, "eyJaaaaaaaa." * 20_000, "AA00 " * 40_000, "password=" * 20_000, "138001380001" * 10_000, "(0" * 100_000, "省市区路号1号" * 20_000,
     "ab:" * 60_000, "13800138000 " * 10_000],
)  # fmt: skip
def test_hard_texts_take_no_square(text: str) -> None:
    start = time.process_time()
    find_personal(text, PersonalConfig(addresses=True))
    assert time.process_time() - start < 4
