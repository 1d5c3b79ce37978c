"""Where an artifact came from, whether it is still what it was, and what nothing needs any more.

All three are walks over manifests: every manifest names its parents, so the graph is in the store itself and no
database has to be kept in step with it.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from danlu.core.artifact import Artifact, Manifest, sha256_file
from danlu.core.errors import UserError
from danlu.core.store import Store


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
    """Hash every payload file again; returns one sentence for each that is missing, changed or extra."""
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

    Checkpoints of unfinished stages are kept unless `checkpoints` is set: they are what a resume needs.
    """
    manifests = {m.id: m for m in store.manifests()}
    wanted = set(keep) | {i for ids in store.names().values() for i in ids.values()}
    reached: set[str] = set()
    while wanted:
        artifact_id = wanted.pop()
        if artifact_id not in reached:
            reached.add(artifact_id)
            wanted |= set(manifests[artifact_id].parents.values()) if artifact_id in manifests else set()
    unreached = [m for i, m in manifests.items() if i not in reached]
    scraps = [p for p in store.root.glob("*/.*.tmp") if _abandoned(p)] + list(store.root.glob("*/.*.old"))
    for work in store.root.glob("work/*"):
        if work.is_dir() and (checkpoints or work.name in manifests) and not _locked(store, work.name):
            scraps.append(work)
    return Garbage(unreached, scraps)


def collect_garbage(store: Store, garbage: Garbage) -> None:
    """Remove what `find_garbage` found, children before parents."""
    for manifest in reversed(garbage.artifacts):
        store.remove(manifest.id)
    for path in garbage.scraps:
        shutil.rmtree(path, ignore_errors=True)


def lineage_of(store: Store, spec: str) -> Ancestor:
    """`lineage` of what `spec` names; raises UserError when nothing does."""
    artifact = store.resolve(spec)
    if artifact.manifest.stage == "path":
        raise UserError(
            f"{spec} was made outside danlu, so its origin is not known", "danlu import records where it came from"
        )
    return lineage(store, artifact)


def _abandoned(path: Path) -> bool:
    """True for a temporary directory of a process that is gone (its name carries the pid)."""
    pid = path.name.split(".")[-2]
    return (pid.isdigit() and not Path(f"/proc/{pid}").exists()) or time.time() - path.stat().st_mtime > 7 * 86400


def _locked(store: Store, artifact_id: str) -> bool:
    path = store.root / "work" / f"{artifact_id}.lock"
    if not path.exists():
        return False
    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
