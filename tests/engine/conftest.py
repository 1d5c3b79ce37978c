"""A real tokenizer trained on a few lines, and a model that speaks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from danlu.model.transformer import Transformer
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.tokenizer import Tokenizer, make_config
from tests.engine.models import make_model

TEXT = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "def quicksort(items):\n    return items\n",
    "The quick brown fox jumps over the lazy dog. Tokens cross every border. stop ### stop",
    "👍🏽 👨‍👩‍👧 🇨🇳 naïve café",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for two threads to help: waiting for each other costs more than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level BPE of 300 tokens, so that Chinese and emoji are spread over several of them."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    config = make_config(eos_token="<|endoftext|>", special_tokens=special, chat_template=TEMPLATE)
    return Tokenizer(train_bpe(TEXT * 3, vocab_size=300, special_tokens=special), config)


@pytest.fixture(scope="session")
def talker(tokenizer: Tokenizer) -> tuple[Transformer, Tokenizer]:
    """A model whose vocabulary is padded beyond the tokenizer's, as real ones are."""
    return make_model("gqa", vocab_size=tokenizer.vocab_size + 12), tokenizer
