"""Packages of the npm registry as sources, and the reader of the one that matters: chinese-poetry.

The package is fetched with the npm client (`npm pack`) because the user named it, unpacked once into a cache, and
read from there ever after:

    $DANLU_NPM_CACHE  or  ~/.cache/danlu/npm  /  NAME@VERSION/        what the tarball held below "package/"

`npm:chinese-poetry` holds some 387,000 poems from the Book of Songs to the Yuan dynasty as JSON, in a dozen
layouts. `POEMS` says per layout where title, author and lines are. One poem is one document:

    春曉                            title
    春眠不覺曉，處處聞啼鳥。          one sentence of verse a line
    夜來風雨聲，花落知多少。

and the author and the dynasty are in `meta`. Left alone: search ranks, tone patterns, biographies, and the
entries that the package itself files under `error`. Characters outside Unicode are described in the data by their
parts ("{上休下鳥}"); the package has a table of those that have since got a code point, and it is applied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from danlu.core.errors import UserError
from danlu.data.formats.item import Broken, Item

# The version read when none is asked for: a recipe must mean the same poems next year.
PINNED = {"chinese-poetry": "2.0.1"}
_SPEC = re.compile(r"(?P<name>(?:@[\w.-]+/)?[\w.-]+)(?:@(?P<version>[\w.+-]+))?")


@dataclass(frozen=True)
class Package:
    name: str
    version: str  # "" means the newest at the time of fetching

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parse(text: str) -> Package:
    """Read "name", "name@1.2.3" or "@scope/name@1.2.3"."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UserError(f'"npm:{text}" names no package', "write npm:NAME or npm:NAME@VERSION")
    return Package(match["name"], match["version"] or PINNED.get(match["name"], ""))


def fetch(package: Package) -> Path:
    """The folder of the unpacked package; fetched on first use.

    Raises UserError when there is no npm client or the registry does not give the package.
    """
    cache = Path(os.environ.get("DANLU_NPM_CACHE") or Path.home() / ".cache" / "danlu" / "npm")
    folder = cache / str(package).replace("/", "+")
    if not folder.is_dir():
        client = shutil.which("npm")
        if client is None:
            raise UserError(f"npm:{package} needs the npm client, which is not installed", "apt install npm")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
            _pack_and_unpack(client, package, Path(temporary))
            try:
                (Path(temporary) / "unpacked" / "package").rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster with the same package
                    raise
    return folder


def _pack_and_unpack(client: str, package: Package, folder: Path) -> None:
    command = [client, "pack", str(package), "--pack-destination", str(folder), "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        said = [
            line.split("npm error", 1)[-1].strip() for line in done.stderr.splitlines() if "complete log" not in line
        ]
        reason = "; ".join(said[:2]) or "no reason given"
        raise UserError(f"npm could not fetch {package}: {reason}", "check the name, the version and the network")
    try:
        with tarfile.open(tarballs[0]) as archive:
            archive.extractall(folder / "unpacked", filter="data")  # refuses paths and links that lead outside
    except tarfile.TarError as error:
        raise UserError(f"the archive of {package} is damaged ({error})", "run again to fetch it anew") from None
    if not (folder / "unpacked" / "package").is_dir():
        raise UserError(f"the archive of {package} has no folder package/", "it was not made by npm")


