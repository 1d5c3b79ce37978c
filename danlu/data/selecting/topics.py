"""What a corpus speaks of: clusters of documents and the words that set each of them apart.

Documents are clustered by their vectors (`dedup.embed` or a model's), and a word is characteristic of a cluster when
more of its documents have it than documents elsewhere have,

    score(word, cluster) = p * log(p / q)    p: share of the cluster's documents that have the word
                                             q: the same of all documents that have any word of its script

which is the word's part of the Kullback-Leibler divergence between them: common words of a language score nothing,
also beside another language, and neither does a word of one document. One formula serves both languages, only what
is a word differs:

    English and code    runs of letters, three or more
    Chinese             two to four Han characters that stand free: at either side they touch punctuation or different
                        characters ("操作系统", but neither "操作系", which "统" always follows, nor "作系统"); none
                        begins or ends with a particle ("的系统"), and of two that contain each other the longer one is
                        kept where it is nearly as frequent

Counted from a bounded number of documents a cluster and the beginning of each, and what was seen once is forgotten
from time to time: topics of any corpus fit into memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import HAN, is_han
from danlu.data.dedup.embed import Embedding
from danlu.data.dedup.semantic import assign, k_means

DOCUMENTS = 100  # counted of each cluster
CHARACTERS = 1000  # counted of each document
_MOST = 50_000  # words of a cluster remembered; about 10 MB
_SHARE = 0.6  # a longer run stands for a shorter one when it is in so many of its documents
_LONGEST = 4
_RUN = re.compile(f"[{HAN}]+|[^\\W\\d_{HAN}]{{3,}}")
_PARTICLES = frozenset(
    "的了是在和不有也就与及或这那其之为以于把被对从到我你他她它们个而所地得着过都很吗呢吧啊乎者矣焉一"
)


@dataclass(frozen=True)
class Topic:
    """One cluster: how many documents, its words from the most to the least characteristic, and typical documents."""

    documents: int
    words: list[str]
    examples: list[int]  # rows nearest to the centroid


def topics(
    texts: Iterable[str],
    vectors: NDArray[np.float32],
    *,
    clusters: int = 20,
    words: int = 10,
    examples: int = 3,
    seed: int = 1,
) -> list[Topic]:
    """The topics of a corpus, the largest first. `texts` are those of the rows of float32 [D, d], in their order."""
    centroids = k_means(vectors, clusters, seed)
    cluster = assign(vectors, centroids)
    wanted = _documents_to_count(cluster, len(centroids))
    inside = [Words() for _ in centroids]
    for row, text in enumerate(texts):
        if wanted[row]:
            inside[cluster[row]].add(text[:CHARACTERS])
    everywhere: Counter[str] = Counter()
    for own in inside:
        everywhere.update(own.documents_with)
    counted = sum(own.documents for own in inside)
    in_script = {han: sum(own.in_script[han] for own in inside) for han in (True, False)}
    sizes = np.bincount(cluster[cluster >= 0], minlength=len(centroids))
    found = []
    for number in np.argsort(-sizes, kind="stable").tolist():
        if sizes[number]:
            chosen = characteristic(inside[number], everywhere, in_script, counted, words)
            found.append(Topic(int(sizes[number]), chosen, _nearest(vectors, cluster, centroids, number, examples)))
    return found


def topics_of_texts(texts: list[str], **options: int) -> list[Topic]:
    """The same for texts in memory, with vectors made here."""
    return topics(texts, Embedding().fit(texts), **options)


class Words:
    """The words of some documents: how many documents have each, and what stands beside it."""

    def __init__(self) -> None:
        self.documents = 0
        self.in_script = {True: 0, False: 0}  # documents with words in Han, in other scripts
        self.documents_with: Counter[str] = Counter()
        self._beside: dict[str, tuple[str, str]] = {}  # Han words: up to two different characters on either side

    def add(self, text: str) -> None:
        """Count one more document."""
        self.documents += 1
        found: set[str] = set()
        for before, word, after in _words(text):
            found.add(word)
            if is_han(word[0]):
                left, right = self._beside.get(word, ("", ""))
                self._beside[word] = (_with(left, before), _with(right, after))
        self.documents_with.update(found)
        for han in {is_han(word[0]) for word in found}:
            self.in_script[han] += 1
        if len(self.documents_with) > _MOST:
            self._forget_rare()

    def _forget_rare(self) -> None:
        for word in [word for word, count in self.documents_with.items() if count == 1]:
            del self.documents_with[word]
            self._beside.pop(word, None)

    def stands_free(self, word: str) -> bool:
        """Is it a word rather than a piece of one? Punctuation at a side counts as much as two different characters."""
        return not is_han(word[0]) or all(len(side) == 2 for side in self._beside.get(word, ("", "")))


def _with(side: str, character: str) -> str:
    """One more neighbour; "" is punctuation or the end of the text."""
    return side if len(side) == 2 or (character in side and character) else (side + character if character else "^^")


def characteristic(
    own: Words, everywhere: Counter[str], in_script: dict[bool, int], all_documents: int, words: int
) -> list[str]:
    """The `words` words that set a cluster apart (of a corpus of one: its most frequent ones).

    everywhere     word -> documents that have it
    in_script      documents that have words in Han (True), in other scripts (False)
    all_documents  documents counted
    """
    scores = {}
    for word, count in own.documents_with.items():
        if count > 1 or own.documents < 5:
            p, in_all = count / own.documents, everywhere[word]
            of_its_script = p * np.log(p * in_script[is_han(word[0])] / in_all)
            of_all = p * np.log(p * all_documents / in_all)
            scores[word] = of_its_script + 0.1 * of_all + 0.001 * p  # the small ones decide where the first is silent
    best = sorted(scores, key=lambda word: (-scores[word], -len(word), word))
    best = [word for word in best[: 200 * words] if scores[word] > 0 and own.stands_free(word)]
    chosen: list[str] = []
    for word in best:
        if len(chosen) == words:
            break
        longer = [other for other in best if word in other and other != word and is_han(word[0])]
        if any(own.documents_with[other] >= _SHARE * own.documents_with[word] for other in longer):
            continue
        if not any(word in other or other in word for other in chosen if is_han(other[0])):
            chosen.append(word)
    return chosen


def document_words(text: str) -> set[str]:
    """The distinct words of a text, free or not.

    >>> sorted(document_words("Linux 内核的 API"))
    ['api', 'linux', '内核']
    """
    return {word for _, word, _ in _words(text)}


def _words(text: str) -> Iterator[tuple[str, str, str]]:
    """(character before, word, character after): "" where a run of Han characters begins or ends."""
    for run in _RUN.findall(text.lower()):
        if not is_han(run[0]):
            yield "", run, ""
            continue
        for begin in range(len(run) - 1):
            if run[begin] in _PARTICLES:
                continue
            for end in range(begin + 2, min(begin + _LONGEST, len(run)) + 1):
                if run[end - 1] not in _PARTICLES:
                    yield run[max(begin - 1, 0) : begin], run[begin:end], run[end : end + 1]


def _documents_to_count(cluster: NDArray[np.int32], clusters: int) -> NDArray[np.bool_]:
    """bool [D]: an even draw of at most DOCUMENTS rows of each cluster."""
    wanted = np.zeros(len(cluster), dtype=bool)
    for number in range(clusters):
        rows = np.flatnonzero(cluster == number)
        wanted[rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), DOCUMENTS)).astype(np.int64))]] = True
    return wanted


def _nearest(
    vectors: NDArray[np.float32], cluster: NDArray[np.int32], centroids: NDArray[np.float32], number: int, most: int
) -> list[int]:
    rows = np.flatnonzero(cluster == number)[:4096]
    nearness = np.round(np.asarray(vectors[rows]) @ centroids[number], 5)
    return [int(row) for row in rows[np.lexsort((rows, -nearness))[:most]]]
