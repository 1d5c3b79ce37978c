"""Instruction rows from code itself: a function and its docstring are an answer and a question.

For every function with a docstring in a Python document there are two rows,

    task        the user asks                                               the assistant answers
    write       for a function with this signature that does DOCSTRING     its source, without the docstring
    describe    what this source (without the docstring) does               the docstring

each in one of several wordings, chosen by the hash of the document and the function's name, so the same corpus
gives the same rows. Nothing is run: the source is only parsed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from danlu.data.dataset import Message

# Wordings by task. {kind} is "function" or "method", {signature} is "name(a, b=1)".
WORDINGS: dict[str, tuple[str, ...]] = {
    "write": (
        "Write a Python {kind} `{signature}`.\n\n{docstring}",
        "Implement this {kind} in Python: `{signature}`\n\n{docstring}",
        "I need a Python {kind} `{signature}` that does the following:\n\n{docstring}",
        "Complete this {kind}:\n\n```python\ndef {signature}:\n{quoted}\n```",
    ),
    "describe": (
        "Write a docstring for this {kind}:\n\n```python\n{code}\n```",
        "What does this {kind} do?\n\n```python\n{code}\n```",
        "Explain this Python code in a few words:\n\n```python\n{code}\n```",
        "Document the {kind} `{name}`:\n\n```python\n{code}\n```",
    ),
}
_MIN_DOCSTRING = 15  # characters; "See RFC 822." teaches nothing


@dataclass(frozen=True)
class Function:
    """A function taken apart. `code` is its source without the docstring, at indentation 0."""

    name: str
    kind: str
    signature: str
    docstring: str
    code: str


def functions(source: str) -> Iterator[Function]:
    """Yield the functions and methods of a Python text that have a docstring and do something besides.

    Raises SyntaxError when the text is not Python (of the running version).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; absurd nesting
        raise SyntaxError(str(error)) from None
    lines = source.split("\n")
    in_class = {child for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = _take_apart(node, lines, "method" if node in in_class else "function")
            if function is not None:
                yield function


def rows(document_id: str, function: Function) -> Iterator[tuple[str, list[Message]]]:
    """The (task, messages) of a function, in the wording its hash chooses."""
    blocks = {
        **{name: getattr(function, name) for name in ("name", "kind", "signature", "docstring", "code")},
        "quoted": textwrap.indent(f'"""{function.docstring}"""', "    "),
    }
    answers = {"write": f"```python\n{function.code}\n```", "describe": function.docstring}
    for task, wordings in WORDINGS.items():
        key = f"{document_id} {function.name} {function.code} {task}".encode("utf-8", "surrogatepass")
        choice = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") % len(wordings)
        yield (
            task,
            [
                {"role": "user", "content": wordings[choice].format(**blocks)},
                {"role": "assistant", "content": answers[task]},
            ],
        )


def _take_apart(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], kind: str) -> Function | None:
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None or len(node.body) < 2:
        return None
    docstring = inspect.cleandoc(docstring)
    quote = node.body[0]
    first, last = quote.lineno, quote.end_lineno or quote.lineno  # 1-based, inclusive
    signature_end = lines[first - 1][: quote.col_offset]
    if len(docstring) < _MIN_DOCSTRING or signature_end.strip() or node.body[1].lineno == last:
        return None  # a docstring that shares its line with code cannot be cut out by lines
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    body = lines[last : node.end_lineno]
    while body and not body[0].strip():  # the blank line that usually follows a docstring
        body = body[1:]
    code = textwrap.dedent("\n".join([*lines[start - 1 : first - 1], *body])).strip("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)  # a string with unindented lines defeats dedent
    except (SyntaxError, ValueError):
        return None
    return Function(node.name, kind, f"{node.name}({ast.unparse(node.args)})", docstring, code)
