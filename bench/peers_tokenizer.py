"""One contestant of bench/tokenizer.py in its own process: `python bench/peers_tokenizer.py NAME`.

It answers two requests (see contest.serve), both of which read texts from a file of JSON strings, one a line:

    {"load": {"tokenizer": path, "texts": path, "pattern": regex}}   -> {}          tokenizer and texts in memory
    {"encode": threads}                                              -> {"seconds", "tokens", "sha256"}
    {"train": {"texts": path, "vocab_size": n, "pattern": regex}}    -> {"seconds", "peak_bytes", "vocab_size"}

Of danlu only `danlu` imports anything but contest.py, which needs the standard library alone. What is timed is the call
that takes the list of Python strings, in the fastest form that the library offers.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import contest  # noqa: E402

SPECIAL = ["<|endoftext|>"]
Encode = Callable[[list[str], int], Any]


def read(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8") as handle:
        yield from map(json.loads, handle)


def peak_bytes() -> int:
    """The most memory this process ever held (Linux; `ru_maxrss` would begin at that of the parent)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def alphabet() -> dict[str, int]:
    """The printable byte alphabet of byte-level BPE, character to byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


# ---- encoding: each gives the function that is timed, and how its result becomes one row of ids


def load_danlu(tokenizer: str, pattern: str) -> Encode:
    from danlu.tokenizer.encoder import make_encoder
    from danlu.tokenizer.tokenizer import Tokenizer

    loaded = Tokenizer(Path(tokenizer).read_bytes())
    compiled = make_encoder(loaded.to_json().encode(), [loaded.library])
    assert compiled is not None
    return lambda texts, threads: compiled.encode(texts, threads=threads)[0]


def load_danlu_lists(tokenizer: str, pattern: str) -> Encode:
    """The same as a list of Python integers for each text, which is what the others give."""
    encode = load_danlu_pairs(tokenizer)

    def lists(texts: list[str], threads: int) -> list[list[int]]:
        ids, ends = encode(texts, threads)
        rows, bounds = ids.tolist(), ends.tolist()
        return [rows[bounds[i] : bounds[i + 1]] for i in range(len(texts))]

    return lists


def load_danlu_pairs(tokenizer: str) -> Encode:
    from danlu.tokenizer.encoder import make_encoder
    from danlu.tokenizer.tokenizer import Tokenizer

    loaded = Tokenizer(Path(tokenizer).read_bytes())
    compiled = make_encoder(loaded.to_json().encode(), [loaded.library])
    assert compiled is not None
    return lambda texts, threads: compiled.encode(texts, threads=threads)


def load_tiktoken(tokenizer: str, pattern: str) -> Encode:
    import tiktoken

    vocabulary = json.loads(Path(tokenizer).read_text(encoding="utf-8"))["model"]["vocab"]
    bytes_of = alphabet()
    ranks = {bytes(bytes_of[c] for c in name): i for name, i in vocabulary.items() if name not in SPECIAL}
    encoding = tiktoken.Encoding("danlu", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(texts: list[str], threads: int) -> list[list[int]]:
        if threads == 1:
            return [encoding.encode_ordinary(text) for text in texts]
        return encoding.encode_ordinary_batch(texts, num_threads=threads)

    return encode


def load_tokenizers(tokenizer: str, pattern: str) -> Encode:
    import os

    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(tokenizer)

    def encode(texts: list[str], threads: int) -> list[list[int]]:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        return [e.ids for e in loaded.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


# ---- training: each gives the size of the vocabulary it made


def train_danlu(texts: Iterator[str], vocab_size: int, pattern: str) -> int:
    from danlu.tokenizer.bpe import train_bpe

    return len(json.loads(train_bpe(texts, vocab_size=vocab_size, special_tokens=SPECIAL))["model"]["vocab"])


def train_rustbpe(texts: Iterator[str], vocab_size: int, pattern: str) -> int:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts, vocab_size - len(SPECIAL), pattern=pattern)
    return len(tokenizer.get_mergeable_ranks()) + len(SPECIAL)


def train_tokenizers(texts: Iterator[str], vocab_size: int, pattern: str) -> int:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return int(tokenizer.get_vocab_size())


LOADERS = {
    "danlu": load_danlu,
    "danlu, as lists": load_danlu_lists,
    "tiktoken": load_tiktoken,
    "tokenizers": load_tokenizers,
}
TRAINERS = {"danlu": train_danlu, "rustbpe": train_rustbpe, "tokenizers": train_tokenizers}


def main() -> None:
    name = sys.argv[1]
    state: dict[str, Any] = {}

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "load" in request:
            wanted = request["load"]
            state["encode"] = LOADERS[name](wanted["tokenizer"], wanted["pattern"])
            state["texts"] = list(read(wanted["texts"]))
            return {}
        if "train" in request:
            wanted = request["train"]
            start = time.perf_counter()
            size = TRAINERS[name](read(wanted["texts"]), wanted["vocab_size"], wanted["pattern"])
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "peak_bytes": peak_bytes(), "vocab_size": size}
        start = time.perf_counter()
        found = state["encode"](state["texts"], request["encode"])
        seconds = time.perf_counter() - start
        flat = array("I", found.tolist() if hasattr(found, "tolist") else [i for row in found for i in row])
        return {"seconds": seconds, "tokens": len(flat), "sha256": hashlib.sha256(flat.tobytes()).hexdigest()}

    contest.serve(handle)


if __name__ == "__main__":
    main()
