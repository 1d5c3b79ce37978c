"""Artifacts: a directory with a manifest.

    STORE/corpus/corpus-4f0c.../
        train-00000.parquet         payload, in a format the ecosystem reads
        report.json
        artifact.json               the manifest, written last: no manifest, no artifact

The id of an artifact is decided before it is built. It is its kind and the first 16 hex digits of

    sha256(stage name, stage version, canonical config, ids of the parents)

so that the same inputs have the same id, and an id that exists in the store need not be built again. What came
out is a second hash, `content`, over the payload files alone: two machines that built the same id can be
compared, and a resumed run can be held against an undisturbed one. For that to mean something the payload must
be a function of the inputs: how long a stage took and how fast it went are metrics of the manifest, never bytes
of the payload.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from danlu.core.errors import UserError, suggest

MANIFEST = "artifact.json"
KINDS = ("pages", "corpus", "tokenizer", "tokens", "dataset", "model", "adapter", "report", "index")


@dataclass(frozen=True)
class Manifest:
    """What `artifact.json` holds. `files` maps a payload path to {"size": bytes, "sha256": hex}."""

    kind: str
    id: str
    stage: str
    stage_version: str
    config: dict[str, Any]
    parents: dict[str, str]
    files: dict[str, dict[str, Any]]
    metrics: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    created: str = ""
    seconds: float = 0.0
    danlu: str = ""
    revision: str = ""
    machine: str = ""

    @property
    def content(self) -> str:
        """Hash of the payload: equal payloads, equal content, whenever and wherever they were built."""
        lines = "".join(f"{path} {info['sha256']}\n" for path, info in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(info["size"] for info in self.files.values())

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"content": self.content}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read the manifest of an artifact directory.

        Raises UserError when the manifest is damaged.
        """
        path = directory / MANIFEST
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error})", "remove that directory and run the recipe again") from None


@dataclass(frozen=True)
class Artifact:
    """An artifact on this machine's disk."""

    kind: str
    id: str
    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> Artifact:
        manifest = Manifest.read(directory)
        return cls(manifest.kind, manifest.id, directory, manifest)

    @classmethod
    def from_path(cls, path: Path | str, kind: str | None = None) -> Artifact:
        """Take a directory or file that danlu did not make as an artifact; its id comes from its bytes.

        They are read when the id or the manifest is asked for, and not for those who want the path alone. `kind` is
        needed only where the files do not tell. Raises UserError when nothing is there or the kind is not clear.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path} does not exist", _nearby(path))
        if (path / MANIFEST).exists():
            return cls.open(path)
        kind = kind or guess_kind(path)
        if kind is None:
            raise UserError(
                f"{path} is no artifact and no model directory",
                f"a directory needs config.json (model), tokenizer.json or {MANIFEST}; a file must be .gguf",
            )
        return _Foreign(kind, path)


class _Foreign(Artifact):
    """An artifact without a manifest of its own: gigabytes are hashed to make one, so it is made when it is needed."""

    def __init__(self, kind: str, path: Path) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "path", path)

    @cached_property
    def manifest(self) -> Manifest:
        files = describe_files(self.path)
        digest = hashlib.sha256("".join(f"{p} {i['sha256']}\n" for p, i in files.items()).encode()).hexdigest()
        return Manifest(self.kind, f"{self.kind}-{digest[:16]}", "path", "1", {}, {}, files, name=self.path.name)

    @property
    def id(self) -> str:
        return self.manifest.id


def artifact_id_of(path: str | Path) -> str | None:
    """The id of the artifact in a directory, if it lies in a store: what `danlu lineage` can trace."""
    return Manifest.read(Path(path)).id if (Path(path) / MANIFEST).is_file() else None


def guess_kind(path: Path) -> str | None:
    """The kind of a directory or file made elsewhere, by what lies in it."""
    if path.is_file():
        return "model" if path.suffix == ".gguf" else None
    for name, kind in (
        ("adapter_config.json", "adapter"),
        ("config.json", "model"),
        ("tokens.json", "tokens"),
        ("tokenizer.json", "tokenizer"),
    ):
        if (path / name).exists():
            return kind
    return None


def artifact_id(kind: str, stage: str, version: str, config: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """The id an artifact will have: see the formula at the top of this file."""
    key = json.dumps([stage, version, config, dict(sorted(parents.items()))], sort_keys=True, ensure_ascii=False)
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def describe_files(path: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every payload file below `path`, by relative path, sorted."""
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p != path / MANIFEST)
    root = path.parent if path.is_file() else path
    return {p.relative_to(root).as_posix(): {"size": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, obj: Any) -> None:
    """Write JSON that is the same for the same object: sorted keys, one newline at the end."""
    path.write_text(json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError with this `hint` when it cannot be read or is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error})", hint) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object", hint)
    return found


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` in one step: after a crash it holds the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new directory that appears at `path` in one step when the block ends well, and not at all otherwise.

    The block gets a temporary sibling to write into. An existing `path` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
    except FileNotFoundError:  # so says a file system that takes no new names, as /proc
        raise PermissionError(errno.EPERM, "nothing can be made there", str(temporary)) from None
    try:
        yield temporary
        publish_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone left beside `path` when they were killed in `atomic_directory`."""
    for scrap in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        pid = scrap.name.removeprefix(f".{path.name}.").removesuffix(".tmp")
        if pid.isdigit() and not process_exists(int(pid)):
            shutil.rmtree(scrap, ignore_errors=True)


def process_exists(pid: int) -> bool:
    """Whether a process of this machine, or of this container, has that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def publish_directory(temporary: Path, path: Path) -> None:
    """Flush every file of `temporary` to the disk and rename it to `path`; an older `path` makes way first.

    Who may read the directory may read its files: safetensors writes them for their owner alone.
    """
    mode = temporary.stat().st_mode & 0o666
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(mode)
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    sync_directory(temporary)
    if path.exists():
        grave = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.rename(path, grave)
        os.rename(temporary, path)
        shutil.rmtree(grave, ignore_errors=True)
    else:
        os.rename(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nearby(path: Path) -> str:
    parent = path.parent
    names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    return suggest(path.name, names) if 0 < len(names) <= 50 else "check the path"
