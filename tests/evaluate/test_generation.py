"""The share of completions that parse: the three rules, and the rows on real functions."""

from __future__ import annotations

import ast

import pytest

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.data.document import Document, read_documents
from danlu.evaluate.baselines import ByteNgram
from danlu.evaluate.generation import Written, cut, parses, python_cases, python_parse_rate, write
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer

PROMPT = 'def area(w, h):\n    """Size."""\n'


@pytest.mark.parametrize(
    ("text", "ended", "good"),
    [
        ("    return w * h\n\ndef volume(", False, True),  # rule 1: cut where the function ends
        ("    return w * h\n    x = (1 +", False, True),  # rule 2: the line in which the budget ran out is dropped
        ("    return w * h\n    x = (1 +", True, False),  # but not when the model ended there itself
        ("    x = (1 +\n    2 +\n    3", False, False),  # rule 2 drops one line only
        ("    return w * h", True, True),
        ("    return w * h", False, False),  # the only line is the one that is dropped
        ("print()\n    return w", True, False),  # what follows is not the function
        ("", True, False),  # rule 3: a docstring alone is no body
        ("    # a comment\n", True, False),
        ("    return w *\n", True, False),
        ("  return w\n", True, False),  # indented otherwise than the docstring
        ("    x = f(\n        1,\n)\n    return x\nprint()", False, True),  # a bracket may close at the margin
        ("    return '\x00'\n", True, False),
    ],
)
def test_rules(text: str, ended: bool, good: bool) -> None:
    assert parses(PROMPT, Written(text, ended)) is good


def test_cut_keeps_what_follows_blank_lines() -> None:
    assert cut(Written("    a = 1\n\n    return a\n\n\nprint(a)", False)) == "    a = 1\n\n    return a\n\n"


def test_a_prompt_without_docstring_needs_a_statement_too() -> None:
    assert parses("def f(x):\n", Written("    return x\n", True))
    assert not parses("def f(x):\n", Written("", True))


def test_cases_are_prompt_and_truth_of_functions_and_methods() -> None:
    source = (
        "class A:\n    def get(self):\n        '''Doc.'''\n        return self.x\n\n"
        "async def go(a,\n             b):\n    await a\n\n"
        "def one_line(): return 1\n"
    )
    cases = python_cases([Document("d", source, "code:python", "t")], 10)
    assert {case.prompt for case in cases} == {
        "def get(self):\n    '''Doc.'''\n",
        "async def go(a,\n             b):\n",
    }
    for case in cases:
        ast.parse(case.prompt + case.truth)
        assert parses(case.prompt, Written(case.truth, True))
    assert python_cases([Document("d", "def broken(:\n", "code:python", "t")], 10) == []


def test_cases_depend_on_the_seed_alone(corpus: Artifact) -> None:
    documents = list(read_documents(corpus, "validation"))
    assert python_cases(documents, 5, seed=1) == python_cases(documents, 5, seed=1)
    assert len(python_cases(documents, 100)) == 12


def test_rows(corpus: Artifact, model: Transformer, tokenizer: Tokenizer) -> None:
    documents = list(read_documents(corpus, "validation"))
    ngram = ByteNgram([document.text for document in read_documents(corpus, "train")])
    result = python_parse_rate(model, tokenizer, documents, ngram, cases=6, max_tokens=40)
    rows = result["rows"]
    assert set(rows) == {"ngram", "model", "oracle"} and all(row["n"] == 6 for row in rows.values())
    assert rows["oracle"]["value"] == 1
    assert rows["ngram"]["value"] > rows["model"]["value"] == 0  # a text seen before; random weights
    assert result == python_parse_rate(model, tokenizer, documents, ngram, cases=6, max_tokens=40)


def test_no_functions_is_said(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no Python function"):
        python_parse_rate(model, tokenizer, [Document("d", "白日依山盡", "zh", "t")], None)


def test_a_long_prompt_keeps_its_end(model: Transformer, tokenizer: Tokenizer) -> None:
    written = write(model, tokenizer, ["x = 1\n" * 100, "y"], max_tokens=5, temperature=0.0, seed=0)
    assert len(written) == 2


def test_a_short_context_keeps_the_prompt(model: Transformer, tokenizer: Tokenizer) -> None:
    """More tokens asked for than the context has: the text is shorter, and still depends on the prompt."""
    prompts, wanted = ["x = 1", "def f(a):"], 10 * model.config.max_position
    one, other = write(model, tokenizer, prompts, max_tokens=wanted, temperature=0.0, seed=0)
    assert one.text != other.text
