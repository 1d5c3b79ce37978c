"""Classifiers on texts these tests write: Chinese and English, lessons against advertisements."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import UserError
from danlu.data.quality.classifier import Classifier, Kind, train, train_on
from danlu.data.quality.features import featurize
from danlu.data.quality.metrics import roc_auc

LESSON = [
    "因为三角形的内角和是一百八十度",
    "所以我们先证明这个定理",
    "The proof follows from the definition",
    "为什么水会结冰",
    "consider the next example in detail",
    "光合作用把二氧化碳变成糖",
]
ADVERT = [
    "点击领取优惠券",
    "加微信免费送好礼",
    "buy now and save big",
    "限时特价全场包邮",
    "click here for a free offer",
    "关注公众号抽大奖",
]


def texts(n: int, seed: int = 0, mixed: float = 0.3) -> tuple[list[str], list[bool]]:
    """Texts with some sentences of the other kind, so that no single word decides."""
    draw = random.Random(seed)
    found, labels = [], []
    for _ in range(n):
        good = draw.random() < 0.5
        own, other = (LESSON, ADVERT) if good else (ADVERT, LESSON)
        found.append("。".join(draw.choice(own if draw.random() > mixed else other) for _ in range(6)))
        labels.append(good)
    return found, labels


@pytest.mark.parametrize("kind", ["logistic", "bayes", "forest"])
def test_each_kind_learns_and_survives_saving(kind: Kind, tmp_path: Path) -> None:
    if kind == "forest":
        pytest.importorskip("sklearn")
    model = train(kind, *texts(300), **({"trees": 20} if kind == "forest" else {}))
    fresh, labels = texts(200, seed=1)
    scores = model.scores(fresh)
    assert scores.dtype == np.float32 and scores.shape == (200,) and ((scores >= 0) & (scores <= 1)).all()
    assert roc_auc(np.array(labels), scores) > (0.8 if kind == "forest" else 0.9)
    model.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"classifier.json", "classifier.safetensors"}
    assert np.array_equal(Classifier.load(tmp_path).scores(fresh), scores)
    assert np.array_equal(train(kind, *texts(300), **({"trees": 20} if kind == "forest" else {})).scores(fresh), scores)
    assert len(model.scores([])) == 0 and np.isfinite(model.scores(["", "。。。", "\ud800"])).all()


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    sparse = pytest.importorskip("scipy.sparse")
    some, labels = texts(120)
    rows = featurize(some, 1 << 12)
    good = np.array(labels)
    matrix = sparse.csr_matrix((rows.values.astype(float), rows.buckets, rows.indptr), shape=(120, rows.width))
    theirs = linear.LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8, max_iter=1000).fit(matrix, good)
    # They minimise Σ weight_i · loss_i + |w|²/2 with Σ weight = 120; ours is the mean, so the penalty is 1/120.
    ours = train_on("logistic", rows, good)
    assert np.allclose(ours.scores_of(rows), theirs.predict_proba(matrix)[:, 1], atol=2e-3)


def test_the_forest_scores_as_scikit_learn_does() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    some, labels = texts(150)
    rows = featurize(some, 1 << 12)
    good = np.array(labels)
    theirs = ensemble.RandomForestClassifier(15, max_depth=6, random_state=3, class_weight="balanced").fit(
        rows.dense(), good
    )
    ours = train_on("forest", rows, good, trees=15, depth=6, seed=3)
    assert np.allclose(ours.scores_of(rows), theirs.predict_proba(rows.dense())[:, 1], atol=1e-5)


def test_features_by_hand() -> None:
    rows = featurize(["丹 炉 丹 炉", "", "丹炉"], 1 << 12)
    assert np.diff(rows.indptr).tolist() == [6, 0, 3]  # 丹, 炉; 丹炉, 炉丹; 丹炉丹, 炉丹炉
    assert np.allclose((rows.dense() ** 2).sum(axis=1), [1, 0, 1])
    weights = np.arange(rows.width, dtype=float)
    assert np.allclose(rows.dot(weights), rows.dense() @ weights)
    assert np.allclose(rows.back(np.array([1.0, 2.0, 3.0])), rows.dense().T @ np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(rows.take(np.array([2, 0])).dense(), rows.dense()[[2, 0]])


def test_one_class_or_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="good and bad"):
        train("logistic", ["a", "b"], [True, True])
    with pytest.raises(UserError):
        Classifier.load(tmp_path)
    (tmp_path / "classifier.json").write_text('{"kind": "logistic", "width": 4, "version": 1}')
    (tmp_path / "classifier.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        Classifier.load(tmp_path)
