"""Sources: which files does a name in a recipe mean.

| written                | means                                                                           |
|------------------------|---------------------------------------------------------------------------------|
| docs/  or  book.txt    | that file, or every readable file below that folder                             |
| python:stdlib          | the .py files of the running interpreter's standard library                     |
| python:site-packages   | the .py files of the packages installed for the running interpreter             |
| npm:PACKAGE[@VERSION]  | a package of the npm registry, fetched by the npm client because the user asked |
| debian:PACKAGE[=V]     | a package of Debian or Ubuntu, fetched by apt because the user asked            |
| s3://bucket/folder     | an object or a prefix of an object store, by fsspec (also gs://, file://, ...)  |

A source is a row of `KINDS`: how its files are found, and what stands for its content in the id of the artifact.
Each file is a `SourceFile`; turning it into texts is the business of `extract` (or of the package's own reader).

`python:stdlib` leaves out the tests of the standard library: they are more than half of its bytes, written in a
style of their own (long runs of nearly equal assertions), and a small model would learn mostly that.
Hidden files and folders, caches and links are passed over everywhere; a folder is read in the order of its names.
A folder that Hugging Face `datasets` saved is read as such: its tables, not its book-keeping (`hub`); so is an artifact
of danlu's, without its manifest, reports and rejected rows. The licence of a file is what the nearest LICENSE or
COPYING at or above it says, within the folder that was named.
"""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.artifact import MANIFEST
from danlu.core.errors import UserError, suggest
from danlu.data.formats.extract import FORMATS, Broken, Item, extract, format_of
from danlu.data.formats.licence import FILES as LICENCE_FILES
from danlu.data.formats.licence import licence_of_file
from danlu.data.sources import debian, hub, npm, objects

# Folders that hold no text of their own: caches, and copies of other people's packages inside a project.
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "__MACOSX"})
_PYTHON_TESTS = frozenset({"test", "tests", "idle_test"})
_ABOUT = re.compile(r"artifact\.json|(report|plan|queue)\.(json|html)|README\.md|(rejected|scores)-.*")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: plain data, so that any process can read it.

    source    name of the source in the rows of a corpus
    name      path inside the source, with "/": part of the documents' ids
    path      where it is: a path, or a URL of an object store
    reader    "" to read it by its format; "npm:PACKAGE" for the package's own reader
    """

    source: str
    name: str
    path: Path | str
    licence: str = ""
    reader: str = ""

    def read(self, text_field: str | None = None) -> Iterator[Item | Broken]:
        if self.reader:
            return npm.reader(self.reader, self.name, Path(self.path))(Path(self.path))
        return extract(self.path, text_field=text_field)


@dataclass(frozen=True)
class Kind:
    """How sources of one prefix are found and what identifies their content."""

    files: Callable[[str], Iterator[SourceFile]]
    fingerprint: Callable[[str], Any]


def find_files(spec: str) -> Iterator[SourceFile]:
    """Yield the files of a source, in an order that depends on names alone.

    Raises UserError when there is no such file, folder, source kind or package.
    """
    return _kind_of(spec).files(spec)


def fingerprint(spec: str) -> Any:
    """JSON that changes when the content of the source changes; never fetches anything.

    For files: a hash over every name, size and content. For a package: its name and version, which the registry
    never publishes twice with other content.
    """
    return _kind_of(spec).fingerprint(spec)


def _kind_of(spec: str) -> Kind:
    prefix, colon, _ = spec.partition(":")
    if "://" in spec:
        return Kind(_url_files, objects.fingerprint)
    if colon and not Path(spec).exists() and not any(mark in prefix for mark in "/\\."):
        if prefix not in KINDS:
            raise UserError(f'there is no source "{spec}"', suggest(prefix + ":", [name + ":" for name in KINDS]))
        return KINDS[prefix]
    return Kind(_path_files, _hash_files)


# ---- files and folders -----------------------------------------------------------------------------------------


def _path_files(spec: str) -> Iterator[SourceFile]:
    try:
        path = Path(spec).expanduser()
    except RuntimeError as error:
        raise UserError(f'there is no file or folder "{spec}"', str(error)) from None
    if path.is_dir():
        found = False
        licences = _Licences(path)
        for file in _walk(path, skip=_PASSED_OVER):
            if not hub.is_bookkeeping(file) and not _is_about_an_artifact(file):
                found = True
                name = file.relative_to(path).as_posix()
                yield SourceFile(path.resolve().name, name, file, licences.of(file))
        if not found:
            raise UserError(f'the folder "{spec}" holds no files', "hidden files are passed over")
    elif path.is_file():
        if format_of(path) is None:
            raise UserError(f'"{path.name}" is of no known format', suggest(path.suffix.lower(), FORMATS))
        yield SourceFile(path.name, path.name, path)
    else:
        raise UserError(f'there is no file or folder "{spec}"', _suggest_path(path))


def _walk(folder: Path, skip: frozenset[str], suffix: str = "") -> Iterator[Path]:
    """The files below a folder in sorted order, without hidden ones, links to folders and the names in `skip`."""
    try:
        names = sorted(os.listdir(folder))  # names alone: a folder may hold a million
    except OSError as error:
        raise UserError(
            f'the folder "{folder}" cannot be read ({error.strerror})',
            "change its rights, or name the other folders",
        ) from None
    for name in names:
        if name.startswith(".") or name in skip:
            continue
        entry = folder / name
        if entry.is_dir():
            if not entry.is_symlink():  # a link may lead back up
                yield from _walk(entry, skip, suffix)
        elif entry.is_file() and name.endswith(suffix):
            yield entry


def _is_about_an_artifact(file: Path) -> bool:
    """In a folder with a manifest: what is said about its rows, and what was dropped or measured of them."""
    return _ABOUT.fullmatch(file.name) is not None and (file.parent / MANIFEST).is_file()


class _Licences:
    """The licence that holds for a file, by the nearest licence file at or above it; each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, str] = {}

    def of(self, file: Path) -> str:
        return self._of_folder(file.parent)

    def _of_folder(self, folder: Path) -> str:
        if folder not in self._known:
            files = (folder / name for name in sorted(os.listdir(folder)) if LICENCE_FILES.match(name))
            own = next(filter(None, map(self._read, files)), "") or hub.card_licence(folder)
            self._known[folder] = own or (self._of_folder(folder.parent) if folder != self._root else "")
        return self._known[folder]

    @staticmethod
    def _read(path: Path) -> str:
        if not path.is_file():
            return ""
        try:
            with path.open("rb") as stream:
                return licence_of_file(stream.read(40_000).decode("utf-8", "replace"))
        except OSError:
            return ""


