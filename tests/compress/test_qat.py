"""Trained to be rounded: better than rounded afterwards, and stored as it was seen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from danlu.compress.qat import QatConfig, qat
from danlu.compress.quantize import QuantizeConfig, quantize
from danlu.compress.recover import RecoverConfig, recover
from danlu.compress.training.straight_through import Rounded
from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.document import Document, write_documents
from danlu.kernels import grid
from danlu.model.hub import load_model
from danlu.model.quantized import Scheme, plan_of, schemes_of
from danlu.tokenizer.pack import PackConfig, pack
from danlu.tokenizer.shards import TokenShards
from danlu.train.batches import Windows
from danlu.train.pretrain import PretrainConfig, pretrain
from tests.compress.models import saved_model

SMALL: dict[str, Any] = {"context": 64, "batch_tokens": 1024, "dtype": "float32"}
SHAPE = {
    "family": "llama", "hidden_size": 32, "n_layers": 2, "n_heads": 2, "head_dim": 16, "intermediate_size": 64,
}  # fmt: skip


def sentence(draw: random.Random) -> str:
    a, b = draw.randrange(60), draw.randrange(60)
    return f"{a} plus {b} is {a + b}, and {b} plus {a} is {a + b} as well.\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A tiny model that has learned its text, and the tokens, some of them held out."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus").mkdir()
    draw = random.Random(0)
    for split, count in (("train", 600), ("validation", 60)):
        texts = ["".join(sentence(draw) for _ in range(4)) for _ in range(count)]
        write_documents(folder / "corpus", split, [Document(f"{split}{n}", t, "en", "t") for n, t in enumerate(texts)])
    packed, run = StageRun.for_test(folder / "tokens"), StageRun.for_test(folder / "model")
    pack(PackConfig(), packed, Artifact.from_path(folder / "corpus", "corpus"), saved_model(folder / "random"))
    tokens = Artifact.from_path(packed.out, "tokens")
    pretrain(PretrainConfig(model=SHAPE, budget="150 steps", sample_prompts=[], **SMALL), run, tokens)
    return Artifact.from_path(run.out, "model"), tokens


def config(**values: Any) -> QatConfig:
    return QatConfig.model_validate({"budget": "60 steps", "group": "row", "learning_rate": 1e-3, **SMALL, **values})


def loss_of(path: Path, tokens: Artifact) -> float:
    """Of all windows of the held-out tokens; `held_out_loss` wants a head in floats."""
    model = load_model(path)
    windows = Windows([shard.tokens for shard in TokenShards.open(tokens.path, "validation").shards], 64)
    inputs, targets = windows.rows(range(len(windows)))
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))


def test_better_than_rounded_afterwards(trained: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    model, tokens = trained
    nearest = StageRun.for_test(tmp_path / "nearest")
    quantize(QuantizeConfig(method="rtn", bits=4, group="row"), nearest, model)
    before, rounded = loss_of(model.path, tokens), loss_of(nearest.out, tokens)
    further, then = StageRun.for_test(tmp_path / "further"), StageRun.for_test(tmp_path / "then")
    recover(RecoverConfig(**config().model_dump(include=set(RecoverConfig.model_fields))), further, model, tokens)
    quantize(QuantizeConfig(method="rtn", bits=4, group="row"), then, Artifact.from_path(further.out, "model"))
    trained_on, as_long = loss_of(further.out, tokens), loss_of(then.out, tokens)
    print(f"as many steps in floats {trained_on:.4f}, then nearest {as_long:.4f}")
    for distill in (0.0, 1.0, 0.5):
        run = StageRun.for_test(tmp_path / str(distill))
        metrics = qat(config(distill=distill), run, model, tokens)
        after = loss_of(run.out, tokens)
        print(f"float {before:.4f}  nearest {rounded:.4f}  qat, distill {distill}: {after:.4f}")
        assert after - before < 0.5 * (rounded - before)
        if distill == 0:
            assert after - trained_on < 0.5 * (as_long - trained_on)  # it was the grid, not the steps
        assert metrics["validation_loss"] == pytest.approx(after, abs=2e-4)  # stored as it was seen
        assert metrics["bytes_after"] == (run.out / "model.safetensors").stat().st_size
        kept = schemes_of(load_model(run.out))
        assert set(kept.values()) == {Scheme(4, None), Scheme(8)} and kept["embedding"] == Scheme(8)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"bits": 8}, {Scheme(8)}),
        ({"symmetric": False, "group": 32, "head_bits": 16}, {Scheme(4, 32, False)}),
        ({"group": 32, "head_bits": 4}, {Scheme(4, 32)}),
    ],
)
def test_other_schemes(
    changes: dict[str, Any], wanted: set[Scheme], trained: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    run = StageRun.for_test(tmp_path)
    qat(config(budget="3 steps", **changes), run, *trained)
    assert set(schemes_of(load_model(run.out)).values()) == wanted
    assert loss_of(run.out, trained[1]) < 1.3 * loss_of(trained[0].path, trained[1])


def test_the_example_of_the_docstring() -> None:
    """Two weights on levels of 1 whose sum should be 1, at 0.38 and 0.45: to nearest both are 0."""
    w = torch.tensor([0.38, 0.45])
    for rate in (0.1, 0.1, 0.05):
        seen = grid.round_to(w[None], torch.ones(1, 2), None, 4)[0]
        w -= rate * 2 * (seen.sum() - 1) * torch.ones(2)
    assert grid.round_to(w[None], torch.ones(1, 2), None, 4)[0].tolist() == [0, 1]


def test_shown_on_the_grid_and_held_near_it(trained: tuple[Artifact, Artifact]) -> None:
    network = load_model(trained[0].path)
    constraint = Rounded(network, plan_of(network, Scheme(4, 32, False)))
    weight = network.get_parameter("blocks.0.mlp.down.weight")
    floats = weight.detach().clone()
    with constraint.shown():
        assert torch.equal(weight, grid.fit(floats, 4, 32, False).widen())
        network(torch.tensor([[1, 2, 3]])).sum().backward()
    assert torch.equal(weight, floats) and weight.grad is not None and bool(weight.grad.any())
    with torch.no_grad():
        weight *= 10
    constraint.after_update()
    scale = constraint.grids["blocks.0.mlp.down"][0].abs().repeat_interleave(32, dim=1)
    assert bool(((weight - constraint.on_grid("blocks.0.mlp.down").widen()).abs() <= 0.5001 * scale).all())


def test_kill_9_and_on_to_the_same_bytes(trained: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    asked = config(budget="12 steps", checkpoint_every="3 steps", distill=0.5)
    script = (
        "import sys; from pathlib import Path\n"
        "import torch; torch.set_num_threads(1)\n"
        "from danlu.compress.qat import QatConfig, qat\n"
        "from danlu.core.artifact import Artifact; from danlu.core.stage import StageRun\n"
        "where, model, tokens, config = sys.argv[1:]\n"
        "qat(QatConfig.model_validate_json(config), StageRun.for_test(Path(where)),\n"
        "    Artifact.from_path(Path(model), 'model'), Artifact.from_path(Path(tokens), 'tokens'))\n"
    )
    whole, battered = StageRun.for_test(tmp_path / "whole"), tmp_path / "battered"
    qat(asked, whole, *trained)
    paths = [str(battered), str(trained[0].path), str(trained[1].path)]
    process = subprocess.Popen([sys.executable, "-c", script, *paths, asked.model_dump_json()])
    deadline = time.monotonic() + 120
    while not list(battered.glob("work/checkpoints/step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(battered.glob("work/checkpoints/step-*")) and not list(battered.glob("out/*"))
    again = StageRun.for_test(battered)
    qat(asked, again, *trained)
    assert "resumed" in [json.loads(line)["event"] for line in (battered / "events.jsonl").read_text().splitlines()]
    for name in ("model.safetensors", "config.json", "report.json"):
        assert (again.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_what_is_refused(trained: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a multiple of 128"):
        qat(config(group=128), StageRun.for_test(tmp_path / "a"), *trained)
    run = StageRun.for_test(tmp_path / "int8")
    quantize(QuantizeConfig(), run, trained[0])
    with pytest.raises(UserError, match="quantised and cannot be trained"):
        qat(config(), StageRun.for_test(tmp_path / "b"), Artifact.from_path(run.out), trained[1])
