"""How often is a completed Python function Python?

The cases are functions of held-out documents. The prompt is everything up to the body: `def` line, docstring if there
is one. It ends with its line: a tokenizer joins ":" and the line's end, so training never saw a text that stops at ":".
The model writes on; where the function ends, the text is cut, and `ast.parse` says yes or no. Nothing is
ever run.

    def area(width, height):            prompt
        \"\"\"Size of a rectangle.\"\"\"
        return width * height           completion, kept
                                        (blank)
    def volume(w, h, d):                cut: the first line without indentation

What counts as one case passed, exactly:

1. The completion is cut before its first line that is not blank and not indented (a closing bracket may be).
2. If no such line came and the model did not end the text itself, its budget of tokens ran out in the middle of a
   line: that line, and only that one, is dropped. A bracket or string left open further up still fails.
3. What is left parses, is one function, and has at least one statement more than the prompt had.

Three rows on the same prompts: a byte n-gram trained on training text, the model, and the true continuation cut to
the same number of tokens. The last is the oracle; where it is below 1, rule 2 is too harsh for long functions and
the others suffer from that alike.
"""

from __future__ import annotations

import ast
import random
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError
from danlu.evaluate.perplexity import opening_token
from danlu.evaluate.statistics import share

if TYPE_CHECKING:
    from danlu.data.document import Document
    from danlu.evaluate.baselines import ByteNgram
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

_MAX_LINES = 40  # of a function that becomes a case
_PER_DOCUMENT = 3  # cases of one document: its functions resemble each other


@dataclass(frozen=True)
class Case:
    """One function: what the model is given, and how it really went on."""

    prompt: str
    truth: str


@dataclass(frozen=True)
class Written:
    """A continuation; `ended` when the writer stopped by itself and not because its budget ran out."""

    text: str
    ended: bool


def python_parse_rate(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    ngram: ByteNgram | None,
    *,
    cases: int = 64,
    max_tokens: int = 96,
    temperature: float = 0.2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The three rows. Raises UserError when the documents hold no Python function."""
    chosen = python_cases(documents, cases, seed)
    if not chosen:
        raise UserError(
            "there is no Python function in the held-out text", "the task python judges models of Python code"
        )
    prompts = [case.prompt for case in chosen]
    truths = [tokenizer.encode(case.truth) for case in chosen]
    oracle = [Written(tokenizer.decode(ids[:max_tokens]), len(ids) <= max_tokens) for ids in truths]
    room = max(len(written.text.encode()) for written in oracle)
    written = write(
        model, tokenizer, prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, progress=progress
    )
    rows = {"model": written, "oracle": oracle}
    if ngram is not None:
        rows["ngram"] = [_ngram_written(ngram, case.prompt, room, seed + i) for i, case in enumerate(chosen)]
    table = {
        name: share(sum(parses(p, w) for p, w in zip(prompts, row, strict=True)), len(prompts))
        for name, row in rows.items()
    }
    return {"rows": table, "samples": [p + w.text for p, w in zip(prompts[:3], written[:3], strict=True)]}


def write(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Written]:
    """Continue each prompt as the beginning of a document.

    A quarter of the model's context is kept for the prompt, of which the end is taken; the text gets the rest at most.
    """
    from danlu.engine import Engine, Sampling

    opening = opening_token(tokenizer)
    before = [] if opening is None else [opening]
    context = model.config.max_position
    max_tokens = max(1, min(max_tokens, context - context // 4))
    room = max(1, context - max_tokens)
    encoded = [(before + tokenizer.encode(prompt))[-room:] for prompt in prompts]
    sampling = [  # a seed for each, or equal prompts would get equal texts
        Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed + i, stop=tuple(stop))
        for i in range(len(prompts))
    ]
    engine = Engine((model, tokenizer))
    written = []
    for output in engine.generate(encoded, sampling):
        written.append(Written(output.text, output.finish_reason == "stop"))
        if progress is not None:
            progress(len(written), len(prompts))
    return written


def parses(prompt: str, written: Written) -> bool:
    """Rules 1 to 3 of the head of this file."""
    kept = cut(written)
    before, after = _only_function(prompt + "    ..."), _only_function(prompt + kept)
    if before is None or after is None:
        return False
    return len(after.body) > len(before.body) - 1


def cut(written: Written) -> str:
    """The part of a completion that belongs to the function."""
    lines = written.text.split("\n")
    for number, line in enumerate(lines):
        if line.strip() and not line[0].isspace() and line[0] not in ")]}":
            return "\n".join(lines[:number])
    return written.text if written.ended else "\n".join(lines[:-1])


def python_cases(documents: Sequence[Document], wanted: int, seed: int = 0) -> list[Case]:
    """Functions of the documents, at most three of each, in an order that the seed decides."""
    found: list[Case] = []
    for document in documents:
        cases = _functions(document.text)
        random.Random(f"{seed}\0{document.id}").shuffle(cases)
        found += cases[:_PER_DOCUMENT]
    random.Random(seed).shuffle(found)
    return found[:wanted]


def _functions(source: str) -> list[Case]:
    tree = _parse(source)
    lines = source.split("\n")
    cases = []
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        with_docstring = ast.get_docstring(node, clean=False) is not None
        body = node.body[1:] if with_docstring else node.body
        if not body or node.end_lineno - node.lineno >= _MAX_LINES:
            continue
        whole = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        head_lines = body[0].lineno - node.lineno  # comments before the body belong to the prompt
        prompt = "".join(line + "\n" for line in whole.split("\n")[:head_lines])
        # A body on the def line, or text that dedent could not move (a multi-line string), makes no case.
        if head_lines and _only_function(whole) is not None and _only_function(prompt + "    ...") is not None:
            cases.append(Case(prompt, whole[len(prompt) :] + "\n"))
    return cases


def _only_function(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    tree = _parse(source)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return tree.body[0]


def _parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a string and the like: no matter here
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _ngram_written(ngram: ByteNgram, prompt: str, length: int, seed: int) -> Written:
    text = ngram.write(prompt, length, seed)
    return Written(text, len(text.encode()) < length - 4)  # "ignore" may have dropped part of a last character
