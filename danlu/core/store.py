"""The store: artifacts by id, names for people.

    STORE/
      <kind>/<id>/           an artifact (core.artifact)
      names/<name>.json      {"newest": id, "aliases": {"prod": id}}
      work/<id>/             scratch of a stage in progress; outlives a killed process
      work/*.uses            ids that a run in progress needs, locked for as long as it lives
      runs/<run>/            events.jsonl of each run

Publishing is one rename, so readers see a whole artifact or none, and a process killed at any moment leaves
only a hidden temporary directory behind, which `gc` sweeps up. Two processes that build the same artifact are
held apart by a file lock that dies with its holder.

A store may also live behind any fsspec URL (`s3://bucket/path`, `memory://x`): see core.remote.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.core.artifact import (
    KINDS,
    MANIFEST,
    Artifact,
    Manifest,
    atomic_write,
    publish_directory,
    write_json,
)
from danlu.core.errors import StageFailed, UserError, suggest

LONGEST_NAME = 200  # bytes: it becomes the name of a file, which has 255
NAME = re.compile(r"[^\W_][\w.-]*")  # letters of any script: 诗人 is a name


class Store:
    """A store in a local directory. Missing directories are made when something is first written."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.url = str(root)

    # ---- artifacts -------------------------------------------------------------------------------------------

    def path(self, artifact_id: str) -> Path:
        """Where the artifact of this id lies or would lie."""
        return self.root / kind_of(artifact_id) / artifact_id

    def get(self, artifact_id: str) -> Artifact | None:
        """The artifact of exactly this id, or None."""
        path = self.path(artifact_id)
        return Artifact.open(path) if (path / MANIFEST).exists() else None

    def manifest(self, artifact_id: str) -> Manifest | None:
        """The manifest of exactly this id, or None; the payload is not touched."""
        found = self.get(artifact_id)
        return found.manifest if found else None

    def manifests(self, kind: str | None = None) -> list[Manifest]:
        """All manifests, oldest first. A damaged one is passed over here; `damaged` names it."""
        return sorted(self._read_all(kind)[0], key=lambda m: (m.created, m.id))

    def damaged(self) -> list[str]:
        """One sentence for each manifest that cannot be read."""
        return self._read_all(None)[1]

    def _read_all(self, kind: str | None) -> tuple[list[Manifest], list[str]]:
        """Every manifest that can be read, and what is wrong with the others."""
        found, damaged = [], []
        for place in self._places(kind):
            try:
                manifest = self._read(place)
            except UserError as error:
                damaged.append(error.message)
            else:
                found += [manifest] if manifest else []
        return found, damaged

    def _places(self, kind: str | None) -> list[str]:
        """The directories of all artifacts."""
        paths = self.root.glob(f"{kind or '*'}/*/{MANIFEST}")
        return [str(p.parent) for p in paths if p.parent.parent.name in KINDS and not p.parent.name.startswith(".")]

    def _read(self, place: str) -> Manifest | None:
        """One manifest; None when it went away meanwhile. Raises UserError when it is damaged."""
        try:
            return Manifest.read(Path(place))
        except FileNotFoundError:
            return None

    @contextmanager
    def new_directory(self, artifact_id: str) -> Iterator[Path]:
        """An empty directory to write the payload of `artifact_id` into; gone when the block fails."""
        target = self.path(artifact_id)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with explain_disk_errors(self.root):
            temporary.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def publish(self, directory: Path, manifest: Manifest) -> Artifact:
        """Turn a directory from `new_directory` into the artifact: manifest last, then one rename."""
        with explain_disk_errors(self.root):
            write_json(directory / MANIFEST, manifest.to_json())
            publish_directory(directory, self.path(manifest.id))
        return Artifact.open(self.path(manifest.id))

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact, manifest first, so that a half-deleted one is none."""
        path = self.path(artifact_id)
        with explain_disk_errors(self.root):
            (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    # ---- names -----------------------------------------------------------------------------------------------

    def names(self) -> dict[str, dict[str, str]]:
        """{"base": {"": newest id, "prod": id of the alias}} for every name."""
        found = {}
        for path in sorted(self.root.glob("names/*.json")):
            found[path.stem] = read_name(path.read_bytes(), str(path))
        return found

    def set_name(self, name: str, artifact_id: str) -> None:
        """Let `NAME` (newest) or `NAME@ALIAS` mean this artifact. Raises UserError on a name that cannot be one."""
        check_name(name)
        base, _, alias = name.partition("@")
        path = self.root / "names" / f"{base}.json"
        known = self.names().get(base, {})
        newest = artifact_id if not alias or "" not in known else known[""]
        aliases = {key: value for key, value in known.items() if key} | ({alias: artifact_id} if alias else {})
        self._write_name(path, json.dumps({"newest": newest, "aliases": aliases}, indent=1).encode())

    def _write_name(self, path: Path, data: bytes) -> None:
        with explain_disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, data)

    def resolve(self, spec: str, kind: str | tuple[str, ...] | None = None) -> Artifact:
        """Find what a person means by `spec`: a path, an id, a unique prefix of one, NAME or NAME@ALIAS.

        A path is recognised by a slash, a leading dot, or being there; names win over files of the same name.
        Raises UserError when nothing or more than one thing fits, or when its kind is not one of `kind`.
        """
        kinds = (kind,) if isinstance(kind, str) else kind
        artifact = self._find(spec, kinds)
        if kinds and artifact.kind not in kinds:
            raise UserError(f'"{spec}" is a {artifact.kind}, and a {" or ".join(kinds)} is needed')
        return artifact

    def _find(self, spec: str, kinds: tuple[str, ...] | None) -> Artifact:
        base, _, alias = spec.partition("@")
        named = self.names()
        if base in named:
            if alias not in named[base]:
                raise UserError(f'"{base}" has no alias "{alias}"', suggest(alias, [a for a in named[base] if a]))
            found = self.get(named[base][alias])
            if found is not None:
                return found
            raise UserError(f'"{spec}" names {named[base][alias]}, which is not in the store {self.url}')
        if "/" in spec or spec.startswith(".") or Path(spec).exists():
            return Artifact.from_path(Path(spec).expanduser(), kinds[0] if kinds and len(kinds) == 1 else None)
        ids = [m.id for m in self.manifests()]
        matches = [i for i in ids if i == spec] or [i for i in ids if i.startswith(spec) or _hex(i).startswith(spec)]
        if len(matches) == 1:
            found = self.get(matches[0])
            assert found is not None
            return found
        if matches:
            raise UserError(
                f'"{spec}" fits {len(matches)} artifacts', "write more of the id: " + ", ".join(matches[:4])
            )
        wanted = " or ".join(kinds) if kinds else "artifact"
        raise UserError(f'there is no {wanted} "{spec}" in {self.url}', self._hint(spec, named, kinds))

    def _hint(self, spec: str, named: dict[str, dict[str, str]], kinds: tuple[str, ...] | None) -> str:
        fitting = [n for n, ids in named.items() if not kinds or kind_of(ids[""]) in kinds]
        return (
            suggest(spec, fitting) if fitting else "danlu run quickstart makes the first ones, danlu import brings one"
        )

    # ---- scratch ---------------------------------------------------------------------------------------------

    def work(self, artifact_id: str) -> Path:
        """Scratch directory of an artifact being built."""
        return self.root / "work" / artifact_id

    @contextmanager
    def lock(self, artifact_id: str) -> Iterator[None]:
        """Hold the right to build an artifact; raises UserError when another process has it.

        The lock is the kernel's (flock): it is released when its holder dies, however it dies.
        """
        path = self.root / "work" / f"{artifact_id}.lock"
        with explain_disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "w")  # noqa: SIM115 - held open for as long as the lock
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another process is building {artifact_id} in {self.url}", "wait for it, or use another --store"
                ) from None
            yield  # the file stays: removing it would let a third process lock a name that is gone

    @contextmanager
    def using(self, artifact_ids: Iterable[str]) -> Iterator[None]:
        """Tell `gc` to leave these artifacts alone while the block runs, whether or not a name leads to them yet.

        The promise is a file that this process holds locked; one whose holder died binds nobody.
        """
        path = self.root / "work" / f"{uuid.uuid4().hex}.uses"
        with explain_disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "wb", buffering=0)  # noqa: SIM115 - held open for as long as the promise
        with handle:
            try:
                with explain_disk_errors(self.root):
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    handle.write(json.dumps(sorted(artifact_ids)).encode())
                yield
            finally:
                path.unlink(missing_ok=True)

    def in_use(self) -> set[str]:
        """Ids that runs in progress on this machine need."""
        found: set[str] = set()
        for path in self.root.glob("work/*.uses"):
            with contextlib.suppress(FileNotFoundError):
                if is_locked(path):
                    found |= set(json.loads(path.read_text() or "[]"))
        return found


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of this file."""
    if not path.exists():
        return False
    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def check_name(name: str) -> None:
    """Raises UserError unless `name` is NAME or NAME@ALIAS as the store can keep it."""
    for part in name.split("@", 1):
        if not NAME.fullmatch(part):
            raise UserError(f'"{name}" cannot be a name', "use letters, digits, dot, dash and underscore")
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(f"a name of {len(name)} characters is too long", f"{LONGEST_NAME} bytes are the most")


