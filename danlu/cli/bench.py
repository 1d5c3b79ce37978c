"""The command that measures a model: bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from danlu.cli.common import command, engine_for, print_table

if TYPE_CHECKING:
    from danlu.core.store import Store
    from danlu.engine.bench import Moment


def register(main: click.Group) -> None:
    """Add the command of this file to `main`."""

    @command(main)
    @click.argument("model")
    @click.option(
        "--prompt-tokens", type=int, help="Length of the prompts.  [default: 512, or what the context allows]"
    )
    @click.option("--max-tokens", type=int, help="Length of the answers.  [default: 128, or what the context allows]")
    @click.option("--concurrency", default=8, show_default=True, help="Requests at once; 1 measures one stream alone.")
    @click.option("--rounds", default=3, show_default=True)
    def bench(
        store: Store,
        as_json: bool,
        model: str,
        prompt_tokens: int | None,
        max_tokens: int | None,
        concurrency: int,
        rounds: int,
    ) -> dict[str, Any]:
        """Measure how fast a model is here, and how fast this machine could be."""
        from danlu.engine.bench import BenchPlan
        from danlu.engine.bench import bench as measure
        from danlu.engine.compiled import CompiledRunner
        from danlu.engine.limits import measure_machine

        BenchPlan.check(prompt_tokens, max_tokens, concurrency, rounds)
        artifact = store.resolve(model, "model")
        engine = engine_for(store, model, max_sequences=max(32, concurrency))
        plan = BenchPlan.fit(engine.max_context, prompt_tokens, max_tokens, concurrency, rounds)
        with _Live() as live:
            result = measure(engine, plan, measure_machine(), live)
        compiled = isinstance(engine.runner, CompiledRunner)
        about = {
            "model": artifact.id,
            "device": str(engine.device),
            "kernels": engine.runner.decoder.instructions if compiled else "torch",
        }
        if not as_json:
            _print(about | result)
        return about | result


class _Live:
    """The run in progress, on standard error: one moving line on a terminal, else a line for each run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("measuring the machine", total=None)
        self.runs = 0

    def __enter__(self) -> _Live:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def __call__(self, moment: Moment) -> None:
        text = moment.phase
        if moment.tokens_per_second is not None:
            text += f"  {moment.tokens_per_second:,.1f} tokens/s"
        if moment.share is not None:
            text += f"  {moment.share:.0%} of the bandwidth limit"
        self.progress.update(self.task, description=text, completed=moment.done, total=moment.total)
        if not self.console.is_terminal and moment.tokens_per_second is None:
            self.console.print(f"run {moment.done + 1} of {moment.total}: {moment.phase}")


def _print(result: dict[str, Any]) -> None:
    from danlu.core.progress import human_bytes

    limits, size = result["limits"], result["bytes"]
    click.echo(
        f"{result['model']} on {result['device']}, kernels: {result['kernels']}; "
        f"weights {human_bytes(size['weights'])}, KV cache {human_bytes(size['kv_per_token'])} a token"
    )
    click.echo(
        f"measured here: memory {limits['bandwidth'] / 1e9:.1f} GB/s, "
        f"matrix products {limits['matrix_peak'] / 1e9:,.0f} GFLOP/s\n"
    )
    sizes = f"{result['prompt_tokens']} tokens in, {result['max_tokens']} out, rounds: {result['rounds']}"
    rows = [
        (name, _rate(part["tokens_per_second"]), f"{part['limit']:,.0f}", f"{part['share']:.0%}")
        for name, part in (("prefill", result["prefill"]), ("decode", result["decode"]))
    ]
    together = result["concurrent"]
    if together:
        rows.append((f"{together['requests']} at once", _rate(together["tokens_per_second"]), "", ""))
    print_table((sizes, "tokens/s (low - high)", "limit", "share"), rows, right=(1, 2, 3))
    ttft = result["ttft_seconds"]
    waits = [("first token, alone", _ms(ttft["median"]), _ms(ttft["low"]), _ms(ttft["high"]))]
    click.echo()
    print_table(("milliseconds", "median", "low", "high"), waits, right=(1, 2, 3))
    gaps = [("between tokens, alone", *map(_ms, result["gap_seconds"].values()))]
    if together:
        gaps.append((f"between tokens, {together['requests']} at once", *map(_ms, together["gap_seconds"].values())))
        gaps.append((f"first token, {together['requests']} at once", *map(_ms, together["ttft_seconds"].values())))
    click.echo()
    print_table(("milliseconds", "p50", "p90", "p99"), gaps, right=(1, 2, 3))


def _rate(spread: dict[str, float]) -> str:
    return "{median:,.1f} ({low:,.1f} - {high:,.1f})".format(**spread)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}"
