"""What datatrove's filters say of the pages in tests/data/quality/pages.py: the oracle behind tests/data/quality/test_rules.py.

Run it in an environment of its own (spaCy is what datatrove counts English words with):

    python -m venv /tmp/oracle
    /tmp/oracle/bin/pip install "datatrove[processing]==0.10.1" spacy
    /tmp/oracle/bin/python tests/oracles/datatrove.py             writes tests/oracles/datatrove.json beside it

For each English page: "" where a filter keeps it, else datatrove's reason. `fineweb` is asked with the paper's limit for
repeated lines (0.1; its default is 0.01). `kept` is the text that the C4 filter leaves. For the Chinese pages `defaults`
says how many of them the same filters keep with their published settings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # instead of this directory: this file has the name of the module that it asks

from importlib.metadata import version  # noqa: E402

from datatrove.data import Document  # noqa: E402
from datatrove.pipeline.filters import (  # noqa: E402
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

from tests.data.quality.pages import CLEAN_EN, CLEAN_ZH, SPAM_EN  # noqa: E402

FILTERS = {
    "gopher": (GopherRepetitionFilter(), GopherQualityFilter()),
    "c4": (C4QualityFilter(),),
    "fineweb": (FineWebQualityFilter(char_duplicates_ratio=0.1),),
}


def ask(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, filters in FILTERS.items():
        document = Document(text=text, id="0")
        answers = [one.filter(document) for one in filters]
        found[name] = next((answer[1] for answer in answers if answer is not True), "")
        if name == "c4":
            found["kept"] = document.text if not found[name] else ""
    return found


def main() -> None:
    answers = {name: ask(text) for name, text in (CLEAN_EN | SPAM_EN).items()}
    chinese = [ask(text) for text in CLEAN_ZH.values()]
    defaults = {name: sum(not answer[name] for answer in chinese) for name in FILTERS}
    result = {"datatrove": version("datatrove"), "pages": answers, "defaults": defaults, "of": len(chinese)}
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
