"""zip and tar files as folders: every member of a known format is read as if it lay on the disk.

The place of a text is "!" and the name of its member, followed by the place inside it: "!docs/a.jsonl:12".

An archive of a stranger may be made to harm, so nothing of it is ever written under its own name: members are copied
into an unnamed temporary file, one at a time. Names that lead outside ("../x", "/etc/x") and links are counted as
"unsafe_path", archives inside archives as "nested_archive" (a bomb of bombs), and a member that unpacks to more than
`_MAX_RATIO` times its size, or an archive that unpacks to more than `_MAX_TOTAL`, ends there with "too_large".
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.streams import COMPRESSIONS, decompressed, read_all, suffixes_of

_MAX_TOTAL = 1 << 36  # bytes of all members; 64 GB
_MAX_RATIO = 1_000  # zeros compress so well, texts do not; deflate reaches 1,032
_RATIO_FROM = 1 << 27  # small members may repeat themselves as much as they like
_MAX_MEMBERS = 1_000_000
_IN_MEMORY = 1 << 24
_CHUNK = 1 << 20
_SKIPPED = ("__MACOSX/", "__pycache__/", "node_modules/")


def read_zip(stream: BinaryIO, text_field: str | None = None) -> Iterator[Item | Broken]:
    try:
        archive = zipfile.ZipFile(stream if stream.seekable() else io.BytesIO(read_all(stream)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        yield Broken("unreadable", f"no zip file: {error}"[:EXCERPT])
        return
    left = _MAX_TOTAL
    with archive:
        for number, info in enumerate(archive.infolist()):
            if info.is_dir():
                continue
            if number >= _MAX_MEMBERS:
                yield Broken("too_large", f"more than {_MAX_MEMBERS} members")
                return
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if info.flag_bits & 1:
                yield Broken("encrypted", "a password is needed", f"!{info.filename}")
                continue
            try:
                opened = None if _refusal(info.filename, is_link) else archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
                yield Broken("unreadable", str(error)[:EXCERPT], f"!{info.filename}")
                continue
            left -= yield from _member(info.filename, is_link, opened, info.compress_size, left, text_field)
            if left <= 0:
                return


def read_tar(stream: BinaryIO, text_field: str | None = None) -> Iterator[Item | Broken]:
    """A tar file, read from its beginning to its end, so that it may come out of a decompressor."""
    left = _MAX_TOTAL
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=tarfile.TarInfo) as archive:
            for number, info in enumerate(archive):
                archive.members = []  # type: ignore[attr-defined]  # the library keeps every header it saw
                if info.isdir():
                    continue
                if number >= _MAX_MEMBERS:
                    yield Broken("too_large", f"more than {_MAX_MEMBERS} members")
                    return
                is_link = not info.isreg()
                opened = None if is_link or _refusal(info.name, is_link) else archive.extractfile(info)
                left -= yield from _member(info.name, is_link, opened, info.size, left, text_field)
                if left <= 0:
                    return
    except (tarfile.TarError, ValueError, RecursionError, AttributeError) as error:
        yield Broken("unreadable", f"damaged archive: {error}"[:EXCERPT])


def _refusal(name: str, is_link: bool) -> tuple[str, str] | None:
    """Why a member is not even opened: (reason, detail), or ("", "") for what is passed over in silence."""
    from danlu.data.formats.extract import FORMATS, format_of

    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "unsafe_path", "the name leads outside of the archive"
    if is_link:
        return "unsafe_path", "a link"
    if any(part.startswith(".") for part in path.parts) or any(skipped in f"{path}/" for skipped in _SKIPPED):
        return "", ""
    form = format_of(name)
    if form is None:
        return "unknown_format", f"no reader for {path.suffix or 'files without a suffix'}"
    if form.read in (read_zip, read_tar) or form is FORMATS.get(".zip"):
        return "nested_archive", "an archive inside an archive"
    return None


def _member(name: str, is_link: bool, opened: IO[bytes] | None, packed: int, left: int, text_field: str | None) -> Any:
    """Yield the texts of one member; returns the bytes it took."""
    from danlu.data.formats.extract import format_of, read_stream

    place = f"!{name}"
    refusal = _refusal(name, is_link)
    if refusal is not None or opened is None:
        reason, detail = refusal or ("unreadable", "no content")
        if reason:
            yield Broken(reason, detail, place)
        return 0
    form = format_of(name)
    assert form is not None
    size = 0
    with opened, tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        try:
            while chunk := opened.read(_CHUNK):
                size += len(chunk)
                if size > left or (size > _RATIO_FROM and size > _MAX_RATIO * max(1, packed)):
                    yield Broken("too_large", f"{packed} bytes unpack to more than {size}", place)
                    return size
                copy.write(chunk)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, NotImplementedError) as error:
            yield Broken("unreadable", str(error)[:EXCERPT], place)
            return size
        copy.seek(0)
        suffix = (suffixes_of(name) or [""])[-1]
        inner = copy if form.raw or suffix not in COMPRESSIONS else decompressed(copy, suffix)  # type: ignore[arg-type]
        for item in read_stream(form, inner, text_field):
            yield replace(item, place=place + item.place)
    return size
