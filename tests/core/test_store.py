from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from danlu.core.artifact import MANIFEST, Artifact, Manifest, describe_files
from danlu.core.errors import StageFailed, UserError
from danlu.core.lineage import collect_garbage, find_garbage, lineage, verify
from danlu.core.store import Store, explain_disk_errors, open_store


@pytest.fixture(params=["local", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "cache"))
    urls = {
        "local": str(tmp_path / "s"),
        "file": f"file://{tmp_path}/s",
        "memory": f"memory://{uuid.uuid4().hex}/s",
    }
    return open_store(urls[request.param])


def put(store: Store, artifact_id: str, text: str = "x", parents: dict[str, str] | None = None) -> Artifact:
    with store.new_directory(artifact_id) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file.txt").write_text(text)
        kind = artifact_id.split("-")[0]
        manifest = Manifest(kind, artifact_id, "toys.x", "1", {}, parents or {}, describe_files(directory))
        return store.publish(directory, manifest)


A, B, C = "corpus-aaaaaaaaaaaaaaaa", "tokens-bbbbbbbbbbbbbbbb", "tokens-bbcccccccccccccc"


def test_put_and_get(store: Store) -> None:
    assert store.get(A) is None and store.manifests() == []
    put(store, A, "hello")
    found = store.get(A)
    assert found is not None and (found.path / "sub" / "file.txt").read_text() == "hello"
    assert [m.id for m in store.manifests()] == [A] and store.manifests("model") == []
    store.remove(A)
    assert store.get(A) is None and store.manifests() == []


def test_resolve_by_id_prefix_and_name(store: Store) -> None:
    for i in (A, B, C):
        put(store, i)
    store.set_name("base", B)
    store.set_name("base@prod", A)
    assert store.resolve(A).id == A
    assert store.resolve("corpus-aa").id == A and store.resolve("aaaa").id == A
    assert store.resolve("base").id == B and store.resolve("base@prod").id == A
    store.set_name("base", C)
    assert store.resolve("base").id == C and store.resolve("base@prod").id == A


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("tokens-bb", None, "fits 2 artifacts"),
        ("bse", None, 'did you mean "base"'),
        ("base@prd", None, 'did you mean "prod"'),
        ("base", "model", "is a tokens, and a model is needed"),
        ("./nothing", None, "does not exist"),
    ],
)
def test_what_cannot_be_resolved_is_said(store: Store, spec: str, kind: str | None, message: str) -> None:
    for i in (A, B, C):
        put(store, i)
    store.set_name("base", B)
    store.set_name("base@prod", A)
    with pytest.raises(UserError, match=message):
        store.resolve(spec, kind)


def test_names_that_cannot_be(store: Store) -> None:
    put(store, A)
    for name in ("", "a/b", "..", "x@", "x@y z"):
        with pytest.raises(UserError, match="cannot be a name"):
            store.set_name(name, A)


def test_a_directory_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        with store.new_directory(A) as directory:
            (directory / "file").write_text("half")
            raise RuntimeError
    assert store.get(A) is None and store.manifests() == []
    assert list((tmp_path / "corpus").iterdir()) == []


def test_two_machines_share_a_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "one"))
    put(open_store(url), A, "shared")
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "two"))
    other = open_store(url)
    found = other.get(A)
    assert found is not None and (found.path / "sub" / "file.txt").read_text() == "shared"
    assert str(found.path).startswith(str(tmp_path / "two"))
    other.remove(A)
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "one"))
    assert open_store(url).get(A) is None  # although its cache still has the files


def test_an_upload_without_manifest_is_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path))
    store = open_store(f"memory://{uuid.uuid4().hex}")
    put(store, A)
    store.fs.rm_file(f"{store.base}/corpus/{A}/{MANIFEST}")  # type: ignore[attr-defined]
    assert store.get(A) is None and store.manifests() == []


def test_lineage_goes_to_the_source(store: Store) -> None:
    put(store, A)
    put(store, B, parents={"corpus": A})
    tree = lineage(store, put(store, C, parents={"tokens": B, "corpus": A}))
    assert list(tree.flatten()) == [A, B, C]
    assert tree.parents["tokens"].parents["corpus"].id == A


def test_verify_names_what_changed(tmp_path: Path) -> None:
    artifact = put(Store(tmp_path), A, "hello")
    assert verify(artifact) == []
    (artifact.path / "sub" / "file.txt").write_text("jello")
    assert verify(artifact) == ["sub/file.txt has changed: its sha256 differs from the manifest"]
    (artifact.path / "sub" / "file.txt").write_text("hell")
    assert "4 bytes instead of 5" in verify(artifact)[0]
    (artifact.path / "sub" / "file.txt").unlink()
    assert "is missing" in verify(artifact)[0]


