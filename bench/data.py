"""The data room beside its peers, on the same files in one run.

    python bench/data.py                                all stages
    python bench/data.py --only chain,html --rounds 1   some of them

| stage      | what is measured                                                   | beside                   |
|------------|--------------------------------------------------------------------|--------------------------|
| quality    | Gopher quality and repetition, C4, FineWeb                         | datatrove, data-juicer   |
| signatures | MinHash signatures                                                 | datatrove, data-juicer   |
| minhash    | the whole stage: read, sign, cluster, write; recall on planted copies | datatrove             |
| clusters   | two million signatures within 1 GB                                 |                          |
| substring  | passages of 300 bytes that occur twice                             | libdivsufsort            |
| html       | crawled pages to text; what is found of what is known              | datatrove, trafilatura   |
| chain      | raw files to token shards; what is kept of each kind of document   | datatrove                |
| shares     | what each published rule removes from a fixed sample               | the numbers of FineWeb   |

A stage is a function of `data_stages`, its contestants are in `data_peers`. Each writes bench/results/data_STAGE.json;
`render.py` puts the tables into docs/data.md. Peers are installed from PyPI into environments of their own and take
turns, A B C A B C; the median is reported with the lowest and the highest round.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the root of the repository, for `bench` and `tests`

from bench import contest

STAGES = {
    "quality": "filters",
    "signatures": "filters",
    "minhash": "minhash",
    "clusters": "minhash",
    "substring": "minhash",
    "html": "html",
    "chain": "chain",
    "shares": "shares",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STAGES), help="names of stages, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        if name not in STAGES:
            parser.error(f"there is no stage {name}: {', '.join(STAGES)}")
        measure = getattr(importlib.import_module(f"bench.data_stages.{STAGES[name]}"), name)
        print("wrote", contest.write_result(f"data_{name}", {"rounds": arguments.rounds, **measure(arguments.rounds)}))


if __name__ == "__main__":
    main()
