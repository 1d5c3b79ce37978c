"""A store behind an fsspec URL: object stores, other machines, `memory://` in tests.

Stages read and write plain local files, so a remote store is a local one with a mirror behind it:

    build      in the local cache directory, exactly as in a local store
    publish    upload the payload, then `artifact.json` last: where the manifest is, everything is
    get        the remote manifest decides whether an artifact exists; the payload is fetched once and kept

The cache is never asked whether something exists, so two machines with one bucket agree. Scratch and locks stay
local: they are of use only to the machine that runs the stage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from danlu.core.artifact import MANIFEST, Artifact, Manifest, atomic_directory
from danlu.core.errors import UserError
from danlu.core.store import Store, kind_of, read_name


class RemoteStore(Store):
    """A store at an fsspec URL, with a cache under DANLU_CACHE (default `~/.cache/danlu`)."""

    def __init__(self, url: str) -> None:
        import fsspec

        cache = Path(os.environ.get("DANLU_CACHE", "~/.cache/danlu")).expanduser()
        super().__init__(cache / "stores" / hashlib.sha256(url.encode()).hexdigest()[:16])
        self.url = url
        try:
            self.fs, path = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(
                f'the store "{url}" cannot be opened ({error})', "check the URL and its fsspec driver"
            ) from None
        self.base = path.rstrip("/")

    def _remote(self, *parts: str) -> str:
        return "/".join((self.base, *parts))

    def get(self, artifact_id: str) -> Artifact | None:
        remote = self._remote(kind_of(artifact_id), artifact_id)
        manifest = self._read(remote)
        if manifest is None:
            return None
        local = self.path(artifact_id)
        if not (local / MANIFEST).exists() or Manifest.read(local).content != manifest.content:
            self._fetch(remote, manifest, local)
        return Artifact.open(local)

    def manifest(self, artifact_id: str) -> Manifest | None:
        return self._read(self._remote(kind_of(artifact_id), artifact_id))

    def _places(self, kind: str | None) -> list[str]:
        return [str(path).rsplit("/", 1)[0] for path in self.fs.glob(self._remote(kind or "*", "*", MANIFEST))]

    def publish(self, directory: Path, manifest: Manifest) -> Artifact:
        artifact = super().publish(directory, manifest)
        remote = self._remote(kind_of(manifest.id), manifest.id)
        for name in (*sorted(manifest.files), MANIFEST):  # the manifest goes last
            target = f"{remote}/{name}"
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self.fs.put_file(str(artifact.path / name), target)
        return artifact

    def remove(self, artifact_id: str) -> None:
        remote = self._remote(kind_of(artifact_id), artifact_id)
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{remote}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(remote, recursive=True)
        super().remove(artifact_id)

    def names(self) -> dict[str, dict[str, str]]:
        found = {}
        for path in sorted(self.fs.glob(self._remote("names", "*.json"))):
            found[Path(path).stem] = read_name(self.fs.cat_file(path), str(path))
        return found

    def _write_name(self, path: Path, data: bytes) -> None:
        target = self._remote("names", path.name)
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self.fs.pipe_file(target, data)

    def _read(self, place: str) -> Manifest | None:
        try:
            return Manifest.from_json(json.loads(self.fs.cat_file(f"{place}/{MANIFEST}")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{place}/{MANIFEST} is damaged ({error})", "remove that directory there") from None

    def _fetch(self, remote: str, manifest: Manifest, local: Path) -> None:
        with atomic_directory(local) as directory:
            for name in (*manifest.files, MANIFEST):
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(f"{remote}/{name}", str(directory / name))
