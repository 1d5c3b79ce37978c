"""The stages of `bench/data.py`, one file each: what is measured, on which files, and how it is judged.

| file      | stages                       |
|-----------|------------------------------|
| `filters` | quality, signatures          |
| `html`    | html                         |
| `minhash` | minhash, clusters, substring |
| `chain`   | chain                        |
| `shares`  | shares                       |
| `files`   | the documents all of them use |

A stage is a function of the number of rounds that returns its result (a JSON mapping). The contestants are in
`bench/data_peers`: those that stay loaded and answer requests (`contest.serve`), and those that are started anew for
each turn (`once`), because their peak memory or their start is part of what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench import contest

# One environment for datatrove, whatever the stage; xxhash 4 breaks its import.
DATATROVE = [
    "datatrove[processing,io]==0.10.1",
    "spacy",
    "jieba",
    "lxml_html_clean",
    "warcio",
    "faust-cchardet",
    "python-magic",
    "xxhash<4",
    "regex",
    "orjson",
    "nltk",
    "tokenizers",
]
DATA_JUICER = ["py-data-juicer==1.6.1", "aiohttp", "scipy"]
SUFFIX_ARRAY = ["pydivsufsort"]


def python_of(peer: str, requirements: list[str]) -> str:
    """The interpreter of a peer: this one for danlu. Raises contest.Unavailable."""
    return contest.environment(peer, requirements) if requirements else sys.executable


def once(python: str, module: str, *arguments: object) -> dict[str, Any]:
    """Start `bench.data_peers.MODULE`; returns the JSON that it prints last. Raises Unavailable with its last words."""
    command = [python, "-m", f"bench.data_peers.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=contest.HERE.parent)
    if done.returncode:
        raise contest.Unavailable(contest.one_line(done.stderr.strip().rsplit("\n", 1)[-1]))
    answer: dict[str, Any] = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    return answer
