from __future__ import annotations

import json

import pytest

from danlu.core.errors import UserError
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.gguf import HUGGING_FACE, tokenizer_from_gguf
from danlu.tokenizer.to_gguf import CUTS, tokenizer_metadata
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.test_gguf import sentencepiece, small


@pytest.mark.parametrize("name", CUTS)
def test_a_tokenizer_that_came_from_gguf_goes_back(name: str) -> None:
    metadata = small(pre=name)
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer is not None
    written = tokenizer_metadata(tokenizer, 264)
    assert written.exact and HUGGING_FACE not in written.metadata
    kept = {key: value for key, value in metadata.items() if written.metadata.get(key) != value}
    assert kept == {}


def test_scores_from_merges() -> None:
    """SentencePiece: the scores are others, the ids the same."""
    tokenizer = tokenizer_from_gguf(sentencepiece())
    assert tokenizer is not None
    written = tokenizer_metadata(tokenizer, tokenizer.vocab_size)
    assert written.exact
    assert written.metadata["tokenizer.ggml.model"] == "llama"
    assert written.metadata["tokenizer.ggml.add_space_prefix"] is True
    assert written.metadata["tokenizer.ggml.token_type"] == sentencepiece()["tokenizer.ggml.token_type"]
    again = tokenizer_from_gguf(written.metadata)
    assert again is not None
    for text in ("Hello world, in the and 中文", "  the   end", "re-on\n"):
        assert again.encode(text) == tokenizer.encode(text)


def test_a_pattern_that_llama_cpp_does_not_know() -> None:
    """danlu's own tokenizers: danlu reads them back exactly, and the report says how far llama.cpp will."""
    texts = ["春江潮水连海平，海上明月共潮生。" * 20, "the quick brown fox jumps over the lazy dog 1234 5678 " * 20]
    tokenizer = Tokenizer(
        train_bpe(texts, vocab_size=400, special_tokens=["<|endoftext|>"]), {"eos_token": "<|endoftext|>"}
    )
    written = tokenizer_metadata(tokenizer, 512)
    assert not written.exact
    again = tokenizer_from_gguf(written.metadata)
    assert again is not None and again.fingerprint == tokenizer.fingerprint
    assert again.eos_id == tokenizer.eos_id


def test_refusals() -> None:
    tokenizer = tokenizer_from_gguf(small())
    assert tokenizer is not None
    with pytest.raises(UserError, match="264 tokens and the model rows for 200"):
        tokenizer_metadata(tokenizer, 200)
    pieces = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    words = Tokenizer(json.dumps({"version": "1.0", "added_tokens": [], "model": pieces}))
    with pytest.raises(UserError, match=r"cannot hold this tokenizer \(WordLevel\)"):
        tokenizer_metadata(words, 10)