def licence(folder: Path) -> str:
    """The licence that package.json names, or ""."""
    try:
        value = json.loads((folder / "package.json").read_text("utf-8")).get("license", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return value if isinstance(value, str) else ""


# ---- chinese-poetry --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoemLayout:
    """Where a family of files keeps its poems. `title` and `lines` name the fields, in order of preference."""

    pattern: str
    dynasty: str
    title: tuple[str, ...] = ("title",)
    lines: str = "paragraphs"
    author: str = ""  # for collections of one author that do not repeat the name


POEMS: tuple[PoemLayout, ...] = (
    PoemLayout("dist/quantangshi/poet.tang.*.json", "唐"),
    PoemLayout("dist/quantangshi/poet.song.*.json", "宋"),
    PoemLayout("dist/quantangshi/唐诗补录.json", "唐"),
    PoemLayout("dist/yudingquantangshi/json/*.json", "唐"),
    PoemLayout("dist/shuimotangshi/shuimotangshi.json", "唐"),
    PoemLayout("dist/wudaishici/huajianji/huajianji-*-juan.json", "五代"),
    PoemLayout("dist/wudaishici/nantang/poetrys.json", "五代", title=("title", "rhythmic")),
    PoemLayout("dist/songci/ci.song.*.json", "宋", title=("title", "rhythmic")),  # lyrics are named by their tune
    PoemLayout("dist/yuanqu/yuanqu.json", "元"),
    PoemLayout("dist/nalanxingde/*.json", "清", lines="para", author="纳兰性德"),
    PoemLayout("dist/caocaoshiji/caocao.json", "汉", author="曹操"),
    PoemLayout("dist/chuci/chuci.json", "先秦", lines="content"),
    PoemLayout("dist/shijing/shijing.json", "先秦", lines="content"),
)
_GLYPHS = "dist/quantangshi/表面结构字.json"
_DESCRIBED = re.compile(r"\{[^{}]{1,12}\}")
_SENTENCE_END = re.compile("(?<=[。！？])(?![”’」』）。！？]|$)")


def _chinese_poetry(name: str, folder: Path) -> Callable[[Path], Iterator[Item | Broken]] | None:
    """The reader of one file of the package, or None for the files that hold no poems."""
    layout = next((layout for layout in POEMS if fnmatch(name, layout.pattern)), None)
    return None if layout is None else lambda path: _read_poems(path, layout, _glyphs(folder))


def _read_poems(path: Path, layout: PoemLayout, glyphs: dict[str, str]) -> Iterator[Item | Broken]:
    try:
        poems = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        yield Broken("unreadable", str(error))
        return
    for index, poem in enumerate(poems if isinstance(poems, list) else [poems]):
        place = f"#{index}"
        lines = poem.get(layout.lines) if isinstance(poem, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            yield Broken("no_text", f"no list of lines under {layout.lines}", place)
            continue
        title = next((poem[key] for key in layout.title if poem.get(key)), "")
        author = poem.get("author") or layout.author
        yield Item(
            _DESCRIBED.sub(lambda found: glyphs.get(found[0], found[0]), _poem_text(str(title), lines)),
            place,
            "zh",
            {key: value for key, value in (("title", title), ("author", author), ("dynasty", layout.dynasty)) if value},
        )


def _poem_text(title: str, lines: list[str]) -> str:
    """Title, then one sentence a line. Most files break lines there already; the oldest texts do not."""
    sentences = [part.strip() for line in lines for part in _SENTENCE_END.split(line)]
    return "\n".join(part for part in (title.strip(), *sentences) if part)


_glyph_tables: dict[Path, dict[str, str]] = {}


def _glyphs(folder: Path) -> dict[str, str]:
    """{"{上休下鳥}": "𪀪"}: descriptions that stand for exactly one character."""
    if folder not in _glyph_tables:
        try:
            table: dict[str, Any] = json.loads((folder / _GLYPHS).read_bytes())
            _glyph_tables[folder] = {
                key: found[0]["font"] for key, found in table.items() if len(found) == 1 and len(found[0]["font"]) == 1
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            _glyph_tables[folder] = {}  # a package without the table: descriptions stay as they are
    return _glyph_tables[folder]


READERS: dict[str, Callable[[str, Path], Callable[[Path], Iterator[Item | Broken]] | None]] = {
    "chinese-poetry": _chinese_poetry,
}


def reader(key: str, name: str, path: Path) -> Callable[[Path], Iterator[Item | Broken]]:
    """The reader of a file of a package that has its own: `key` is "npm:PACKAGE", `name` the path inside it."""
    folder = path.parents[name.count("/")]
    found = READERS[key.partition(":")[2]](name, folder)
    assert found is not None, f"{name} of {key} has no reader"
    return found
