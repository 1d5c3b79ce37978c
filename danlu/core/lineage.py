"""Where an artifact came from, whether it is still what it was, and what nothing needs any more.

All three are walks over manifests: every manifest names its parents, so the graph is in the store itself and no
database has to be kept in step with it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from danlu.core.artifact import Artifact, Manifest, process_exists, sha256_file
from danlu.core.errors import UserError
from danlu.core.store import Store, is_locked


@dataclass(frozen=True)
class Ancestor:
    """One node of a lineage tree: the manifest (None when it is no longer in the store) and its parents by role."""

    id: str
    manifest: Manifest | None
    parents: dict[str, Ancestor] = field(default_factory=dict)

    def flatten(self) -> dict[str, Ancestor]:
        """Every node of the tree once, parents before children."""
        found: dict[str, Ancestor] = {}
        for parent in self.parents.values():
            found |= {k: v for k, v in parent.flatten().items() if k not in found}
        return found | {self.id: self}


def lineage(store: Store, artifact: Artifact) -> Ancestor:
    """The tree of everything `artifact` was made from, down to the stages that read the outside world."""
    known = {m.id: m for m in store.manifests()} | {artifact.id: artifact.manifest}

    def walk(artifact_id: str) -> Ancestor:
        manifest = known.get(artifact_id)
        parents = manifest.parents if manifest else {}
        return Ancestor(artifact_id, manifest, {role: walk(parent) for role, parent in parents.items()})

    return walk(artifact.id)


def verify(artifact: Artifact) -> list[str]:
    """Hash every payload file again; returns one sentence for each that is missing or changed."""
    problems = []
    for name, info in sorted(artifact.manifest.files.items()):
        path = artifact.path / name if artifact.path.is_dir() else artifact.path
        if not path.exists():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != info["size"]:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {info['size']}")
        elif sha256_file(path) != info["sha256"]:
            problems.append(f"{name} has changed: its sha256 differs from the manifest")
    return problems


@dataclass(frozen=True)
class Garbage:
    """What gc found: artifacts that no name leads to, and scratch that no running process holds."""

    artifacts: list[Manifest]
    scraps: list[Path]

    @property
    def bytes(self) -> int:
        """How much removing it would free."""
        return sum(m.size for m in self.artifacts) + sum(_size(path) for path in self.scraps)


def find_garbage(store: Store, keep: Iterable[str] = (), checkpoints: bool = False) -> Garbage:
    """Everything that neither a name, an alias, nor an ancestor of a named artifact holds on to.

    What a run in progress needs is held on to as well. Checkpoints of unfinished stages are kept unless
    `checkpoints` is set: they are what a resume needs. Raises UserError when a manifest cannot be read, since nobody
    knows then what that artifact was made from.
    """
    for sentence in store.damaged():
        raise UserError(sentence, "remove that directory by hand first; nothing was removed")
    manifests = {m.id: m for m in store.manifests()}
    wanted = set(keep) | store.in_use() | {i for ids in store.names().values() for i in ids.values()}
    reached: set[str] = set()
    while wanted:
        artifact_id = wanted.pop()
        if artifact_id not in reached:
            reached.add(artifact_id)
            wanted |= set(manifests[artifact_id].parents.values()) if artifact_id in manifests else set()
    unreached = [m for i, m in manifests.items() if i not in reached]
    scraps = [p for p in store.root.glob("*/.*.tmp") if _abandoned(store, p)] + list(store.root.glob("*/.*.old"))
    scraps += [p for p in store.root.glob("work/*.uses") if not is_locked(p)]
    for work in store.root.glob("work/*"):
        if work.is_dir() and (checkpoints or work.name in manifests) and not _being_built(store, work.name):
            scraps.append(work)
    return Garbage(unreached, scraps)


def collect_garbage(store: Store, garbage: Garbage) -> None:
    """Remove what `find_garbage` found, children before parents."""
    used = store.in_use()  # a run may have begun since the garbage was found
    for manifest in reversed(garbage.artifacts):
        if manifest.id not in used:
            store.remove(manifest.id)
    for path in garbage.scraps:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lineage_of(store: Store, spec: str) -> Ancestor:
    """`lineage` of what `spec` names; raises UserError when nothing does."""
    artifact = store.resolve(spec)
    if artifact.manifest.stage == "path":
        raise UserError(
            f"{spec} was made outside danlu, so its origin is not known", "danlu import records where it came from"
        )
    return lineage(store, artifact)


def _abandoned(store: Store, path: Path) -> bool:
    """True for what a process left that is gone: the name carries the artifact's id and the process's pid.

    A pid means nothing in another container, the lock of the id does; so one held lock is enough to keep it.
    """
    name, pid = path.name.removeprefix(".").removesuffix(".tmp").rpartition(".")[::2]
    gone = (pid.isdigit() and not process_exists(int(pid))) or time.time() - path.stat().st_mtime > 7 * 86400
    return gone and not _being_built(store, name)


def _being_built(store: Store, artifact_id: str) -> bool:
    return is_locked(store.root / "work" / f"{artifact_id}.lock")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files if p.is_file())
