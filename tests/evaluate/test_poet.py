"""The recipe `poet`, whole: from poems in a file to a report, with a budget of a few steps."""

from __future__ import annotations

import json
import random
from pathlib import Path

from danlu.core.events import Events
from danlu.core.recipe import load_recipe
from danlu.core.run import run_recipe
from danlu.core.store import Store

# Common characters of Tang verse; poems of random ones are as different from each other as real ones.
CHARACTERS = "一不人山風日無雲天來何春時月花有中相秋心此水年自上白如生長歸知君千青飛行門間爲空夜江見高落城遠流知雨寒"


def test_poet_makes_a_judged_model(tmp_path: Path) -> None:
    generator = random.Random(0)

    def line() -> str:
        return "".join(generator.choices(CHARACTERS, k=5))

    texts = ["\n".join([line()[:2], *(f"{line()}，{line()}。" for _ in range(4))]) for _ in range(120)]
    source = tmp_path / "poems.jsonl"
    source.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    overrides = {
        "corpus.source": str(source),
        "tokenizer.vocab_size": 400,
        "base.budget": "3 steps",
        "base.batch_tokens": 512,
        "base.model": {"preset": "nano", "hidden_size": 64, "n_heads": 1, "n_kv_heads": 1, "n_layers": 1},
        "report.cases": 2,
    }
    recipe = load_recipe("poet", overrides)
    assert recipe.serve == ["base"]
    made = run_recipe(recipe, Store(tmp_path / "store"), None, Events(tmp_path / "events.jsonl")).artifacts
    report = json.loads((made["report"].path / "report.json").read_text())["results"]["model"]
    assert set(report) == {"perplexity", "poems"}
    poems = report["poems"]
    assert poems["n"] == 2 and poems["baselines"]["oracle"]["regular"] == 1
    assert 0 < poems["baselines"]["chance"]["rhyme"] < 0.5
    assert made["report"].manifest.metrics["oracle_regular"] == 1
