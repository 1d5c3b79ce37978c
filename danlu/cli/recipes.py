"""Commands that build: run, plan, recipes, stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from danlu.cli.common import AndThen, command, nested_settings, parse_settings, print_table

if TYPE_CHECKING:
    from danlu.core.plan import Step
    from danlu.core.recipe import Recipe
    from danlu.core.run import Result
    from danlu.core.store import Store

SET = click.option(
    "--set", "settings", multiple=True, metavar="STAGE.KEY=VALUE", help="Override one value; repeatable."
)
BUDGET = click.option("--budget", metavar="BUDGET", help='The whole recipe\'s budget: "2m", "200 steps", "20M tokens".')
SIZE = click.option("--size", metavar="PRESET", help="Size of the model: pico, nano, micro, small, base, or auto.")
ONLY = click.option("--only", multiple=True, metavar="STAGE", help="Build this stage and what it needs; repeatable.")


def _set_workers(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Stages ask `Workers.default`, which reads the environment: it is no part of any config or id."""
    if value is not None:
        from danlu.core.workers import Workers

        Workers.parse(value)
        os.environ["DANLU_WORKERS"] = value


WORKERS = click.option(
    "--workers", metavar="N", callback=_set_workers, expose_value=False,
    help="Processes for work that comes in pieces: a number, all (default), ray, or ray:ADDRESS.",
)  # fmt: skip


