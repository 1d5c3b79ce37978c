"""Object stores as sources, through fsspec: s3://bucket/folder, gs://..., file:///..., memory://...

A URL names one object or everything below a prefix. Objects are listed in the order of their names and streamed when
they are read; nothing is copied to the disk. What stands for their content in the id of an artifact is what the store
says of it (ETag or a checksum, else the time of change) and the size, so that planning never downloads anything.
Credentials are the business of fsspec and its drivers (environment, profiles); one written into a URL is read but
never stored in a row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from danlu.core.errors import UserError

_TAGS = ("ETag", "etag", "md5Hash", "md5", "content_md5", "checksum", "LastModified", "mtime", "created")


def find(spec: str) -> Iterator[tuple[str, str]]:
    """Yield (name inside the source, URL) of every object of a URL. Raises UserError when there is none."""
    fs, root = _open(spec)
    for name, path, _ in _listed(fs, root, spec):
        yield name, fs.unstrip_protocol(path)


def fingerprint(spec: str) -> Any:
    """JSON that changes when an object is added, removed or written anew; reads no object."""
    fs, root = _open(spec)
    digest = hashlib.sha256()
    count = size = 0
    for name, path, info in _listed(fs, root, spec):
        tag = next((str(info[key]) for key in _TAGS if info.get(key)), None) or str(fs.ukey(path))
        length = int(info.get("size") or 0)
        digest.update(f"{name}\0{length}\0{tag}\0".encode("utf-8", "surrogateescape"))
        count, size = count + 1, size + length
    return {"files": count, "bytes": size, "sha256": digest.hexdigest()}


def public(spec: str) -> str:
    """The URL without what may be secret: user, password, query.

    >>> public("s3://key:secret@bucket/a?token=1")
    's3://bucket/a'
    """
    return re.sub(r"//[^/@]*@", "//", spec).partition("?")[0]


def _open(spec: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(spec)
    except ImportError as error:
        raise UserError(f'"{public(spec)}" needs a driver of fsspec: {error}', "pip install it") from None
    except ValueError as error:
        raise UserError(f'there is no source "{public(spec)}" ({error})', "known: s3://, gs://, file://") from None
    return fs, root


def _listed(fs: Any, root: str, spec: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, path, what the store says) of every object, hidden ones aside, in the order of names."""
    try:
        found = fs.find(root, detail=True)
    except (OSError, ValueError) as error:
        raise UserError(f'"{public(spec)}" cannot be listed ({error})', "check the address and the rights") from None
    base = root.rstrip("/")
    objects = []
    for path, info in sorted(found.items()):
        name = path[len(base) :].strip("/") if path != base else path.rpartition("/")[2]
        if name and not any(part.startswith(".") for part in name.split("/")):
            objects.append((name, path, info))
    if not objects:
        raise UserError(f'there is nothing at "{public(spec)}"', "name an object or a prefix that holds some")
    return objects
