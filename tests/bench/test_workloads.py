"""The requests of the contest: the same for everybody, other ones in every round."""

from __future__ import annotations

import hashlib
import random

import pytest

from bench import heldout
from bench.workloads import WORKLOADS, p99_gap
from danlu.engine.measure import Trace


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_is_a_workload(name: str) -> None:
    make = WORKLOADS[name].play
    assert make(random.Random("a 1")) == make(random.Random("a 1"))
    assert make(random.Random("a 1")).jobs != make(random.Random("a 2")).jobs
    assert all(100 <= token < 40000 for job in make(random.Random("a")).jobs for token in job.prompt)


def test_sizes() -> None:
    concurrent = WORKLOADS["concurrent"].play(random.Random("x"))
    assert len(concurrent.jobs) == 32 and not concurrent.warm
    assert all(64 <= len(job.prompt) <= 512 and 32 <= job.new <= 256 for job in concurrent.jobs)
    shared = WORKLOADS["shared"].play(random.Random("x"))
    assert len({tuple(job.prompt[:1024]) for job in [*shared.jobs, *shared.warm]}) == 1
    assert len({tuple(job.prompt) for job in [*shared.jobs, *shared.warm]}) == 33
    unshared, uncached = (WORKLOADS[name].play(random.Random("x")) for name in ("unshared", "uncached"))
    assert unshared.jobs == uncached.jobs and unshared.cache and not uncached.cache
    assert len({job.prompt[0] for job in unshared.jobs}) > 20
    assert [len(job.prompt) for job in unshared.jobs] == [len(job.prompt) for job in shared.jobs]


def test_the_intruder_disturbs_the_steady_streams() -> None:
    steady, intruder = (WORKLOADS[name].play(random.Random("x")) for name in ("steady", "intruder"))
    assert intruder.jobs[:-1] == steady.jobs
    assert len(intruder.jobs[-1].prompt) == 2048 and intruder.jobs[-1].after == 32
    quiet = Trace(1, 0.0, [1] * 101, [0.01 * i for i in range(101)])
    torn = Trace(1, 0.0, [1] * 101, [0.01 * i + (2.0 if i > 50 else 0.0) for i in range(101)])
    intruder_itself = Trace(2048, 0.0, [1], [5.0])
    assert p99_gap([quiet, intruder_itself]) == pytest.approx(0.01)
    assert p99_gap([torn, torn]) == pytest.approx(0.01 + 2.0 * 0.01, abs=0.03)
    assert p99_gap([torn] * 2 + [Trace(1, 0.0, [1, 1], [0.0, 2.0])] * 2) == pytest.approx(2.0, abs=0.02)


def test_the_held_out_text() -> None:
    texts = heldout.texts()
    assert set(texts) == {"English", "Chinese", "Python"}
    assert all(heldout.BYTES * 0.9 < len(text.encode()) <= heldout.BYTES for text in texts.values())
    assert "def " in texts["Python"]
    # Nobody edits this one: results that are there could not be compared with new ones any more.
    chinese = hashlib.sha256(texts["Chinese"].encode()).hexdigest()
    assert chinese == "bd9c7dae1baa5c5b1b897027cae24cc770510b26ff48b23abb2f87d9a7165e34"
    pieces = heldout.windows(list(range(1025)))
    assert [len(piece) for piece in pieces] == [512, 512], "the last id alone predicts nothing"
