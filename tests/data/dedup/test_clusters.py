"""Clusters against brute force, and the same for any memory, order of input, and place where a run was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.core.text import shingles
from danlu.data.dedup import clusters as module
from danlu.data.dedup import walk
from danlu.data.dedup.bands import band_keys
from danlu.data.dedup.clusters import agreements_for, near_duplicates
from danlu.data.dedup.minhash import clusters
from danlu.data.dedup.native import library
from danlu.data.dedup.signature import signatures, text_shingles
from danlu.data.dedup.tables import Tables
from tests.data.dedup.signatures import planted, some_keys

ROOT = Path(__file__).parents[3]


def _brute_force(rows: np.ndarray, keys: np.ndarray, threshold: float, guarded: int = 0) -> np.ndarray:
    """Components of all pairs that share a band and agree often enough: smallest id (guarded first), by position."""
    bands = band_keys(rows, range(32))
    order = sorted(range(len(rows)), key=lambda i: (i >= guarded, keys[i]))
    pairs = [
        (a, b)
        for a in range(len(order))
        for b in range(a + 1, len(order))
        if (bands[:, order[a]] == bands[:, order[b]]).any()
        and (rows[order[a]] == rows[order[b]]).sum() >= agreements_for(threshold)
        and not (order[a] < guarded and order[b] < guarded)
    ]
    roots = clusters(len(rows), pairs)
    out = np.empty(len(rows), dtype=np.int64)
    out[order] = np.array(order)[roots]
    return out


def shingles_of(texts: list[str]) -> Callable[[np.ndarray], Iterator[np.ndarray]]:
    """Shingles of 3 units, as `verify` asks for them."""
    return lambda wanted: (np.unique(text_shingles(texts[i], "zh")) for i in np.flatnonzero(wanted))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 40), near=st.sampled_from([0.55, 0.7, 0.9, 1.0]))
def test_near_clusters_are_those_of_exact_similarity(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, near: float
) -> None:
    """Families of edited texts: components of all pairs whose exact similarity reaches the threshold."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        units = (
            random.choice(list("天地玄黄宇宙洪荒日月盈昃辰宿列张"), 60) if not texts or random.random() < 0.3 else None
        )
        units = list(texts[random.integers(len(texts))]) if units is None else list(units)
        for place in random.integers(0, 60, random.integers(0, 5)):
            units[place] = "改"
        texts.append("".join(units))
    sets = [set(shingles(text, 3)) for text in texts]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    alike = [(i, j) for i, j in pairs if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= near]
    rows, keys = signatures(texts, ["zh"] * count), np.arange(count, dtype=np.uint64)
    work = tmp_path_factory.mktemp("work")
    found = near_duplicates([rows], keys, work, near=near, shingles=shingles_of(texts))
    assert found.near.tolist() == clusters(count, alike).tolist()
    again = near_duplicates([rows], keys, work, near=near, shingles=shingles_of(texts), memory_bytes=1)
    assert (again.near == found.near).all() and again.compared < max(found.compared, 1) * 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 60), guarded=st.integers(0, 10), most=st.floats(0.2, 0.9))
def test_clusters_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, guarded: int, most: float
) -> None:
    rows, keys, guarded = planted(count, seed, share=0.6, most=most), some_keys(count, seed), min(guarded, count)
    found = near_duplicates([rows], keys, tmp_path_factory.mktemp("work"), guarded=guarded)
    assert found.near.tolist() == _brute_force(rows, keys, 0.7, guarded).tolist()
    assert found.loose.tolist() == _brute_force(rows, keys, 0.5, guarded).tolist()
    assert not found.dropped[:guarded].any()
    assert (found.loose[found.near] == found.loose).all()  # near clusters lie inside loose ones
    agreement = (rows == rows[found.near]).sum(axis=1) if count else np.empty(0)
    assert found.agreement.tolist() == agreement.tolist()
    assert found.sizes().tolist() == [int((found.near == root).sum()) for root in found.near]


def test_neither_memory_nor_order_of_input_nor_compiler_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, keys = planted(3000, seed=3), some_keys(3000)
    rows[100:900] = rows[100]  # one bucket that is larger than the small budget below
    rows[2000:2100, :4] = 7  # and one whose members have nothing else in common
    path = tmp_path / "signatures.u32"
    path.write_bytes(rows.tobytes())
    usual = near_duplicates([rows], keys, tmp_path / "a")
    monkeypatch.setattr(module, "_SMALLEST", 1 << 14)
    small = near_duplicates([path], keys, tmp_path / "b", memory_bytes=1)
    shuffle = np.random.default_rng(5).permutation(3000)
    other = near_duplicates([rows[shuffle[:777]], rows[shuffle[777:]]], keys[shuffle], tmp_path / "c")
    monkeypatch.setattr(walk, "library", lambda: None)
    python = near_duplicates([rows], keys, tmp_path / "d")
    for found in (small, python):
        for name in ("near", "loose", "agreement"):
            assert (getattr(found, name) == getattr(usual, name)).all()
        assert found.compared == usual.compared
    assert (shuffle[other.near] == usual.near[shuffle]).all()
    assert (shuffle[other.loose] == usual.loose[shuffle]).all()
    for band in range(32):
        file = f"edges-{band:02d}.spill"
        assert len({(tmp_path / run / file).read_bytes() for run in "abcd"}) == 1
    assert not list((tmp_path / "a").glob("band-*"))


