"""Label models, agreement, the queue and Label Studio's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.labelling.agreement import cohen_kappa, krippendorff_alpha
from danlu.data.labelling.label_studio import Task, interface, read_tasks, write_tasks
from danlu.data.labelling.model import ABSTAIN, dawid_skene, majority
from danlu.data.labelling.queue import choose, uncertainty


def planted(skills: list[float], n: int = 600, classes: int = 3, speak: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, n)
    votes = np.full((n, len(skills)), ABSTAIN)
    for v, skill in enumerate(skills):
        right = random.random(n) < skill
        said = np.where(right, truth, (truth + random.integers(1, classes, n)) % classes)
        votes[:, v] = np.where(random.random(n) < speak, said, ABSTAIN)
    return truth, votes


def test_good_voters_are_found_out_and_beat_the_majority() -> None:
    skills = [0.95, 0.9, 0.45, 0.45, 0.4]
    truth, votes = planted(skills)
    found = dawid_skene(votes, 3)
    ours = (found.labels == truth)[~found.unlabelled].mean()
    theirs = (majority(votes, 3).argmax(axis=1) == truth)[~found.unlabelled].mean()
    assert ours > theirs + 0.05 and ours > 0.9
    learned = found.confusion.trace(axis1=1, axis2=2) / 3
    assert np.allclose(learned, skills, atol=0.08)
    assert np.allclose(found.probabilities.sum(axis=1), 1)


def test_votes_by_hand() -> None:
    votes = np.array([[0, 0, 1], [1, ABSTAIN, ABSTAIN], [ABSTAIN] * 3])
    assert majority(votes, 2).tolist() == [[2 / 3, 1 / 3], [0, 1], [0.5, 0.5]]
    found = dawid_skene(votes, 2)
    assert found.labels.tolist() == [0, 1, ABSTAIN] and found.unlabelled.tolist() == [False, False, True]


_RATINGS = st.lists(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=3, max_size=3), min_size=2, max_size=15)


@given(_RATINGS, st.sampled_from(["nominal", "interval"]))
def test_alpha_is_that_of_the_krippendorff_package(ratings: list[list[int | None]], level: str) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    matrix = np.array([[np.nan if r is None else r for r in row] for row in ratings], dtype=float)
    ours = krippendorff_alpha(matrix, level)  # type: ignore[arg-type]
    paired = matrix[(~np.isnan(matrix)).sum(axis=1) >= 2]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(krippendorff.alpha(matrix.T, level_of_measurement=level))


def test_kappa_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(1)
    a, b = random.integers(0, 3, 50), random.integers(0, 3, 50)
    assert cohen_kappa(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b))
    assert cohen_kappa(a, a) == 1.0 and np.isnan(cohen_kappa(np.zeros(3, int), np.zeros(3, int)))


def test_the_queue_takes_doubtful_documents_and_no_two_alike() -> None:
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [1.0, 0.0]])
    doubt = uncertainty(p)
    assert doubt.tolist() == pytest.approx([1, 1, 0.2, 0.8, 0])
    texts = ["床前明月光疑是地上霜", "床前明月光疑是地上霜", "白日依山尽", "the quick brown fox", "certain"]
    assert choose(texts, doubt, 10) == [0, 3, 2]  # the copy is not asked about, nor what is certain
    assert choose(texts, doubt, 10, diversity=False) == [0, 1, 3, 2] and choose([], np.empty(0), 3) == []


def test_a_round_trip_through_label_studio(tmp_path: Path) -> None:
    tasks = [Task("a", '丹 "炉"', "good", 0.75, {"1": "good", "ann@x.org": "bad"}), Task("b", "text")]
    assert write_tasks(tmp_path / "tasks.json", tasks) == 2
    assert read_tasks(tmp_path / "tasks.json") == tasks
    assert interface(["good", 'b"d']).count("<Choice ") == 2


def test_exports_as_label_studio_writes_them(tmp_path: Path) -> None:
    choice = {"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": ["good"]}, "id": "x"}
    row = {
        "id": 17, "data": {"id": "a", "text": "t"}, "project": 3, "predictions": [],
        "annotations": [
            {"id": 1, "completed_by": {"id": 4, "email": "e@x.org"}, "was_cancelled": False, "result": [choice]},
            {"id": 2, "completed_by": 5, "was_cancelled": True, "result": [choice]},
            {"id": 3, "completed_by": 6, "result": []},
        ],
    }  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps([row]))
    assert read_tasks(tmp_path / "export.json") == [Task("a", "t", votes={"e@x.org": "good"})]
    for broken in ("{", "[1]", '[{"data": {}}]', "3"):
        (tmp_path / "export.json").write_text(broken)
        with pytest.raises(UserError):
            read_tasks(tmp_path / "export.json")
