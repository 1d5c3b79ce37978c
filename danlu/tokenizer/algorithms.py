"""Unigram and WordPiece, beside the byte-level BPE that danlu's models use: for comparison, and for who needs them.

| algorithm | how a piece is cut                                                  | how it is trained              |
|-----------|---------------------------------------------------------------------|--------------------------------|
| bpe       | merges in the order they were learned (bpe.py)                      | most frequent pair, repeatedly |
| unigram   | the most probable row of tokens, P = product of token probabilities | many candidates, pruned by EM  |
| wordpiece | the longest token from the left, and again                          | as BPE                         |

All three cut text with the same pattern, Han short, and work on the 256 bytes in their printable alphabet. So all three
can encode every text and give it back: the usual forms cannot. A Unigram over characters has an unknown token. BERT's
WordPiece lower-cases, drops white space, writes "##" before a token that continues a word, which a text may write too,
and turns a word it cannot spell, or one of more than 100 characters, into [UNK]. A model must not be trained on text
that cannot be restored, and instead of refusing WordPiece here it is made whole:

- a token that continues a piece begins with U+203F "‿", which is not in the byte alphabet, so nothing else looks so;
- all 256 bytes are tokens, at the beginning of a piece and inside one, so there is nothing unknown;
- a last cut makes pieces of at most 100 bytes: WordPiece tries every length and is cubic in the piece.

Training is the `tokenizers` library's and keeps every distinct piece in memory, and Unigram ten times that. So both
take at most `SAMPLE_BYTES` of text, the first of what they get, and say how much that was; the stage gives them no
more than that, documents from all over the corpus (see train.py).

Training a Unigram is the one thing in this room that is not the same to the byte when done again: the library adds up
probabilities in an order of its own, and tokens that are equally good change places.

Source: Kudo 2018 (Unigram), Schuster and Nakajima 2012 (WordPiece).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from danlu.core.errors import UserError
from danlu.tokenizer.alphabet import BYTE_ORDER, BYTE_TO_CHARACTER
from danlu.tokenizer.bpe import HAN_RUN, N_BYTES, check_size, pre_tokenizer, special

CONTINUES = "\u203f"
LONGEST_WORD = 100  # bytes
SAMPLE_BYTES = 50_000_000
_ALPHABET = [BYTE_TO_CHARACTER[byte] for byte in BYTE_ORDER]


def train_unigram(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    han_run: int = HAN_RUN,
    counts: dict[str, int] | None = None,
) -> str:
    """The text of a `tokenizer.json` with a byte-level Unigram model. Raises UserError as `train_bpe` does."""
    from tokenizers import Tokenizer, decoders, models, trainers

    check_size(vocab_size, special_tokens)
    sample = _Sample(texts)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizer(han_run)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special(special_tokens), initial_alphabet=_ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(sample, trainer)
    sample.finish(counts)
    return str(tokenizer.to_str(pretty=True))


def train_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 2,
    han_run: int = HAN_RUN,
    counts: dict[str, int] | None = None,
) -> str:
    """The text of a `tokenizer.json` with a WordPiece model that loses nothing. Raises UserError like `train_bpe`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    check_size(vocab_size, special_tokens, N_BYTES)
    sample = _Sample(texts)
    tokenizer = Tokenizer(models.WordPiece(vocab={}, unk_token=_ALPHABET[0], max_input_chars_per_word=LONGEST_WORD))
    short = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST_WORD}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer(han_run), short])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(CONTINUES, ""), decoders.ByteLevel()])
    # Named beforehand, so that all of them are there and in this order: the trainer's own would be that of a hash.
    inside = [CONTINUES + character for character in _ALPHABET]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special([*special_tokens, *inside]),
        initial_alphabet=_ALPHABET,
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    sample.finish(counts)
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["model"] |= {"continuing_subword_prefix": CONTINUES, "max_input_chars_per_word": LONGEST_WORD}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in inside]
    return json.dumps(state, indent=2, ensure_ascii=False)


class _Sample:
    """Texts up to `SAMPLE_BYTES`, the first one whatever its size."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.bytes, self.documents = texts, 0, 0
        self.any_text = False

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            if self.bytes >= SAMPLE_BYTES:
                break
            self.bytes += len(text.encode("utf-8", "replace"))
            self.documents += 1
            self.any_text = self.any_text or bool(text.strip())
            yield text

    def finish(self, counts: dict[str, int] | None) -> None:
        if not self.any_text:
            raise UserError("the corpus holds no text to train a tokenizer on", "check what the corpus stage kept")
        if counts is not None:
            counts |= {"sample_bytes": self.bytes, "sample_documents": self.documents}