def read_name(data: bytes, place: str) -> dict[str, str]:
    """What `names/NAME.json` says. Raises UserError when it is damaged: gc must not think that nothing is named."""
    try:
        entry = json.loads(data)
        return {"": entry["newest"], **entry["aliases"]}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{place} is damaged", "remove that file; the next run of its recipe names it again") from None


def kind_of(artifact_id: str) -> str:
    """The kind an id begins with.

    >>> kind_of("model-0123456789abcdef")
    'model'
    """
    kind = artifact_id.rpartition("-")[0]
    return kind if kind in KINDS else "unknown"


def _hex(artifact_id: str) -> str:
    return artifact_id.rpartition("-")[2]


def open_store(url: str | None = None) -> Store:
    """The store at `url`, else at DANLU_STORE, else `.danlu` in the working directory.

    A URL with a scheme (`s3://...`, `memory://...`) is opened through fsspec; anything else is a local path.
    """
    url = url or os.environ.get("DANLU_STORE") or ".danlu"
    if url.startswith("file://"):
        return Store(url.removeprefix("file://"))
    if "://" in url or "::" in url:
        from danlu.core.remote import RemoteStore

        return RemoteStore(url)
    path = Path(url).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"the store {url} is a file", "a store is a directory; choose another --store")
    return Store(path)


