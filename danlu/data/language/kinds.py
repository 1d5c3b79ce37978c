"""Code and mathematics, recognised by their look: languages of their own for a text that has no file name.

Code: the lines of a text are counted that only a programming language writes,

    def f(x):    #include <a.h>    public static void    SELECT a FROM    x = y[i];    </div>

and the language is the one with most marks, when they are on enough of the lines. The share is what makes the difference
between a program and a tutorial that quotes one: a tutorial is prose. Programs that are mostly comment pass as prose, too.

Mathematics: LaTeX (`\\frac`, `\\begin{equation}`, `$x^2$`) and signs like ∀ ∑ ≤ per 100 characters. A page of prose with a few
formulas stays prose; notes that are half formulas are "math".
"""

from __future__ import annotations

import re

# Per language: marks at the start of a line (after its indent), or anywhere in it. A mark should be wrong in all others.
_LINES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (language, re.compile(pattern, re.MULTILINE))
    for language, pattern in (
        ("python", r"^[ \t]*(?:def \w+\(.*\)(?: ->.*)?:|class \w+(?:\(.*\))?:|(?:el)?if .*:$|for .+ in .+:$|while .*:$|try:$|except\b.*:$|else:$|with .+:$|"
                   r"from [\w.]+ import |import [\w.]+(?: as \w+)?$|@\w[\w.]*(?:\(.*\))?$|return\b(?!.*;$).*$|self\.\w+ = |raise \w+|print\(.*\)$|\"\"\")"),
        ("c", r"^[ \t]*(?:#\s*(?:include [<\"]|define \w+|ifn?def \w+|endif|pragma )|(?:static |const |unsigned |struct )*(?:int|char|void|float|double|size_t|uint\d+_t)\b[ *]+\w+.*[;{,)]$|"
              r"typedef |(?:if|for|while|switch) \(.*\) ?\{?$|return\b.*;$|\w+->\w+.*;$|case \w+:$|free\(|printf\()"),
        ("cpp", r"^[ \t]*(?:(?:using )?namespace \w*|template ?<|std::|(?:public|private|protected):$|class \w+.*\{$|.*\bstd::\w+|.*\bcout ?<<|auto \w+ = .*;$)"),
        ("java", r"^[ \t]*(?:(?:public|private|protected) (?:static |final |abstract )*[\w<>\[\]]+ \w+.*[{;(,]$|import (?:java|org|com|javax)\.[\w.*]+;$|package [\w.]+;$|"
                 r"@(?:Override|Test|Autowired)\b|System\.out\.|.*\bnew \w+(?:<.*>)?\(.*\);$)"),
        ("javascript", r"^[ \t]*(?:(?:const|let|var) [\w{\[].* = |(?:async |export |export default )?function\*? ?\w*\(.*\) ?\{|.*=> ?[{(]|import .* from ['\"]|export (?:default|const|class)|"
                       r"module\.exports|.*\brequire\(['\"]|console\.log\(|document\.|\}\)?;$|\}, ?\d*\)?;?$)"),
        ("go", r"^[ \t]*(?:package \w+$|func (?:\(\w+ \*?\w+\) )?\w+\(.*\{$|.*\w+ := |import \($|if err != nil|type \w+ (?:struct|interface) ?\{|defer |go func|\w+, err :?= )"),
        ("rust", r"^[ \t]*(?:(?:pub )?(?:fn \w+|struct \w+|enum \w+|mod \w+|trait \w+)|use [\w:]+(?:::\{.*\})?;$|impl(?:<.*>)? |let (?:mut )?\w+.* = .*|match .* \{$|#\[\w+|.*\.unwrap\(\)|.*-> (?:Result|Option|Self|&)|\w+!\()"),
        ("shell", r"^[ \t]*(?:#!/(?:usr/)?bin/|fi$|done$|esac$|if \[\[? |then$|(?:else|do)$|elif \[|for \w+ in .*; do$|while .*; do$|echo [\"$-]|export \w+=|\w+=\$?[({\"].*$|sudo |\$ (?:cd|ls|sudo|apt|pip|git|npm) )"),
        ("sql", r"(?i:^[ \t]*(?:select .+ from |select$|where \w+ ?(?:=|in|like|<|>)|insert into |update \w+ set |create (?:table|index|view) |alter table |drop table |(?:left |inner )?join \w+ .*on |group by |order by |values ?\())"),
        ("html", r"^[ \t]*(?:</?(?:html|head|body|div|span|table|tr|td|ul|li|p|a|script|style|meta|link|h[1-6]|form|input|section|nav|footer)\b[^<>]*>|<!DOCTYPE)"),
        ("css", r"^[ \t]*(?:[.#]?[\w-]+(?:[ ,>:.#\w-]*)\{$|[a-z-]{3,30}: ?[^;{}\n]{1,80};$|@media|@import|\}$)"),
        ("json", r"^[ \t]*(?:\"[^\"\n]{1,80}\": ?(?:[\"\[{]|-?\d|true|false|null)|[\]}],?$|[\[{]$)"),
        ("yaml", r"^[ \t]*(?:---$|- \w+: |\w[\w-]*:$)"),
    )
)  # fmt: skip
# Without one of these a text is not worth the search for that language's marks.
_NEEDS: dict[str, tuple[str, ...]] = {
    "python": ("def ", "import ", "class ", "self.", "print(", "return"),
    "c": ("#include", "#define", "#if", "int ", "void ", "char ", "->"),
    "cpp": ("std::", "template", "namespace", "cout", "public:"),
    "java": ("public ", "private ", "import java", "package ", "System.out"),
    "javascript": ("function", "const ", "let ", "var ", "=>", "require("),
    "go": ("func ", ":=", "package "),
    "rust": ("fn ", "let ", "impl ", "pub "),
    "shell": ("#!/", "\nfi", "\ndone", "echo ", "export ", "sudo ", "$ "),
    "sql": ("select ", "SELECT ", "INSERT ", "insert into", "CREATE ", "create table"),
    "html": ("</", "<!DOCTYPE", "/>"),
    "css": ("px;", "color:", "@media", "margin", "display:"),
    "json": ('":',),
    "yaml": ("---\n",),
}
_LINE_ENDS = frozenset(";{}:)>,]\"'")
_SAMPLE_LINES = 240
_LEAST = 0.3  # share of lines with a mark of the language; prose with examples stays below
_LEAST_MARKS = 3