def _url_files(spec: str) -> Iterator[SourceFile]:
    for name, url in objects.find(spec):
        if format_of(url) is not None:
            yield SourceFile(objects.public(spec), name, url)


def _suggest_path(path: Path) -> str:
    """The nearest name in the deepest folder of the path that exists."""
    folder, missing = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, missing = folder.parent, folder.name
    hint = suggest(missing, (entry.name for entry in folder.iterdir() if not entry.name.startswith(".")))
    return hint if hint.startswith("did you mean") else f"looked in {folder.resolve()}"


def _hash_files(spec: str) -> Any:
    digest = hashlib.sha256()
    count = size = 0
    for file in find_files(spec):
        try:
            with Path(file.path).open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
                length = os.fstat(stream.fileno()).st_size
        except OSError as error:  # reading it will say so too
            content, length = str(error.strerror).encode(), 0
        digest.update(f"{file.name}\0{length}\0".encode("utf-8", "surrogateescape") + content)
        count, size = count + 1, size + length
    return {"files": count, "bytes": size, "sha256": digest.hexdigest()}


# ---- the running Python ----------------------------------------------------------------------------------------


def _python_files(spec: str) -> Iterator[SourceFile]:
    name = spec.partition(":")[2]
    if name not in _PYTHON:
        raise UserError(f'there is no source "{spec}"', suggest(spec, [f"python:{name}" for name in _PYTHON]))
    schemes, skip, licence = _PYTHON[name]
    seen: set[Path] = set()
    for scheme in schemes:  # purelib and platlib are one folder on most systems
        folder = Path(sysconfig.get_path(scheme)).resolve()
        if folder in seen or not folder.is_dir():
            continue
        seen.add(folder)
        for file in _walk(folder, skip=_PASSED_OVER | _PYTHON_TESTS | skip, suffix=".py"):
            yield SourceFile(spec, file.relative_to(folder).as_posix(), file, licence)


# name -> (folders of sysconfig, folder names left out, licence). Installed packages have a licence each.
_PYTHON: dict[str, tuple[tuple[str, ...], frozenset[str], str]] = {
    "stdlib": (("stdlib",), _INSTALLED, "PSF-2.0"),
    "site-packages": (("purelib", "platlib"), frozenset(), "see the package"),
}


# ---- npm packages ----------------------------------------------------------------------------------------------


def _npm_files(spec: str) -> Iterator[SourceFile]:
    package = npm.parse(spec.partition(":")[2])
    folder = npm.fetch(package)
    licence = npm.licence(folder)
    for file in _walk(folder, skip=_PASSED_OVER):
        name = file.relative_to(folder).as_posix()
        if package.name in npm.READERS:
            if npm.READERS[package.name](name, folder) is not None:
                yield SourceFile(f"npm:{package.name}", name, file, licence, f"npm:{package.name}")
        else:
            yield SourceFile(f"npm:{package.name}", name, file, licence)


# ---- Debian packages -------------------------------------------------------------------------------------------


def _debian_files(spec: str) -> Iterator[SourceFile]:
    folder = debian.fetch(debian.parse(spec.partition(":")[2]))
    for file in debian.files(folder):
        if format_of(file) is not None:
            yield SourceFile(spec.partition("=")[0], file.relative_to(folder).as_posix(), file, "see the package")


KINDS: dict[str, Kind] = {
    "debian": Kind(_debian_files, lambda spec: {"package": debian.parse(spec.partition(":")[2])}),
    "python": Kind(_python_files, _hash_files),
    "npm": Kind(_npm_files, lambda spec: {"package": str(npm.parse(spec.partition(":")[2]))}),
}
