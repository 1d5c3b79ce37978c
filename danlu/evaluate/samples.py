"""Which documents are the cases: a sample that is a function of the corpus and a seed, and of nothing else.

Held-out text is taken as whole documents until a number of bytes is reached. A document's place in the queue is a
hash of its id, so the sample does not depend on the order of files, and a larger one contains the smaller one.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError

if TYPE_CHECKING:
    from danlu.data.document import Document


def held_out(corpus: Artifact | Path, max_bytes: int, seed: int = 0) -> list[Document]:
    """Held-out documents of a corpus. Raises UserError when it holds none."""
    from danlu.data.document import read_documents

    require_held_out(corpus)
    return take(read_documents(corpus, "validation"), max_bytes, seed)


def require_held_out(corpus: Artifact | Path) -> None:
    """Raises UserError when a corpus holds no held-out documents. Reads one."""
    from danlu.data.document import read_documents

    if next(read_documents(corpus, "validation"), None) is None:
        raise UserError("the corpus has no held-out documents", "build it with a share of documents for validation")


def training(corpus: Artifact | Path, max_bytes: int, seed: int = 0) -> list[Document]:
    """A sample of the training documents, for baselines that have to be trained."""
    from danlu.data.document import read_documents

    return take(read_documents(corpus, "train"), max_bytes, seed)


def take(documents: Iterable[Document], max_bytes: int, seed: int = 0) -> list[Document]:
    """The shortest run of documents, in the order of their hashes, that reaches `max_bytes`; all if none does.

    The last one may go beyond: stopping before it would leave a sample of one short document where a long one is
    next. One pass: a heap keeps the documents with the smallest hashes, and lets one go when those before it fill
    the sample without it.
    """
    heap: list[tuple[int, str, int, Document]] = []  # negated hash: the largest hash is on top
    total = 0
    for document in documents:
        size = len(document.text.encode("utf-8", "replace"))
        heapq.heappush(heap, (-_place(document.id, seed), document.id, size, document))
        total += size
        while total - heap[0][2] >= max_bytes:
            total -= heapq.heappop(heap)[2]
    return [entry[3] for entry in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def documents_of_source(spec: str) -> list[Document]:
    """The texts of a file, a folder or a named source, every one held out: for text that was never split."""
    from danlu.data.document import Document, document_id
    from danlu.data.formats.extract import Item
    from danlu.data.language import detect
    from danlu.data.sources.find import find_files

    documents = []
    for file in find_files(spec):
        for item in file.read():
            if isinstance(item, Item) and item.text.strip():
                language = item.language or detect(item.text)
                name = document_id(file.source, file.name, item.text)
                documents.append(Document(name, item.text, language, file.source, file.licence))
    if not documents:
        raise UserError(f'there is no text in "{spec}"', "give a corpus, a text file or a folder of them")
    return documents


def _place(identity: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{identity}".encode(), digest_size=8).digest(), "big")