_LATEX = re.compile(
    r"\\(?:frac|sum|int|prod|sqrt|begin|end|alpha|beta|gamma|delta|epsilon|lambda|mu|sigma|theta|phi|omega|pi|infty|mathbb|mathcal|mathrm|mathbf|"
    r"left|right|cdot|times|leq?|geq?|neq?|in|subset|forall|exists|to|rightarrow|Rightarrow|partial|nabla|lim|log|sin|cos|label|ref|eqref|cite|"
    r"text|quad|ldots|dots|hat|bar|tilde|vec|operatorname|item|section|subsection|emph|textbf|[\[\]()])(?![A-Za-z])"
)
_DOLLARS = re.compile(r"\$\$?([^$\n]{1,200})\$\$?")
_SIGNS = re.compile("[∀∃∈∉⊂⊆∪∩∑∏∫∂∇√∞≤≥≠≈≡→⇒⇔∧∨¬⊕⊗∘±×÷αβγδελμπσθφω]")
_LATEX_LEAST, _SIGNS_LEAST = 2.0, 6.0  # per 100 characters that are not blank


def guess_code(text: str) -> tuple[str, float] | None:
    """("code:python", share of marked lines) when the text is a program, else None. Looks at up to 240 lines: give it a sample of a long text."""
    lines = text[:8_000].split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES]
    text = "\n".join(lines)
    filled = [line for line in lines if line and not line.isspace()]
    n_lines = len(filled)
    if n_lines < _LEAST_MARKS:
        return None
    # The quick look: how lines end, and assignments. Prose that was broken into lines stays far below.
    looks = sum(line[-1] in _LINE_ENDS for line in filled) + text.count(" = ") + text.count("import ") + text.count("$ ")
    if looks < max(_LEAST_MARKS, 0.25 * n_lines):
        return None
    marks = {
        language: len(pattern.findall(text)) if any(need in text for need in _NEEDS[language]) else 0
        for language, pattern in _LINES
    }
    marks["cpp"] += marks["c"] if marks["cpp"] >= 2 else 0  # what is C is C++ as well
    if marks["html"]:
        marks["css"] = marks["json"] = 0
    best = max(marks, key=lambda language: (marks[language], language))
    share = marks[best] / n_lines
    if marks[best] < _LEAST_MARKS or share < _LEAST:
        return None
    return f"code:{best}", round(min(share / (2 * _LEAST), 1.0), 4)


def guess_math(text: str) -> tuple[str, float] | None:
    """("math", confidence) when formulas are the matter of the text, else None."""
    if "\\" not in text and text.count("$") < 2 and text.isascii():
        return None
    visible = max(len(text) - text.count(" ") - text.count("\n"), 1)
    dollars = sum(any(mark in found for mark in "\\^_=") for found in _DOLLARS.findall(text)) if "$" in text else 0
    rate = 100 * (len(_LATEX.findall(text)) + 0.5 * dollars) / visible
    signs = 100 * len(_SIGNS.findall(text)) / visible
    strength = max(rate / _LATEX_LEAST, signs / _SIGNS_LEAST)
    if strength < 1 or visible < 20:
        return None
    return "math", round(min(0.5 * strength, 1.0), 4)
