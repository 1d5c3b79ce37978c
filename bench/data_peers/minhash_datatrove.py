"""MinHash of datatrove over JSON lines, its four steps in one process. Prints seconds and the ids that were removed.

python -m bench.data_peers.minhash_datatrove IN_FOLDER OUT_FOLDER BANDS ROWS   # files LANGUAGE.jsonl of {"id", "text"}

Each language is signed with the tokenizer datatrove has for it (spaCy for English, jieba for Chinese). Needs nothing
of danlu: it runs in an environment of its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path

from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import load_word_tokenizer

LANGUAGES = {"en": "eng", "zh": "cmn"}


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    shutil.rmtree(target, ignore_errors=True)
    config = MinhashConfig(
        num_buckets=int(sys.argv[3]), hashes_per_bucket=int(sys.argv[4]), hash_config=HashConfig(precision=64)
    )
    languages = [file.stem for file in sorted(source.glob("*.jsonl"))]
    for language in languages:
        load_word_tokenizer(LANGUAGES[language]).word_tokenize("词典 warm up")  # dictionaries before the clock starts
    begin = time.perf_counter()
    for language in languages:
        folder = str(target / language)

        def read(data=None, language=language):
            return JsonlReader(str(source), glob_pattern=f"{language}.jsonl")

        sign = MinhashDedupSignature(folder + "/signatures", config=config, language=LANGUAGES[language])
        _drain(sign.run(read().run(), 0, 1))
        buckets = MinhashDedupBuckets(folder + "/signatures", folder + "/buckets", config=config)
        for bucket in range(config.num_buckets):
            _drain(buckets.run(None, bucket, config.num_buckets))
        _drain(MinhashDedupCluster(folder + "/buckets", folder + "/remove", config=config).run(None, 0, 1))
        keep = MinhashDedupFilter(
            folder + "/remove", exclusion_writer=JsonlWriter(folder + "/removed", compression=None)
        )
        write = JsonlWriter(folder + "/kept", compression=None)
        _drain(write.run(keep.run(read().run(), 0, 1), 0, 1))
        keep.exclusion_writer.close()
    end = time.perf_counter()
    removed = [
        json.loads(line)["id"]
        for file in sorted(target.glob("*/removed/*.jsonl"))
        for line in file.open(encoding="utf-8")
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": end - begin, "peak_bytes": peak, "removed": removed}))


def _drain(steps) -> None:
    for _ in steps or ():
        pass


if __name__ == "__main__":
    main()
