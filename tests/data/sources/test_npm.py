"""The npm source: a small package of the real shape, and a client that answers in every way one can."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.data.formats.extract import Broken, Item
from danlu.data.sources import npm
from danlu.data.sources.find import find_files, fingerprint

TANG = [
    {
        "author": "孟浩然",
        "paragraphs": ["春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少。"],
        "title": "春曉",
        "id": "1",
    },
    {"author": "某", "paragraphs": ["有{上休下鳥}在林，有{未知}在野。"], "title": "鳥", "id": "2"},
    {"author": "誰", "title": "無詩"},
]
FILES = {
    "package.json": {"name": "chinese-poetry", "license": "MIT"},
    "dist/quantangshi/poet.tang.0.json": TANG,
    "dist/quantangshi/authors.tang.json": [{"name": "孟浩然", "desc": "一生未仕。"}],
    "dist/quantangshi/error/poet.tang.0.json": TANG,
    "dist/rank/poet/poet.tang.rank.0.json": [{"title": "春曉", "baidu": 1}],
    "dist/quantangshi/表面结构字.json": {"{上休下鳥}": [{"font": "𪀪", "unicode": "\\U0002A02A"}], "{上/貝}": []},
    "dist/songci/ci.song.0.json": [
        {"author": "蘇軾", "paragraphs": ["明月几时有，把酒问青天。"], "rhythmic": "水调歌头"}
    ],
    "dist/shijing/shijing.json": [{"title": "关雎", "content": ["关关雎鸠，在河之洲。窈窕淑女，君子好逑。"]}],
    "dist/caocaoshiji/caocao.json": [{"title": "观沧海", "paragraphs": ["东临碣石，以观沧海。"]}],
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that already holds the package."""
    for name, content in FILES.items():
        path = tmp_path / "npm" / "chinese-poetry@2.0.1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    monkeypatch.setenv("DANLU_NPM_CACHE", str(tmp_path / "npm"))
    return tmp_path / "npm"


def test_one_poem_is_one_document(cache: Path) -> None:
    files = list(find_files("npm:chinese-poetry"))
    assert [file.name for file in files] == [
        "dist/caocaoshiji/caocao.json",
        "dist/quantangshi/poet.tang.0.json",
        "dist/shijing/shijing.json",
        "dist/songci/ci.song.0.json",
    ]
    assert {(file.source, file.licence) for file in files} == {("npm:chinese-poetry", "MIT")}
    items = [item for file in files for item in file.read()]
    poems = {item.meta["title"]: item for item in items if isinstance(item, Item)}
    assert poems["春曉"].text == "春曉\n春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。"
    assert poems["春曉"].meta == {"title": "春曉", "author": "孟浩然", "dynasty": "唐"}
    assert poems["关雎"].text == "关雎\n关关雎鸠，在河之洲。\n窈窕淑女，君子好逑。"  # one sentence a line
    assert poems["鳥"].text == "鳥\n有𪀪在林，有{未知}在野。"  # a described character that has a code point
    assert poems["水调歌头"].meta["dynasty"] == "宋" and poems["观沧海"].meta["author"] == "曹操"
    assert [item.place for item in items if isinstance(item, Broken)] == ["#2"]


def test_quotes_stay_with_their_sentence() -> None:
    assert npm._poem_text("", ["曰：“归去！”众皆去。余独留？"]) == "曰：“归去！”众皆去。\n余独留？"


def test_versions_are_pinned_where_a_recipe_depends_on_them() -> None:
    assert fingerprint("npm:chinese-poetry") == {"package": "chinese-poetry@2.0.1"}
    assert fingerprint("npm:@scope/name@1.0.0") == {"package": "@scope/name@1.0.0"}
    assert npm.parse("left-pad") == npm.Package("left-pad", "")


def test_without_a_client_the_hint_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_NPM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm client"):
        list(find_files("npm:some-package"))


def _client(folder: Path, script: str) -> None:
    """An executable called npm, first in PATH."""
    path = folder / "npm"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _tarball(path: Path, names: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def with_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_NPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_package_is_fetched_once_and_unpacked(with_client: Path) -> None:
    _tarball(
        with_client / "p.tgz", {"package/package.json": b'{"license": "ISC"}', "package/README.md": "# 你好".encode()}
    )
    _client(with_client, f'echo called >> {with_client}/calls; cp {with_client}/p.tgz "$4/some-package-1.0.0.tgz"\n')
    for _ in range(2):
        files = {file.name: file for file in find_files("npm:some-package")}
    assert set(files) == {"README.md", "package.json"} and files["README.md"].licence == "ISC"
    assert (with_client / "calls").read_text() == "called\n"
    assert [p.name for p in (with_client / "cache").iterdir()] == ["some-package"]


@pytest.mark.parametrize(
    ("names", "script", "message"),
    [
        ({"../../evil.txt": b"x"}, "", "damaged"),
        ({"elsewhere/a.txt": b"x"}, "", "no folder package/"),
        ({}, "echo 'npm error code E404' >&2; exit 1", "E404"),
    ],
)
def test_bad_archives_and_refusals(with_client: Path, names: dict[str, bytes], script: str, message: str) -> None:
    _tarball(with_client / "p.tgz", names)
    _client(with_client, script or f'cp {with_client}/p.tgz "$4/x.tgz"')
    with pytest.raises(UserError, match=message):
        list(find_files("npm:some-package"))
    assert not list(with_client.glob("**/evil.txt"))
    assert list((with_client / "cache").iterdir()) == []  # nothing half-written
