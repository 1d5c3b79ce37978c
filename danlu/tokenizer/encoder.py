r"""The compiled encoder: which tokenizers it can stand in for, and how texts reach it.

    tokenizer.json --make_encoder--> Encoder --encode(texts)--> ids uint32 [N], offsets int64 [texts + 1]

The `tokenizers` library runs every tokenizer there is: any pattern as a regular expression, any model. Nearly all
text-to-id work is done for a few of them, byte-level BPE with one of the patterns below, and for those `cpp/` does the
same several times faster. Same means the same ids for every text, and the tests hold that. What is known is a table:

| pattern                      | families                                             | in scan.h |
|------------------------------|------------------------------------------------------|-----------|
| ByteLevel's own              | GPT-2, and its many heirs                            | GPT2      |
| Digits or `\p{N}`, then that | SmolLM2, StarCoder                                   | DIGITS    |
| `\p{N}{1,3}` between words   | Llama 3, cl100k                                      | LLAMA 3   |
| `\p{N}` between words        | Qwen2, Qwen2.5, Qwen3                                | LLAMA 1   |
| Han cut short                | danlu's own (bpe.py), for every `han_run`            | DANLU     |

Whatever else a file asks for (another pattern or model, dropout, a normaliser besides NFC, added tokens that strip
blanks) makes `make_encoder` answer None, and the caller takes the library. A single text goes to it as well when it
holds a character that Unicode got after 2021, or one that NFC could change where the file asks for NFC: there the
library's own tables decide (see characters.py). That is the only place where the choice is made.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core import native
from danlu.tokenizer.alphabet import from_alphabet
from danlu.tokenizer.bpe import split_pattern

TOKENIZER = native.Native(
    "tokenizer", Path(__file__).parent / "cpp", ("tokenizer.cpp",), "the tokenizers library is, which is slower"
)
GPT2, DIGITS, LLAMA, DANLU = range(4)

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
# What a file's cuts may be (see `_cuts`), and (pattern, k) of scan.h.
CUTS: dict[tuple[str, ...], tuple[int, int]] = {
    (_GPT2,): (GPT2, 0),
    (r"\p{N}", _GPT2): (DIGITS, 0),
    (_CONTRACTIONS[0] + _WORD + r"|\p{N}{1,3}" + _REST,): (LLAMA, 3),
    (_CONTRACTIONS[0] + _WORD + r"|\p{N}" + _REST,): (LLAMA, 1),
    **{(split_pattern(run),): (DANLU, run) for run in range(1, 17)},
}
Encoded = tuple[np.ndarray, np.ndarray]
THREADS_FROM = 1 << 16  # bytes; below that a second thread costs more than it brings


class Encoder:
    """Ids of texts by compiled code. Safe to share between threads; the GIL is not held while it works."""

    def __init__(self, library: ctypes.CDLL, handle: int, libraries: Sequence[Any]) -> None:
        self.library, self.handle, self._libraries = library, handle, libraries

    def __del__(self) -> None:
        self.library.danlu_encoder_free(self.handle)

    def encode(self, texts: Sequence[str], *, added: int = 0, threads: int | None = None) -> Encoded:
        """Ids of all texts in a row, uint32 [N], and where each begins and the last one ends, int64 [texts + 1].

        `added`: which of the tokenizers given to `make_encoder` says what tokens there are besides the vocabulary.
        The texts must be ones that UTF-8 can hold. Raises UnicodeEncodeError for others, MemoryError.
        """
        encoded = [text.encode() for text in texts]
        n, lengths = len(encoded), np.array([len(data) for data in encoded], np.uint64)
        n_bytes = int(lengths.sum())
        counts = np.empty(n, np.int64)
        out = np.empty(n_bytes, np.uint32)
        if threads is None:
            threads = n_threads() if n_bytes >= THREADS_FROM else 1
        places = (ctypes.c_char_p * n)(*encoded)
        total = self.library.danlu_encoder_encode(
            self.handle, added, places, lengths.ctypes.data, n, threads, out.ctypes.data, counts.ctypes.data
        )
        if total < 0:
            raise MemoryError("no memory to encode in")
        ids = out[:total].copy()
        if n and counts.min() < 0:
            ids = self._with_library(texts, self._libraries[added], ids, counts)
        return ids, np.concatenate([[0], np.cumsum(counts)])

    def encode_one(self, text: str, *, added: int = 0) -> list[int]:
        """`encode` of one text, as a list: less to set up, for prompts."""
        data = text.encode()
        n = len(data)
        if n >= THREADS_FROM:
            return self.encode([text], added=added)[0].tolist()
        out, count = (ctypes.c_uint32 * n)(), ctypes.c_int64()
        place, length = ctypes.c_char_p(data), ctypes.c_uint64(n)
        total = self.library.danlu_encoder_encode(
            self.handle, added, ctypes.byref(place), ctypes.byref(length), 1, 1, out, ctypes.byref(count)
        )
        if total < 0:
            raise MemoryError("no memory to encode in")
        if count.value < 0:
            return list(self._libraries[added].encode(text, add_special_tokens=False).ids)
        return out[:total]

    def pieces(self, text: str) -> list[bytes]:
        """How the text is cut before merging (added tokens are not looked for)."""
        data = text.encode()
        ends = np.empty(len(data), np.uint64)
        n = self.library.danlu_encoder_cut(self.handle, data, len(data), ends.ctypes.data)
        starts = [0, *ends[: n - 1].tolist()] if n else []
        return [data[start:end] for start, end in zip(starts, ends[:n].tolist(), strict=True)]

    def pieces_by_library(self, text: str) -> list[bytes]:
        """The same from the library, for texts with characters that are left to it."""
        library = self._libraries[0]
        if library.normalizer is not None:
            text = library.normalizer.normalize_str(text)
        return [from_alphabet(piece) for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)]

    def _with_library(self, texts: Sequence[str], library: Any, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Puts what the library says of the texts with count -1 between the others, and their counts into `counts`."""
        parts: list[np.ndarray] = []
        at = 0
        for i, text in enumerate(texts):
            if counts[i] < 0:
                parts.append(np.array(library.encode(text, add_special_tokens=False).ids, np.uint32))
                counts[i] = len(parts[-1])
            else:
                parts.append(ids[at : at + counts[i]])
                at += int(counts[i])
        return np.concatenate(parts)