def register(main: click.Group) -> None:
    """Add the commands of this file to `main`."""

    @command(main)
    @click.argument("recipe")
    @SET
    @ONLY
    @BUDGET
    @SIZE
    @WORKERS
    @click.option("--no-serve", is_flag=True, help="Stop when everything is built.")
    @click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
    @click.option("--port", default=8000, show_default=True, help="Port to serve on.")
    def run(
        store: Store, as_json: bool, recipe: str, settings: tuple[str, ...], only: tuple[str, ...],
        budget: str | None, size: str | None, no_serve: bool, host: str, port: int,
    ) -> dict[str, Any] | AndThen:  # fmt: skip
        """Build a recipe, then serve its models.

        Only what is out of date is built, and what was interrupted goes on where it stopped.
        """
        from danlu.core.progress import TerminalView
        from danlu.core.recipe import load_recipe
        from danlu.core.run import new_run_log, run_recipe

        loaded = load_recipe(recipe, parse_settings(settings), budget, size)
        steps = _plan_that_fits(loaded, store, only)
        serving = bool(loaded.serve) and not no_serve and not only
        if serving:
            _check_server(host, port)
        _print_plan(steps, err=True)
        events = new_run_log(store, loaded.name)
        with TerminalView() as view:
            events.subscribe(view)
            result = run_recipe(loaded, store, only, events)
        artifacts = {name: artifact.id for name, artifact in result.artifacts.items()}
        if not as_json:
            _print_artifacts(result)
        metrics = {name: artifact.manifest.metrics for name, artifact in result.artifacts.items()}
        made = {
            "recipe": loaded.name, "artifacts": artifacts, "metrics": metrics, "failed": result.failed,
            "events": str(result.events),
        }  # fmt: skip
        if not serving:
            return made
        from danlu.serve.server import serve_models

        paths = {name: result.artifacts[name].path for name in loaded.serve}
        return AndThen(made, lambda: serve_models(paths, host=host, port=port))

    @command(main)
    @click.argument("recipe")
    @SET
    @ONLY
    @BUDGET
    @SIZE
    def plan(
        store: Store, as_json: bool, recipe: str, settings: tuple[str, ...], only: tuple[str, ...],
        budget: str | None, size: str | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Show what `run` would do and why, with time, memory and disk where they can be estimated."""
        from danlu.core.plan import plan as make_plan
        from danlu.core.recipe import load_recipe

        loaded = load_recipe(recipe, parse_settings(settings), budget, size)
        steps = make_plan(loaded, store, only)
        if not as_json:
            _print_plan(steps, err=False)
        return {"recipe": loaded.name, "steps": [_step_json(step) for step in steps]}

    @command(main)
    def recipes(store: Store, as_json: bool) -> dict[str, Any]:
        """List the recipes that ship with danlu."""
        from danlu.core.recipe import bundled_recipes, inputs_of, load_recipe

        found = {name: load_recipe(name, {key: key.upper() for key in inputs_of(name)}) for name in bundled_recipes()}
        if not as_json:
            print_table(("recipe", "what it makes"), [(name, r.description) for name, r in found.items()])
        return {"recipes": {name: {"description": r.description, "stages": list(r.nodes)} for name, r in found.items()}}

    @command(main)
    @click.argument("name", required=False)
    @click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Config or input of the stage; repeatable."
    )
    @click.option("--name", "save_as", metavar="NAME", help="Name of the artifact in the store (default: the stage's).")
    @WORKERS
    def stage(
        store: Store, as_json: bool, name: str | None, settings: tuple[str, ...], save_as: str | None
    ) -> dict[str, Any]:
        """Run one stage without a recipe; without NAME, list the stages and what they take."""
        from danlu.core.progress import TerminalView
        from danlu.core.run import new_run_log, run_stage

        if name is None:
            return _list_stages(as_json)
        values = nested_settings(settings)
        events = new_run_log(store, name)
        with TerminalView() as view:
            events.subscribe(view)
            artifact = run_stage(name, values, store, events, save_as or "")
        if not as_json:
            click.echo(artifact.id)
        return {"id": artifact.id, "path": str(artifact.path), "metrics": artifact.manifest.metrics}


def _plan_that_fits(recipe: Recipe, store: Store, only: tuple[str, ...]) -> list[Step]:
    """The plan, refused when the disk cannot hold it."""
    import shutil

    from danlu.core.plan import check_disk
    from danlu.core.plan import plan as make_plan

    steps = make_plan(recipe, store, only)
    here = next((p for p in (store.root, *store.root.absolute().parents) if p.exists()), None)
    if here is not None:
        check_disk(steps, shutil.disk_usage(here).free)
    return steps


def _check_server(host: str, port: int) -> None:
    """A taken port or a missing package is told before the models are built, not after."""
    from danlu.core.errors import need
    from danlu.serve.server import bind

    need("fastapi", "serve")
    need("uvicorn", "serve")
    bind(host, port).close()


def _print_plan(steps: list[Step], err: bool) -> None:
    from danlu.core.progress import human_bytes, human_seconds

    def shown(value: float | None, form: Any) -> str:
        return form(value) if value is not None else ""

    rows = [
        (
            step.node.name,
            step.node.stage.name,
            step.action,
            shown(step.estimate.seconds, human_seconds),
            shown(step.estimate.memory_bytes, human_bytes),
            shown(step.estimate.disk_bytes, human_bytes),
            step.reason,
        )
        for step in steps
    ]
    with _standard_output_as_error(err):
        print_table(("stage", "use", "plan", "time", "memory", "disk", "why"), rows, right=(3, 4, 5))


def _standard_output_as_error(err: bool) -> Any:
    import contextlib
    import sys

    return contextlib.redirect_stdout(sys.stderr) if err else contextlib.nullcontext()


def _print_artifacts(result: Result) -> None:
    from danlu.core.progress import human_bytes

    rows = [(name, a.id, human_bytes(a.manifest.size)) for name, a in result.artifacts.items()]
    rows += [(name, f"left out: {reason}", "") for name, reason in result.failed.items()]
    click.echo()
    print_table(("stage", "artifact", "size"), rows, right=(2,))


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "stage": step.node.name,
        "use": step.node.stage.name,
        "id": step.id,
        "action": step.action,
        "reason": step.reason,
        "seconds": step.estimate.seconds,
        "memory_bytes": step.estimate.memory_bytes,
        "disk_bytes": step.estimate.disk_bytes,
    }


def _list_stages(as_json: bool) -> dict[str, Any]:
    from danlu.core.stage import get_stage, stage_names

    stages = [get_stage(name) for name in stage_names()]
    if not as_json:
        rows = [(s.name, ", ".join(s.takes), s.makes, s.summary) for s in stages]
        print_table(("stage", "takes", "makes", "what it does"), rows)
    return {
        "stages": {
            s.name: {"takes": list(s.takes), "makes": s.makes, "config": list(s.config.model_fields)} for s in stages
        }
    }
