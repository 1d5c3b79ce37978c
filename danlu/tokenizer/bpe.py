r"""Byte-level BPE: train the vocabulary on the `tokenizers` library.

Text is cut twice. First a fixed pattern cuts it into *pieces*; then, inside a piece and never across its border,
learned merges join bytes into tokens. The pattern is part of `tokenizer.json`, so training and encoding cut in
the same places in every program that reads the file.

| piece                     | pattern                          | why                                             |
|---------------------------|----------------------------------|-------------------------------------------------|
| English contraction       | `'s`, `'ll`, ...                 | one token after any word                        |
| Han                       | 1 to `han_run` characters        | see below                                       |
| kana, Thai, Lao, Khmer... | 1 to 6 characters                | the same reason                                 |
| word                      | one leading mark or space, then letters | `·return`, `_name`, `(x`                 |
| number                    | 1 or 2 digits                    | small vocabularies have no room for 1000 triples |
| punctuation               | a space, marks, line ends        | `):\n` is one habit of code                     |
| white space               | line ends; the rest but the last blank | indentation is one token                  |

Why Han is cut short: a trainer keeps every distinct piece with its count in memory. English pieces are words and
repeat. Chinese has no spaces, so a pattern made for English yields one piece for each *clause*, nearly all of
them unique, and the table grows as fast as the corpus (the known way to lose a machine with a terabyte of
memory). Cut at two characters, the table is bounded by the pairs the language uses. Most Chinese words have two
characters or are made of such, and a verse of five or seven characters is read in steps of two.

Ties: of pairs with the same count the one with the smaller ids (left first, then right) is merged. Ids are the
special tokens, then the 256 bytes, then the merges in order. With that rule the result is a function of the
corpus alone; `reference.py` states the same algorithm in plain Python and the tests hold one against the other.

Source: Sennrich, Haddow, Birch 2016 (BPE); Radford et al. 2019 (the byte alphabet); the number rule is {1,2}
because it gave fewer bits per byte than {1,1} and {1,3} at small vocabularies in public ablations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from danlu.core.errors import UserError
from danlu.tokenizer.alphabet import BYTE_ORDER, BYTE_TO_CHARACTER, from_alphabet

HAN = r"\p{Han}"
UNSPACED = r"\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # not Han, and without spaces too
UNSPACED_RUN = 6  # not tuned; a Thai word has about four letters
HAN_RUN = 2
N_BYTES = 256
MAX_MEMORY = 1 << 30


def split_pattern(han_run: int = HAN_RUN) -> str:
    """The regular expression (Oniguruma syntax, as in `tokenizer.json`) whose matches are the pieces."""
    return "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            rf"[{HAN}]{{1,{han_run}}}",
            rf"[{UNSPACED}]{{1,{UNSPACED_RUN}}}",
            rf"[^\r\n\p{{L}}\p{{N}}]?(?:(?![{HAN}{UNSPACED}])[\p{{L}}\p{{M}}])+",
            r"\p{N}{1,2}",
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    )


def pre_tokenizer(han_run: int = HAN_RUN) -> Any:
    """`tokenizers` object that cuts text into pieces and writes their bytes in the printable byte alphabet."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            # "isolated": every match is a piece, and so is whatever lies between matches: no text can be lost
            pre_tokenizers.Split(Regex(split_pattern(han_run)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 2,
    han_run: int = HAN_RUN,
    max_memory: int = MAX_MEMORY,
    folder: Path | None = None,
    counts: dict[str, int] | None = None,
) -> str:
    """Train on `texts` (read once, streaming) and return the text of `tokenizer.json`.

    The vocabulary is smaller than `vocab_size` when the corpus has no more pairs that occur `min_frequency` times.
    `max_memory`: bytes for counting and learning (see `trainer.py`); `folder`: where what does not fit waits meanwhile,
    default a temporary one; `counts` is filled with the number of distinct pieces learned from, of those dropped for
    want of memory (0 but for the largest corpora), how often these occurred, and the files that were needed. Without a
    compiler the `tokenizers` library trains, to the same vocabulary, its memory grows with the corpus, and it counts
    nothing.

    Raises UserError when `vocab_size` has no room for the bytes and special tokens, or there is no text, and
    StageFailed when memory or disk are full.
    """
    check_size(vocab_size, special_tokens)
    seen = _Seen(texts)
    made = _compiled(seen, vocab_size, special_tokens, min_frequency, han_run, max_memory, folder, counts)
    if made is None:
        made = _by_library(seen, vocab_size, special_tokens, min_frequency, han_run)
    if not seen.any_text:
        raise UserError("the corpus holds no text to train a tokenizer on", "check what the corpus stage kept")
    return made


def check_size(vocab_size: int, special_tokens: Sequence[str], more: int = 0) -> None:
    """Raises UserError when a vocabulary has no room for the bytes, `more` tokens and the special ones."""
    floor = N_BYTES + more + len(special_tokens)
    if vocab_size < floor:
        raise UserError(
            f"vocab_size {vocab_size} is too small: {N_BYTES + more} bytes and {len(special_tokens)} special tokens "
            f"already need {floor}",
            f"set vocab_size to at least {floor}; 4096 suits a small corpus",
        )


def special(tokens: Sequence[str]) -> list[Any]:
    """Special tokens as the `tokenizers` library wants them."""
    from tokenizers import AddedToken

    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _compiled(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    min_frequency: int,
    han_run: int,
    max_memory: int,
    folder: Path | None,
    counts: dict[str, int] | None,
) -> str | None:
    from danlu.tokenizer.encoder import make_encoder
    from danlu.tokenizer.trainer import Trainer

    names = [*special_tokens, *(BYTE_TO_CHARACTER[byte] for byte in BYTE_ORDER)]
    if len(set(names)) < len(names):
        return None  # a special token that is also a byte: the library knows what to do
    vocabulary = {name: token_id for token_id, name in enumerate(names)}
    start = _tokenizer(vocabulary, [], special_tokens, han_run)
    encoder = make_encoder(start.to_str().encode(), [start])
    if encoder is None:
        return None
    tokens = {from_alphabet(name): token_id for name, token_id in vocabulary.items()}
    with TemporaryDirectory(dir=folder) as runs:
        with Trainer(encoder, tokens, folder=Path(runs), budget=max_memory) as trainer:
            trainer.add(texts)
            learned = trainer.learn(next_id=len(names), room=vocab_size - len(names), min_frequency=min_frequency)
    merges: list[tuple[str, str]] = []
    for left, right, joined in learned.merges.tolist():
        merges.append((names[left], names[right]))
        if joined == len(names):
            names.append(names[left] + names[right])
    vocabulary = {name: token_id for token_id, name in enumerate(names)}
    if counts is not None:
        counts.update(learned.counts())
    return str(_tokenizer(vocabulary, merges, special_tokens, han_run).to_str(pretty=True))


def _by_library(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], min_frequency: int, han_run: int
) -> str:
    from tokenizers import pre_tokenizers, trainers

    tokenizer = _tokenizer({}, [], (), han_run)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=special(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return str(tokenizer.to_str(pretty=True))


def _tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], special_tokens: Sequence[str], han_run: int
) -> Any:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer(han_run)
    tokenizer.decoder = decoders.ByteLevel()
    if special_tokens:
        tokenizer.add_special_tokens(special(special_tokens))
    return tokenizer


class _Seen:
    """Passes texts through and remembers whether one of them was not empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.any_text = False

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.any_text = self.any_text or bool(text.strip())
            yield text