def test_band_keys_of_numpy_and_of_the_library_are_equal() -> None:
    if library() is None:
        pytest.skip("no compiler")
    rows = planted(50, seed=4)
    assert (band_keys(rows, [0, 5, 31]) == band_keys(rows, [0, 5, 31], compiled=False)).all()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from danlu.data.dedup import clusters
    from tests.data.dedup.signatures import planted, some_keys
    walk_band = clusters._walk_band
    def until(tables, order, walk, band, *rest):
        if band == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        walk_band(tables, order, walk, band, *rest)
    clusters._walk_band = until
    clusters.near_duplicates([planted(2000, 6)], some_keys(2000), Path(sys.argv[1]))
"""


def test_killed_between_bands_and_continued(tmp_path: Path) -> None:
    rows, keys = planted(2000, 6), some_keys(2000)
    undisturbed = near_duplicates([rows], keys, tmp_path / "a")
    for band in (7, 20):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "b"), str(band)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
        assert len(list((tmp_path / "b").glob("edges-*.spill"))) == band
    continued = near_duplicates([rows], keys, tmp_path / "b")
    assert continued.compared < undisturbed.compared
    _same_work(tmp_path / "a", tmp_path / "b")
    assert (continued.near == undisturbed.near).all() and (continued.loose == undisturbed.loose).all()


def _same_work(one: Path, two: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_damaged_files_are_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, keys = planted(1000, 8), some_keys(1000)
    undisturbed = near_duplicates([rows], keys, tmp_path / "a")
    near_duplicates([rows], keys, tmp_path / "b")
    edges = tmp_path / "b" / "edges-03.spill"
    edges.write_bytes(edges.read_bytes()[:-30])
    # A file of records that is as long as it should be, with one bit wrong: noticed only when it has been read.
    assert near_duplicates([rows], keys, tmp_path / "b").near.tolist() == undisturbed.near.tolist()
    for band in range(9, 32):
        (tmp_path / "b" / f"edges-{band:02d}.spill").unlink()
    real = module.spill_bands

    def damaging(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        file = next((tmp_path / "b").glob("band-12-*"))
        data = bytearray(file.read_bytes())
        data[100] ^= 4
        file.write_bytes(bytes(data))
        monkeypatch.setattr(module, "spill_bands", real)

    monkeypatch.setattr(module, "spill_bands", damaging)
    assert near_duplicates([rows], keys, tmp_path / "b").near.tolist() == undisturbed.near.tolist()
    _same_work(tmp_path / "a", tmp_path / "b")


def test_other_inputs_begin_anew(tmp_path: Path) -> None:
    rows, keys = planted(500, 9), some_keys(500)
    near_duplicates([rows], keys, tmp_path / "b")
    other = planted(500, 10)
    again = near_duplicates([other], keys, tmp_path / "b", near=0.8)
    assert (again.near == near_duplicates([other], keys, tmp_path / "c", near=0.8).near).all()


def test_100_000_equal_documents_cost_100_000_comparisons(tmp_path: Path) -> None:
    rows = np.tile(planted(1, 1, share=0), (100_000, 1))
    found = near_duplicates([rows], some_keys(100_000), tmp_path)
    assert found.dropped.sum() == 99_999 and found.compared < 210_000  # one each, and one each for the agreement


def test_100_000_documents_with_one_common_band_stay_linear(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 1 << 32, (100_000, 128), dtype=np.uint32)
    rows[:, 40:44] = 1
    rows[60_000] = rows[5]  # a pair in the crowd is found by its other bands
    found = near_duplicates([rows], some_keys(100_000), tmp_path)
    assert found.compared < 25 * 100_000 + 1000
    assert found.dropped.sum() == 1 and found.near[60_000] in (5, 60_000)


def test_documents_without_units_are_like_nothing(tmp_path: Path) -> None:
    rows = np.zeros((3000, 128), dtype=np.uint32)
    rows[1000:2000] = 2**32 - 1
    found = near_duplicates([rows], some_keys(3000), tmp_path / "a")
    assert not found.dropped.any() and not found.compared
    nothing = near_duplicates([rows[:0]], some_keys(0), tmp_path / "b")
    assert len(nothing.near) == 0


def test_a_protected_corpus_drops_and_is_not_dropped(tmp_path: Path) -> None:
    rows = planted(20, 12, share=0)
    protected = np.stack([rows[0], rows[0], rows[1]])
    found = near_duplicates([protected, rows], some_keys(23), tmp_path, guarded=3)
    assert found.dropped.tolist() == [False] * 3 + [True, True] + [False] * 18
    assert found.near[3] in (0, 1) and found.near[4] == 2


def test_near_above_one_drops_nothing_and_groups_still(tmp_path: Path) -> None:
    rows = np.repeat(planted(10, 13, share=0), 2, axis=0)
    found = near_duplicates([rows], some_keys(20), tmp_path, near=1.01)
    assert not found.dropped.any() and len(set(found.loose.tolist())) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [({"near": 0.4}, "loose"), ({"loose": 0.0}, "any two"), ({"guarded": 11}, "guarded")],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        near_duplicates([planted(10, 1)], some_keys(10), tmp_path, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="ids"):
        near_duplicates([planted(10, 1)], some_keys(9), tmp_path)


def test_the_walker_refuses_records_out_of_order() -> None:
    rows, order = planted(4, 1), np.arange(4, dtype=np.uint32)
    for make in (walk.CompiledWalker, walk.PythonWalker) if library() else (walk.PythonWalker,):
        one = make(Tables([rows]), order, order.copy(), order.copy(), walk.Rules(90, 64))
        with pytest.raises(Exception, match="ascending"):
            one.feed(np.array([[1, 0, 0], [0, 5, 1]], dtype=np.uint32))


MEMORY = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from danlu.data.dedup.clusters import near_duplicates
    from danlu.data.dedup.native import library
    from tests.data.dedup.signatures import some_keys
    library()
    keys = some_keys(int(sys.argv[3]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = near_duplicates([Path(sys.argv[1])], keys, Path(sys.argv[2]), memory_bytes=32 << 20)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, int(found.dropped.sum()))
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    """120,000 signatures are 61 MB, their records 46 MB; 32 MB are allowed for everything."""
    count = 120_000
    with (tmp_path / "signatures.u32").open("wb") as file:
        for seed in range(6):
            file.write(planted(count // 6, seed).tobytes())
    command = [sys.executable, "-c", textwrap.dedent(MEMORY)]
    command += [str(tmp_path / "signatures.u32"), str(tmp_path / "work"), str(count)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    grown, dropped = map(int, done.stdout.split())
    assert grown < 45 and dropped > 10_000  # the interpreter's own growth is in it


def test_recall_and_precision_against_exact_jaccard_and_datasketch(tmp_path: Path) -> None:
    """Chinese and English pages with edited copies: clusters hold what exact Jaccard says, at least as datasketch."""
    datasketch = pytest.importorskip("datasketch")
    random = np.random.default_rng(4)
    texts: list[str] = []
    for alphabet, joiner in (
        ("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳", ""),
        ("abcdefgh", " "),
    ):
        words = list(alphabet) if not joiner else [a + b + c for a in alphabet for b in alphabet for c in alphabet]
        for _ in range(80):
            page = [words[i] for i in random.integers(0, len(words), 120)]
            copy = list(page)
            for place in random.integers(0, 120, random.integers(1, 12)):
                copy[place] = words[0]
            texts += [joiner.join(page), joiner.join(copy)]
    sets = [set(shingles(text, 3)) for text in texts]
    exact = [len(sets[i] & sets[i + 1]) / len(sets[i] | sets[i + 1]) for i in range(0, len(texts), 2)]
    index = datasketch.MinHashLSH(threshold=0.7, num_perm=128)
    theirs = 0
    sketches = []
    for number, shingle_set in enumerate(sets):
        sketch = datasketch.MinHash(num_perm=128)
        sketch.update_batch([shingle.encode() for shingle in shingle_set])
        index.insert(number, sketch)
        sketches.append(sketch)
    rows = signatures(texts, ["zh"] * len(texts))  # shingles of 3 units, in both languages
    found = near_duplicates([rows], some_keys(len(texts)), tmp_path / "estimated")
    exactly = near_duplicates([rows], some_keys(len(texts)), tmp_path / "exact", shingles=shingles_of(texts))
    assert exactly.verified > 20
    for pair, similarity in enumerate(exact):
        assert (exactly.near[2 * pair] == exactly.near[2 * pair + 1]) == (similarity >= 0.7), similarity
    ours = 0
    alike = [pair for pair, j in enumerate(exact) if j >= 0.7]
    for pair in alike:
        i = 2 * pair
        ours += int(found.near[i] == found.near[i + 1])
        theirs += int(i + 1 in index.query(sketches[i]) and sketches[i].jaccard(sketches[i + 1]) >= 0.7)
    wrong = [pair for pair, j in enumerate(exact) if j < 0.5 and found.near[2 * pair] == found.near[2 * pair + 1]]
    assert len(alike) > 60 and not wrong
    assert ours >= theirs - 3 and ours >= 0.85 * len(alike)  # at the threshold itself the estimate is a coin
    loose = sum(int(found.loose[2 * pair] == found.loose[2 * pair + 1]) for pair in alike)
    assert loose == len(alike)
    pages = found.near // 2
    assert (pages == np.arange(len(texts)) // 2).all()  # different pages are never joined
