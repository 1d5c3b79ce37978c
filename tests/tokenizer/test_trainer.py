"""The compiled trainer: the library's and the reference's merges, bounded memory, nothing left behind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import StageFailed
from danlu.tokenizer import bpe, encoder
from danlu.tokenizer.alphabet import BYTE_ORDER, BYTE_TO_CHARACTER
from danlu.tokenizer.reference import train_reference
from danlu.tokenizer.trainer import Learned, Trainer, learn_in_python
from tests.tokenizer.shared import SPECIAL, TEXTS

pytestmark = pytest.mark.skipif(encoder.load() is None, reason="no compiler here")
ROOM = 1 << 30


def learn(
    texts: Sequence[str], folder: Path, *, budget: int = ROOM, room: int = 200, min_frequency: int = 1
) -> Learned:
    names = [BYTE_TO_CHARACTER[byte] for byte in BYTE_ORDER]
    start = bpe._tokenizer({name: i for i, name in enumerate(names)}, [], (), bpe.HAN_RUN)
    compiled = encoder.make_encoder(start.to_str().encode(), [start])
    assert compiled is not None
    tokens = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    with Trainer(compiled, tokens, folder=folder, budget=budget) as trainer:
        trainer.add(texts)
        return trainer.learn(next_id=256, room=room, min_frequency=min_frequency)


def words_of(texts: Sequence[str]) -> dict[tuple[int, ...], int]:
    start = bpe.pre_tokenizer()
    ids = {BYTE_TO_CHARACTER[byte]: i for i, byte in enumerate(BYTE_ORDER)}
    return dict(Counter(tuple(ids[c] for c in piece) for t in texts for piece, _ in start.pre_tokenize_str(t)))


@pytest.mark.parametrize("min_frequency", [1, 2, 5])
def test_the_bytes_are_those_of_the_library(min_frequency: int) -> None:
    code = [f.read_text(encoding="utf-8") for f in sorted(Path(json.__file__).parent.glob("*.py"))]
    texts = [*TEXTS, *code, (Path(__file__).parents[2] / "README.zh-CN.md").read_text(encoding="utf-8"), "\U00031350x"]
    ours = bpe.train_bpe(texts, vocab_size=2000, special_tokens=SPECIAL, min_frequency=min_frequency)
    assert ours == bpe._by_library(texts, 2000, SPECIAL, min_frequency, bpe.HAN_RUN)


def test_a_special_token_that_is_a_word_or_a_byte() -> None:
    """What the library does with them: a merge that spells one gives its id; a byte has one id only."""
    for special in (["ab", "<|end|>"], ["a"]):
        ours = bpe.train_bpe(["ab ab abc"] * 3, vocab_size=262, special_tokens=special)
        assert ours == bpe._by_library(["ab ab abc"] * 3, 262, special, 2, bpe.HAN_RUN)


few_letters = st.lists(st.text("ab 明月\n", max_size=24), max_size=8)


@settings(max_examples=40, deadline=None)
@given(few_letters, st.integers(1, 3))
def test_any_corpus_learns_as_the_reference_and_the_slow_one(tmp_path_factory: Any, texts: list[str], n: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    learned = learn(texts, folder, room=30, min_frequency=n)
    words = words_of(texts)
    tokens = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    assert [tuple(m) for m in learned.merges.tolist()] == learn_in_python(
        words, tokens, next_id=256, room=30, min_frequency=n
    )
    counts = {bytes(BYTE_ORDER[i] for i in word): count for word, count in words.items()}
    spelled, merges = train_reference(counts, 286, min_frequency=n)
    assert [(spelled[left], spelled[right]) for left, right, _ in learned.merges.tolist()] == merges


def random_text(n_words: int, seed: int = 0) -> list[str]:
    """Words drawn by rank, so that few are frequent and many are rare."""
    local = random.Random(seed)
    words = ["".join(local.choices("abcdefghé", k=local.randint(2, 9))) for _ in range(n_words // 2)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    drawn = local.choices(words, weights, k=n_words)
    return [" ".join(drawn[i : i + 50]) for i in range(0, n_words, 50)]


def test_counting_through_files_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that the counting tables outgrow many times but the pieces do not."""
    monkeypatch.setattr("danlu.tokenizer.trainer.n_threads", lambda: 4)
    monkeypatch.setattr("danlu.tokenizer.trainer.BATCH_BYTES", 5_000)
    texts = random_text(40_000)
    whole = learn(texts, tmp_path, room=300)
    spilled = learn(texts, tmp_path, room=300, budget=2_000_000)
    assert whole.runs == 0 < spilled.runs and spilled.dropped_pieces == 0
    assert whole.pieces == spilled.pieces and (whole.merges == spilled.merges).all()
    assert list(tmp_path.iterdir()) == [], "no run is left"


def test_the_rarest_pieces_are_dropped_by_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones whatever the order, the threads, and whether files were needed; the counts add up."""
    monkeypatch.setattr("danlu.tokenizer.trainer.BATCH_BYTES", 5_000)
    texts = random_text(40_000)
    whole = learn(texts, tmp_path)
    kept = [learn(texts, tmp_path, budget=600_000), learn(texts[::-1], tmp_path, budget=600_000)]
    monkeypatch.setattr("danlu.tokenizer.trainer.n_threads", lambda: 7)
    kept.append(learn(texts, tmp_path, budget=600_000))
    for learned in kept:
        assert learned.dropped_pieces > 0
        assert learned.pieces + learned.dropped_pieces == whole.pieces
        assert (learned.merges == kept[0].merges).all()
    assert max(learned.runs for learned in kept) > 1, "on a busy machine fewer threads fill tables, and need no files"
    assert kept[0].dropped_occurrences < 3 * kept[0].dropped_pieces, "the rare ones go"
    assert (kept[0].merges[:3] == whole.merges[:3]).all()


def test_one_endless_piece(tmp_path: Path) -> None:
    """A megabyte without a border is no word: counted in parts, in time."""
    learned = learn(["a" * 1_000_000, "".join(random.Random(1).choices("abcdefghij", k=1_000_000))], tmp_path, room=400)
    assert len(learned.merges) == 400 and learned.pieces <= 600


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="memory or disk"):
        learn(random_text(40_000), tmp_path / "not there", budget=600_000)


def test_killed_while_counting_leaves_only_scratch(tmp_path: Path) -> None:
    """SIGKILL in the middle: runs lie in the work folder and nowhere else, and the next try is not disturbed."""
    program = (
        "import sys, os, signal; from pathlib import Path; from danlu.tokenizer import bpe\n"
        "from tests.tokenizer.test_trainer import random_text\n"
        "def texts():\n"
        "    for i in range(40): yield from random_text(2_000, i)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "bpe.train_bpe(texts(), vocab_size=500, max_memory=1 << 20, folder=Path(sys.argv[1]))\n"
    )
    monkey = "import danlu.tokenizer.trainer as t; t.BATCH_BYTES = 10_000\n"
    done = subprocess.run([sys.executable, "-c", monkey + program, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert list(tmp_path.rglob("*.run"))
    texts = random_text(2_000)
    again = bpe.train_bpe(texts, vocab_size=500, max_memory=1 << 20, folder=tmp_path)
    assert again == bpe.train_bpe(texts, vocab_size=500, max_memory=1 << 20, folder=tmp_path)