def test_gc_keeps_what_a_name_needs(store: Store) -> None:
    put(store, A)
    put(store, B, parents={"corpus": A})
    put(store, C)
    store.set_name("base", B)
    garbage = find_garbage(store)
    assert [m.id for m in garbage.artifacts] == [C]
    collect_garbage(store, garbage)
    assert store.get(C) is None and store.get(A) is not None and store.get(B) is not None


def test_gc_sweeps_up_after_a_killed_process_but_keeps_checkpoints(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, theirs = (tmp_path / "model" / f".model-1.{pid}.tmp" for pid in (os.getpid(), dead.pid))
    for path in (mine, theirs, store.work("model-1")):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    assert find_garbage(store).scraps == [theirs]
    assert set(find_garbage(store, checkpoints=True).scraps) == {theirs, store.work("model-1")}


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from danlu.core.store import Store\n"
        f"with Store({str(tmp_path)!r}).lock({A!r}):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), Store(tmp_path).lock(A):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Store(tmp_path).lock(A):
        pass


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="is full"), explain_disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="cannot be written"), explain_disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANLU_STORE", raising=False)
    assert open_store().root == Path(".danlu")
    monkeypatch.setenv("DANLU_STORE", str(tmp_path))
    assert open_store().root == tmp_path
    assert open_store("elsewhere").root == Path("elsewhere")
    with pytest.raises(UserError, match="cannot be opened"):
        open_store("nosuchprotocol://x")


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_store(str(tmp_path / "file"))


def test_disk_errors_about_other_places_are_not_blamed_on_the_store(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explain_disk_errors(tmp_path / "s"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input.txt"))
    with pytest.raises(UserError, match="cannot be written"), explain_disk_errors(tmp_path / "s"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "s" / "model"))
    with pytest.raises(StageFailed, match="is full"), explain_disk_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # how safetensors says it


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EPERM, "no", "/s"), FileNotFoundError(errno.ENOENT, "no", "/s")]
)
def test_a_place_that_cannot_be_made_is_named(error: OSError) -> None:
    with pytest.raises(UserError, match="the store /s/a/b cannot be written"), explain_disk_errors(Path("/s/a/b")):
        raise error
    with pytest.raises(FileNotFoundError), explain_disk_errors(Path("/s")):
        raise FileNotFoundError(errno.ENOENT, "a file that was to be read", "/s/a")


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"kind": '])
def test_one_damaged_manifest_does_not_stop_everything(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    put(store, A)
    (put(store, B).path / MANIFEST).write_text(damage)
    assert [m.id for m in store.manifests()] == [A] and store.resolve("corpus-aa").id == A
    assert len(store.damaged()) == 1 and B in store.damaged()[0]
    with pytest.raises(UserError, match="is damaged"):
        store.get(B)
    with pytest.raises(UserError, match="is damaged"):  # its parents are not known, so nothing is sure to be garbage
        find_garbage(store)
    assert store.get(A) is not None


def test_a_damaged_name_is_said(store: Store) -> None:
    put(store, A)
    store.set_name("base", A)
    store._write_name(store.root / "names" / "base.json", b"{}")
    with pytest.raises(UserError, match=r"base[.]json is damaged"):
        store.names()


def test_gc_leaves_what_a_run_needs(store: Store) -> None:
    put(store, A)
    put(store, B)
    with store.using([B]):
        garbage = find_garbage(store)
        assert [m.id for m in garbage.artifacts] == [A] and garbage.scraps == []
        with store.using([A]):  # began after the garbage was found
            collect_garbage(store, garbage)
        assert store.get(A) is not None
    assert {m.id for m in find_garbage(store).artifacts} == {A, B}


def test_gc_removes_torn_files_and_asks_the_lock_of_a_build(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    torn = tmp_path / "names" / f".base.json.{dead.pid}.tmp"
    building = tmp_path / "corpus" / f".{A}.{dead.pid}.tmp"  # a process of another container: its pid means nothing
    torn.parent.mkdir()
    torn.write_text("{")
    building.mkdir(parents=True)
    with store.lock(A):
        collect_garbage(store, find_garbage(store))
        assert building.exists() and not torn.exists()
    collect_garbage(store, find_garbage(store))
    assert not building.exists()


def test_names_of_any_script(store: Store) -> None:
    put(store, A)
    store.set_name("诗人@一", A)
    assert store.resolve("诗人").id == store.resolve("诗人@一").id == A


def test_the_manifest_of_a_remote_artifact_does_not_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "one"))
    put(open_store(url), A)
    monkeypatch.setenv("DANLU_CACHE", str(tmp_path / "two"))
    found = open_store(url).manifest(A)
    assert found is not None and found.id == A and open_store(url).manifest(B) is None
    assert not (tmp_path / "two").exists()


def test_a_payload_file_may_be_called_like_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / MANIFEST, tmp_path / "sub" / MANIFEST):
        path.write_text("{}")
    assert list(describe_files(tmp_path)) == [f"sub/{MANIFEST}"]
