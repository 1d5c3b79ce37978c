"""Debian packages as sources: a package built here stands in for the archive, apt's own words for its errors."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.data.sources import debian
from danlu.data.sources.find import find_files, fingerprint

PAGE = ".TH LS 1\n.SH 描述\n列出文件的信息。\n"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and an `apt-get` that hands out the package pages."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    tree, tools = tmp_path / "tree", tmp_path / "tools"
    for name, text in (("man/zh_CN/man1/ls.1.gz", PAGE), ("doc/pages/changelog.gz", "x"), ("doc/pages/guide.txt", "y")):
        path = tree / "usr/share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: pages\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    made = tmp_path / "pages_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(made)], check=True, capture_output=True)
    tools.mkdir()
    (tools / "apt-get").write_text(
        f'#!/bin/sh\n[ "$3" = pages ] && exec cp {made} .\necho "E: Unable to locate package $3" >&2\nexit 100\n'
    )
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("DANLU_DEBIAN_CACHE", str(tmp_path / "cache"))
    return made


def test_a_package_is_fetched_once_and_read(archive: Path) -> None:
    first = list(find_files("debian:pages"))
    assert [file.name for file in first] == ["usr/share/doc/pages/guide.txt", "usr/share/man/zh_CN/man1/ls.1.gz"]
    assert "列出文件的信息。" in next(iter(first[1].read())).text
    archive.unlink()
    assert list(find_files("debian:pages")) == first


def test_an_unknown_package_is_one_sentence(archive: Path) -> None:
    with pytest.raises(UserError, match="Unable to locate package none"):
        list(find_files("debian:none"))
    with pytest.raises(UserError, match="names no package"):
        list(find_files("debian:../etc"))


def test_no_apt_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DANLU_DEBIAN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="needs apt-get"):
        debian.fetch("pages")


def test_the_fingerprint_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert fingerprint("debian:manpages-zh=1.6") == {"package": "manpages-zh=1.6"}