def n_threads() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_encoder(tokenizer_json: bytes, tokenizers: Sequence[Any]) -> Encoder | None:
    """The compiled encoder of a tokenizer.json, None where there is none for it or no compiled code at all.

    `tokenizers`: one or two `tokenizers.Tokenizer` of this vocabulary, which may differ in their added tokens.
    """
    library = load()
    if library is None:
        return None
    state = json.loads(tokenizer_json)
    model, normalizer = state["model"], state.get("normalizer")
    cuts = CUTS.get(_cuts(state.get("pre_tokenizer")))
    if cuts is None or not _plain_bpe(model) or (normalizer is not None and normalizer["type"] != "NFC"):
        return None
    added = [(i, *entry) for i, t in enumerate(tokenizers) for entry in t.get_added_tokens_decoder().items()]
    for _, _, token in added:
        if token.lstrip or token.rstrip or token.single_word or (normalizer and not token.content.isascii()):
            return None
    vocabulary: dict[str, int] = model["vocab"]
    merges = model["merges"]
    tokens = "\n".join(vocabulary).encode()
    pairs = " ".join(merges if not merges or isinstance(merges[0], str) else chain.from_iterable(merges)).encode()
    ids = np.fromiter(vocabulary.values(), np.uint32, len(vocabulary))
    whole_words = bool(model.get("ignore_merges"))
    vocabulary_arguments = (tokens, len(tokens), ids.ctypes.data, len(ids), pairs, len(pairs), len(merges))
    handle = library.danlu_encoder_new(*cuts, normalizer is not None, whole_words, *vocabulary_arguments)
    if not handle:
        return None
    encoder = Encoder(library, handle, tokenizers)
    for i, token_id, token in added:
        name = token.content.encode()
        skipped = token.special and tokenizers[i].encode_special_tokens
        if name and library.danlu_encoder_add(handle, i, name, len(name), token_id, token.normalized, skipped):
            return None
    return encoder


def _plain_bpe(model: dict[str, Any]) -> bool:
    return model["type"] == "BPE" and not any(
        model.get(key)
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token", "byte_fallback")
    )


def _cuts(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """The patterns by which a byte-level pre-tokenizer cuts, in turn; () for one that does something else."""
    parts = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if not parts or parts[-1]["type"] != "ByteLevel" or parts[-1]["add_prefix_space"]:
        return ()
    cuts: list[str] = []
    for part in parts[:-1]:
        if part["type"] == "Digits" and part["individual_digits"]:
            cuts.append(r"\p{N}")
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            cuts.append(part["pattern"].get("Regex", ""))
        else:
            return ()
    if parts[-1]["use_regex"]:
        cuts.append(_GPT2)
    return tuple(cut.replace(_CONTRACTIONS[1], _CONTRACTIONS[0]) for cut in cuts)


def load() -> ctypes.CDLL | None:
    """The compiled code of this room with the types of its functions, None where it cannot be had."""
    library = native.load(TOKENIZER)
    return None if library is None else _declared(library)


@cache
def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    number, identifier, result64 = ctypes.c_int, ctypes.c_uint32, ctypes.c_int64
    signatures: dict[str, tuple[Any, ...]] = {
        "encoder_new": (pointer, *(number,) * 4, text, size, pointer, size, text, size, size),
        "encoder_free": (None, pointer),
        "encoder_add": (number, pointer, number, text, size, identifier, number, number),
        "encoder_encode": (result64, pointer, number, pointer, pointer, size, size, pointer, pointer),
        "encoder_cut": (size, pointer, text, size, pointer),
        "classes": (None, pointer),
        "trainer_new": (pointer, pointer, text, size),
        "trainer_free": (None, pointer),
        "trainer_add": (number, pointer, pointer, pointer, size, size, pointer),
        "trainer_add_piece": (number, pointer, text, size, size),
        "trainer_token": (number, pointer, text, size, identifier),
        "trainer_learn": (result64, pointer, identifier, identifier, size),
        "trainer_result": (None, pointer, pointer, pointer),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, f"danlu_{name}")
        function.restype, function.argtypes = result, arguments
    return library
