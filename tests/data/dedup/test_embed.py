"""Vectors of texts: length one, near for texts in the same words, in both languages."""

from __future__ import annotations

import numpy as np

from danlu.data.dedup.embed import Embedding, _features, normalised

TEXTS = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "床前明月光，疑是地上霜。举头望山月，低头思故乡。",
    "The scheduler assigns a time slice to every process.",
    "The scheduler assigns one time slice to every process.",
    "内核为每个进程分配一个时间片。",
    "，。！",
]


def _vectors(texts: list[str], batch: int = 1 << 18) -> np.ndarray:
    embedding = Embedding()
    embedding.count(texts)
    return np.concatenate(list(embedding.vectors(texts)))


def test_texts_in_the_same_words_are_near() -> None:
    vectors = _vectors(TEXTS)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.6 and cosines[2, 3] > 0.6
    assert np.abs(cosines[[0, 0, 2], [2, 4, 4]]).max() < 0.35  # 1/sqrt(256) is 0.06
    assert np.allclose(np.linalg.norm(vectors[:5], axis=1), 1, atol=1e-5) and not vectors[5].any()


def test_the_projection_keeps_cosines() -> None:
    """Against the cosines of the weights themselves, not projected."""
    random = np.random.default_rng(0)
    words = [chr(0x4E00 + k) for k in range(400)]
    texts = ["".join(random.choice(words, 80)) for _ in range(30)]
    texts += [text[:60] + "".join(random.choice(words, 20)) for text in texts]
    embedding = Embedding()
    embedding.count(texts)
    vectors = np.concatenate(list(embedding.vectors(texts)))
    assert (Embedding().fit(texts) == vectors).all()
    features, documents, times, _ = _features(next(iter(embedding._batches(texts))))
    assert embedding._idf is not None
    full = np.zeros((60, 1 << 18), dtype=np.float32)
    full[documents, features] = (1 + np.log(times)) * embedding._idf[features]
    full = normalised(full)
    errors = (vectors @ vectors.T) - (full @ full.T)
    assert np.sqrt((errors[~np.eye(60, dtype=bool)] ** 2).mean()) < 0.08


def test_features_by_hand() -> None:
    one, two = np.array([5, 6, 5, 6], dtype=np.uint64), np.array([], dtype=np.uint64)
    features, documents, times, _ = _features([two, one, one[:1]])
    assert documents.tolist() == [1, 1, 1, 1, 2] and sorted(times[:4].tolist()) == [1, 2, 2, 2]  # 5 6 56 65
    assert features[4] in features[:4]


def test_batches_do_not_matter() -> None:
    together = _vectors(TEXTS)
    embedding = Embedding()
    for text in TEXTS[::-1]:
        embedding.count([text])
    alone = np.concatenate([vectors for text in TEXTS for vectors in embedding.vectors([text])])
    assert np.allclose(together, alone, atol=1e-6)
