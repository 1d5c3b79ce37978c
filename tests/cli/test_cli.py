"""The command line as a person uses it: exit codes, one-sentence errors, JSON on the last line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from danlu.cli.common import AndThen, command
from danlu.cli.main import main

RECIPE = """\
name: toy
description: numbers
stages:
  text:
    use: tests.core.toys:source
  report:
    use: tests.core.toys:count
    corpus: $text
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DANLU_STORE", raising=False)
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path


def danlu(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=input)


def last_json(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_a_first_run_and_what_can_be_asked_afterwards(here: Path) -> None:
    made = last_json(danlu("run", "toy.yaml", "--json"))
    report = made["artifacts"]["report"]  # type: ignore[index]
    assert [a["names"] for a in last_json(danlu("ls", "--json"))["artifacts"]] == [["toy.text"], ["toy.report"]]  # type: ignore[attr-defined]
    shown = last_json(danlu("show", "report", "--json"))
    assert shown["id"] == report and shown["metrics"]["steps"] == 5  # type: ignore[index]
    assert set(last_json(danlu("lineage", "toy.report", "--json"))["ancestors"]) == set(made["artifacts"].values())  # type: ignore[attr-defined, call-overload]
    assert last_json(danlu("verify", report[:12], "--json"))["ok"] is True
    for text in (danlu("show", "report"), danlu("lineage", "report"), danlu("ls"), danlu("verify", "report")):
        assert text.exit_code == 0 and report in text.stdout
    assert last_json(danlu("gc", "--json"))["artifacts"] == []


def test_the_plan(here: Path) -> None:
    steps = last_json(danlu("plan", "toy.yaml", "--json"))["steps"]
    assert [s["action"] for s in steps] == ["build", "build"]  # type: ignore[attr-defined]
    assert not (here / ".danlu").exists(), "planning must not write"
    assert "not built yet" in danlu("plan", "toy.yaml").stdout
    danlu("run", "toy.yaml")
    assert danlu("plan", "toy.yaml", "--set", "report.steps=9").stdout.count("cached") == 1
    assert "steps: 5 -> 9" in danlu("plan", "toy.yaml", "--set", "report.steps=9").stdout


def test_a_damaged_artifact_is_found(here: Path) -> None:
    danlu("run", "toy.yaml")
    next((here / ".danlu" / "report").glob("*/report.json")).write_text("{}")
    result = danlu("verify", "report")
    assert result.exit_code == 1 and "report.json" in result.stderr and "damaged" in result.stderr


def test_gc_removes_what_was_replaced(here: Path) -> None:
    danlu("run", "toy.yaml")
    danlu("run", "toy.yaml", "--set", "report.steps=2")
    assert "would remove 1 artifacts" in danlu("gc", "--dry-run").stdout
    assert len(last_json(danlu("gc", "--json"))["artifacts"]) == 1  # type: ignore[arg-type]
    assert len(last_json(danlu("ls", "--json"))["artifacts"]) == 2  # type: ignore[arg-type]


def test_one_stage(here: Path) -> None:
    made = last_json(danlu("stage", "tests.core.toys:source", "--set", "lines=2", "--name", "two", "--json"))
    assert made["metrics"] == {"lines": 2}
    assert last_json(danlu("show", "two", "--json"))["id"] == made["id"]
    assert {"data.prepare", "train.pretrain"} <= set(last_json(danlu("stage", "--json"))["stages"])  # type: ignore[call-overload]
    assert "tokenizer.pack" in danlu("stage").stdout


def test_recipes_are_listed(here: Path) -> None:
    assert {"quickstart", "poet"} <= set(last_json(danlu("recipes", "--json"))["recipes"])  # type: ignore[call-overload]
    assert "quickstart" in danlu("recipes").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothing"], 'no recipe "nothing"'),
        (["run", "nothing.yaml"], "no recipe file nothing.yaml"),
        (["run", "toy.yaml", "--set", "report.stps=1"], 'did you mean "steps"'),
        (["run", "toy.yaml", "--set", "report.steps"], "is not KEY=VALUE"),
        (["run", "toy.yaml", "--set", "report.steps=many"], "valid integer"),
        (["run", "toy.yaml", "--only", "repot"], 'did you mean "report"'),
        (["run", "toy.yaml", "--budget", "soon"], "is no budget"),
        (["run", "toy.yaml", "--size", "nano"], "no stage of this recipe builds a model"),
        (["run", "quickstart", "--size", "nanno", "--only", "corpus"], "nanno"),
        (["show", "nothing"], 'no artifact "nothing"'),
        (["generate", "nothing", "--prompt", "x"], 'no model "nothing"'),
        (["chat", "nothing"], 'no model "nothing"'),
        (["serve", "nothing"], 'no model "nothing"'),
        (["serve", "nothing", "--max-waiting", "-1"], "--max-waiting"),
        (["serve", "nothing", "--adapter", "poet"], "is not NAME=SOURCE"),
        (["serve", "nothing", "--adapter", "a=x", "--adapter", "a=y"], 'two adapters are named "a"'),
        (["serve", "one", "two", "--adapter", "a=x"], "one model with adapters"),
        (["eval", "nothing", "--task", "perplexity"], 'no model "nothing"'),
        (["export", "nothing", "out"], 'no model or corpus or tokens "nothing"'),
        (["compress", "nothing", "--method", "rtn", "--name", "x"], 'no model "nothing"'),
        (["import", "./nothing", "--name", "x"], "nothing"),
        (["stage", "tokenizer.trian"], 'did you mean "tokenizer.train"'),
        (["stage", "data.prepare", "--set", "source=./nothing.txt"], "nothing.txt"),
        (["ls", "--store", "nosuch://x"], "cannot be opened"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(here: Path, arguments: list[str], sentence: str) -> None:
    result = danlu(*arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and "Traceback" not in result.output
    assert not list(here.glob("**/artifact.json")) and not list(here.glob(".danlu/*/.*.tmp")), "nothing half-written"


def test_a_failed_stage_is_exit_code_1_and_debug_shows_where(here: Path) -> None:
    result = danlu("run", "toy.yaml", "--set", "report.fail_at=2")
    assert result.exit_code == 1 and "the toy broke" in result.stderr and "Traceback" not in result.output
    assert "Traceback" in danlu("run", "toy.yaml", "--set", "report.fail_at=2", "--debug").output


def test_unknown_commands_and_options(here: Path) -> None:
    assert danlu("runn").exit_code == 2
    assert danlu("run", "toy.yaml", "--bugdet", "1m").exit_code == 2


def test_help_is_quick_and_heavy_libraries_stay_out(here: Path) -> None:
    code = (
        "import sys; import danlu, danlu.cli.main; "
        "heavy = {'torch', 'pyarrow', 'numpy', 'fastapi', 'nicegui', 'tokenizers', 'transformers', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert danlu("--help").exit_code == 0 and "quickstart" in danlu("--help").stdout


def test_planning_does_not_import_torch(here: Path) -> None:
    code = (
        "import sys; from danlu.core.recipe import load_recipe; from danlu.core.plan import plan; "
        "from danlu.core.store import Store; plan(load_recipe('quickstart'), Store('s')); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_doctor(here: Path) -> None:
    found = last_json(danlu("doctor", "--json"))
    assert found["device"]["dtype"] in ("float32", "bfloat16")  # type: ignore[index]
    assert "GFLOP/s measured" in danlu("doctor").stdout


def test_a_reader_that_goes_away_is_no_error(here: Path) -> None:
    danlu("run", "toy.yaml")
    command = f"{sys.executable} -m danlu.cli.main show report | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=here)
    assert "Traceback" not in done.stderr


def test_one_damaged_manifest_is_a_warning_of_ls(here: Path) -> None:
    danlu("run", "toy.yaml")
    next((here / ".danlu" / "report").glob("*/artifact.json")).write_text("{")
    listed = danlu("ls", "--json")
    assert [a["kind"] for a in last_json(listed)["artifacts"]] == ["corpus"]  # type: ignore[attr-defined]
    assert "warning" in listed.stderr and "is damaged" in listed.stderr
    assert danlu("run", "toy.yaml").exit_code == danlu("gc").exit_code == 2
    assert danlu("ls", "--store", "toy.yaml").exit_code == 2


def test_json_holds_no_nan(here: Path) -> None:
    group = click.Group()

    @command(group)
    def odd(store: object, as_json: bool) -> dict[str, object]:
        return {"metrics": {"loss": float("nan")}}

    assert last_json(CliRunner().invoke(group, ["odd", "--json"])) == {"metrics": {"loss": "nan"}}


def test_the_result_is_printed_before_a_server_begins(here: Path) -> None:
    group = click.Group()

    @command(group)
    def work(store: object, as_json: bool) -> AndThen:
        def until_stopped() -> None:
            raise KeyboardInterrupt

        return AndThen({"done": True}, until_stopped)

    result = CliRunner().invoke(group, ["work", "--json"])
    assert result.exit_code == 130 and json.loads(result.stdout.splitlines()[-1]) == {"done": True}


def test_a_taken_port_is_told_before_anything_is_built(here: Path) -> None:
    (here / "served.yaml").write_text(RECIPE.replace("source", "modelling").split("  report:")[0] + "serve: text\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = danlu("run", "served.yaml", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2 and "is taken" in result.stderr
    assert not (here / ".danlu").exists()


@pytest.mark.parametrize("name", ["two words", "x@", "@v1", "a/b"])
def test_a_name_that_cannot_be_is_found_first(here: Path, name: str) -> None:
    for arguments in (["import", "nothing", "--name", name], ["stage", "tests.core.toys:source", "--name", name]):
        result = danlu(*arguments)
        assert result.exit_code == 2 and f'"{name}" cannot be a name' in result.stderr
    assert not (here / ".danlu").exists()


def test_a_prompt_that_is_not_text(here: Path) -> None:
    for arguments, given in ((["--prompt", "\udcff"], None), ([], b"\xff\xfe")):
        result = CliRunner().invoke(main, ["generate", "nothing", *arguments], input=given)
        assert result.exit_code == 2 and "UTF-8" in result.stderr


def test_one_model_over_several_processes(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.serve.tiny import write_model

    model = str(write_model(tmp_path_factory.mktemp("model") / "tiny"))
    asked = ["generate", model, "--prompt", "x", "--max-tokens", "5", "--temperature", "0", "--json"]
    assert last_json(danlu(*asked, "--tensor-parallel", "2")) == last_json(danlu(*asked))
    refused = danlu(*asked, "--tensor-parallel", "3")
    assert refused.exit_code == 2 and "2 KV heads cannot be shared by 3" in refused.stderr
    refused = danlu("serve", model, "--port", "0", "--replicas", "0")
    assert refused.exit_code == 2 and "replicas is 0" in refused.stderr


def test_an_export_into_the_working_directory(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.serve.tiny import write_model

    model = tmp_path_factory.mktemp("model")
    write_model(model)
    empty = here / "out"
    empty.mkdir()
    made = subprocess.run(
        [sys.executable, "-m", "danlu.cli.main", "export", str(model), "."], capture_output=True, text=True, cwd=empty
    )
    assert made.returncode == 0, made.stderr
    assert (empty / "config.json").exists()


@pytest.mark.parametrize("target", ["/proc/x", "/proc/x/y/z", "FILE/x/y"])
def test_an_export_to_where_nothing_can_be_written(
    here: Path, tmp_path_factory: pytest.TempPathFactory, target: str
) -> None:
    from tests.serve.tiny import write_model

    model = tmp_path_factory.mktemp("model")
    write_model(model)
    command = ["export", str(model), target.replace("FILE", str(model / "config.json"))]
    made = subprocess.run([sys.executable, "-m", "danlu.cli.main", *command], capture_output=True, text=True, cwd=here)
    assert made.returncode == 2 and "cannot be written" in made.stderr and "choose another one" in made.stderr


def test_an_export_removes_what_a_killed_one_left(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.serve.tiny import write_model

    model = tmp_path_factory.mktemp("model")
    write_model(model)
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (here / f".out.{killed.stdout.strip()}.tmp").mkdir()
    command = ["export", str(model), str(here / "out")]
    made = subprocess.run([sys.executable, "-m", "danlu.cli.main", *command], capture_output=True, text=True, cwd=here)
    assert made.returncode == 0, made.stderr
    assert not list(here.glob(".out.*.tmp")) and (here / "out" / "config.json").exists()


def test_generate_and_chat_with_an_adapter(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from danlu.engine import Engine, Sampling
    from danlu.model.adapter import write_adapter
    from tests.adapters import make_adapter
    from tests.serve.tiny import write_model

    model = tmp_path_factory.mktemp("model")
    write_model(model)
    engine = Engine(model)
    write_adapter(make_adapter(engine.model.config), here / "poet", engine.model.config)
    engine.load_adapter("poet", here / "poet")
    greedy = Sampling(temperature=0, max_tokens=8)
    plain, wanted = (next(engine.generate("明月", greedy, adapter)).text for adapter in (None, "poet"))
    arguments = ["generate", str(model), "--prompt", "明月", "--temperature", "0", "--max-tokens", "8", "--json"]
    assert last_json(danlu(*arguments, "--adapter", "./poet"))["text"] == wanted != plain
    assert last_json(danlu(*arguments))["text"] == plain
    said = [{"role": "user", "content": "明月"}]
    talked = danlu(
        "chat", str(model), "--adapter", "./poet", "--temperature", "0", "--max-tokens", "8", "--json", input="明月\n"
    )
    assert last_json(talked)["messages"][1]["content"] == next(engine.generate([said], greedy, "poet")).text  # type: ignore[index]
    wrong = danlu(*arguments, "--adapter", "nothing")
    assert wrong.exit_code == 2 and 'no adapter "nothing"' in wrong.stderr


@pytest.mark.parametrize("command", [["generate", "--prompt", "The"], ["chat"]])
def test_impatient_ctrl_c_in_a_stream_ends_quietly(
    here: Path, tmp_path_factory: pytest.TempPathFactory, command: list[str]
) -> None:
    from tests.serve.tiny import write_model

    model = str(write_model(tmp_path_factory.mktemp("model") / "tiny"))
    name, *options = command
    arguments = [name, model, *options, "--max-tokens", "8000", "--temperature", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "danlu.cli.main", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("明月\n".encode())
        process.stdin.flush()
        assert process.stdout.read(3), "the answer has begun"
        for pause in (*[0.003] * 100, *[0.5] * 100):  # a finger, not a flood: a busy machine must get to its answer
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGINT)
            time.sleep(pause)
        process.kill()
        assert process.returncode == 130 and process.stderr.read() == b"stopped\n"


def test_ctrl_c_while_a_model_loads_is_not_lost(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Torch drops the exception when it falls on its import of numpy."""
    from tests.serve.tiny import write_model

    model = str(write_model(tmp_path_factory.mktemp("model") / "tiny"))
    dropped = """
import contextlib, os, signal, sys
import danlu.engine
from danlu.cli.main import main

def load(*_, **__):
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    print("went on")
    raise ValueError

danlu.engine.Engine = load
main()
"""
    arguments = [sys.executable, "-c", dropped, "generate", model, "--prompt", "x"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_path_is_not_hashed_only_to_be_used(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from danlu.core import artifact
    from tests.serve.tiny import write_model

    model = write_model(tmp_path_factory.mktemp("model") / "tiny")

    def read(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(artifact, "sha256_file", read)
    generated = danlu("generate", str(model), "--prompt", "x", "--max-tokens", "2", "--json")
    assert last_json(generated)["finish_reason"]
    assert last_json(danlu("chat", str(model), "--max-tokens", "2", "--json", input="x\n"))["messages"]
    assert "was read" in danlu("show", str(model)).stderr, "which says the id"
