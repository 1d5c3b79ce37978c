"""Addresses of one page are one string."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.dedup.exact import equal_documents
from danlu.data.dedup.urls import normalise_url, url_hashes
from tests.data.dedup.signatures import some_keys

SAME = [
    [
        "https://www.Example.com/a/",
        "http://example.com:80/a?utm_source=x&fbclid=1#top",
        "//EXAMPLE.com//a",
        "example.com/a",
    ],
    ["http://例子.com/路径?q=丹炉", "http://xn--fsqu00a.com/%E8%B7%AF%e5%be%84/?q=%E4%B8%B9%E7%82%89&spm=a.b"],
    ["http://a.b/?y=2&x=1", "http://a.b?x=1&y=2"],
    ["http://a.b/~c", "http://a.b/%7Ec"],
]
DIFFERENT = [
    ("http://a.b/c", "http://a.b/C"),
    ("http://a.b/c", "http://a.b:8080/c"),
    ("http://a.b/?id=1", "http://a.b/?id=2"),
    ("http://a.b/#!/one", "http://a.b/#!/two"),
    ("http://a.b/c%2Fd", "http://a.b/c/d"),
    ("ftp://a.b/", "http://a.b/"),
    ("http://www.com/", "http://com/"),
]


@pytest.mark.parametrize("urls", SAME)
def test_one_page(urls: list[str]) -> None:
    assert len({normalise_url(url) for url in urls}) == 1


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_two_pages(one: str, two: str) -> None:
    assert normalise_url(one) != normalise_url(two)


@given(st.text(max_size=60) | st.text(alphabet="htp:/.?#&=%25aF[]@w天", max_size=40))
def test_anything_is_normalised_once_and_for_all(url: str) -> None:
    once = normalise_url(url)
    assert normalise_url(once) == once


@pytest.mark.parametrize("broken", ["", "http://", "http://[", "http://a:b/", "   ", "#x"])
def test_what_is_no_address(broken: str) -> None:
    assert normalise_url(broken) == ""


def test_documents_with_one_url_are_found_and_those_without_are_not(tmp_path: Path) -> None:
    hashes = url_hashes(["http://a.b/c", "", "https://www.a.b/c/", "", "http://["])
    first = equal_documents(hashes, some_keys(5), tmp_path)
    assert first[0] == first[2] and first[[1, 3, 4]].tolist() == [1, 3, 4]