def default_store() -> Store:
    """The store that commands use when none is named."""
    return open_store()


_NO_PLACE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


@contextmanager
def explain_disk_errors(root: Path, what: str = "the store", instead: str = "choose another --store") -> Iterator[None]:
    """Say in one sentence what a full or read-only disk did. Errors about files elsewhere pass through."""
    try:
        yield
    except Exception as error:
        if _disk_is_full(error):
            raise StageFailed(
                f"the disk that holds {root} is full; nothing half-written was kept",
                f"free some space (danlu gc removes what nothing uses) or {instead}, then run again",
            ) from None
        if isinstance(error, OSError) and _has_no_place(error, root.absolute()):
            raise UserError(f"{what} {root} cannot be written ({error.strerror})", instead) from None
        raise


def _has_no_place(error: OSError, root: Path) -> bool:
    """Whether nothing can be written below `root`, or `root` itself cannot be made."""
    named = root if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
    cannot_be_made = root.is_relative_to(named) and error.filename is not None
    if error.errno == errno.ENOENT:  # /proc and its like answer so to whoever makes a directory there
        return cannot_be_made
    return error.errno in _NO_PLACE and (cannot_be_made or named.is_relative_to(root))


def _disk_is_full(error: Exception) -> bool:
    """Rust libraries (safetensors, tokenizers) tell the system's error only in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left on device" in str(error)
