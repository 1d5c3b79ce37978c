"""Commands that use a model: generate, chat, serve, eval, compress."""

from __future__ import annotations

import re
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danlu.cli.common import command, drafter, engine_for, nested_settings, print_table
from danlu.core.errors import UserError
from danlu.serve import MAX_WAITING

if TYPE_CHECKING:
    from danlu.core.artifact import Artifact
    from danlu.core.store import Store


def register(main: click.Group) -> None:
    """Add the commands of this file to `main`."""

    @command(main)
    @click.argument("model")
    @click.option("--prompt", help="The text to continue; read from standard input when absent.")
    @click.option("--max-tokens", default=128, show_default=True)
    @click.option("--temperature", default=0.8, show_default=True, help="0 takes the likeliest token each time.")
    @click.option("--top-p", default=1.0, show_default=True)
    @click.option("--seed", type=int, help="The same seed gives the same text.")
    @click.option("--stop", multiple=True, help="End at this text; repeatable.")
    @click.option("--tensor-parallel", default=1, help="Cut the model over so many processes or GPUs.")
    @click.option("--adapter", help="A LoRA adapter of this model: a path, id or name.")
    def generate(
        store: Store, as_json: bool, model: str, prompt: str | None, max_tokens: int, temperature: float,
        top_p: float, seed: int | None, stop: tuple[str, ...], tensor_parallel: int, adapter: str | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Continue a text."""
        from danlu.engine import Sampling

        text = _checked(prompt if prompt is not None else _read_standard_input())
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=list(stop))
        parts, last = [], None
        with engine_for(store, model, adapter, tensor_parallel=tensor_parallel) as engine:
            with closing(engine.stream(text, sampling, adapter)) as stream:
                for last in stream:
                    parts.append(last.text)
                    if not as_json:
                        click.echo(last.text, nl=False)
        if not as_json:
            click.echo()
        assert last is not None
        return {"prompt": text, "text": "".join(parts), "finish_reason": last.finish_reason}

    @command(main)
    @click.argument("model")
    @click.option("--system", help="A system message.")
    @click.option("--max-tokens", default=512, show_default=True)
    @click.option("--temperature", default=0.7, show_default=True)
    @click.option("--seed", type=int)
    @click.option("--adapter", help="A LoRA adapter of this model: a path, id or name.")
    def chat(
        store: Store,
        as_json: bool,
        model: str,
        system: str | None,
        max_tokens: int,
        temperature: float,
        seed: int | None,
        adapter: str | None,
    ) -> dict[str, Any]:
        """Talk to a model. An empty line or Ctrl-D ends; Ctrl-C stops an answer, a second one all of it; /new forgets
        what was said."""
        from danlu.engine import Sampling

        engine = engine_for(store, model, adapter)
        if engine.tokenizer is None or engine.tokenizer.chat_template is None:
            raise UserError(
                f'"{model}" has no chat template', f"it continues text: danlu generate {model} --prompt TEXT"
            )
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
        opening = [{"role": "system", "content": system}] if system else []
        messages = list(opening)
        for line in _lines():
            if line == "/new":
                messages = list(opening)
                continue
            messages.append({"role": "user", "content": _checked(line)})
            try:
                answer = _answer(engine, messages, sampling, adapter)
            except UserError as error:  # too long for the context: no reason to leave the table
                if not sys.stdin.isatty():
                    raise
                messages.pop()
                click.echo(f"{error} /new forgets what was said.\n", err=True)
                continue
            messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    @command(main)
    @click.argument("models", nargs=-1, required=True)
    @click.option("--host", default="127.0.0.1", show_default=True)
    @click.option("--port", default=8000, show_default=True)
    @click.option("--api-key", envvar="DANLU_API_KEY", help="Require this key (or set DANLU_API_KEY).")
    @click.option("--replicas", default=1, help="So many engines of each model, in processes of their own.")
    @click.option("--tensor-parallel", default=1, help="Cut each engine's model over so many processes or GPUs.")
    @click.option(
        "--kv-dtype",
        type=click.Choice(["float32", "bfloat16", "int8"]),
        help="What keys and values are kept in; by default what suits the weights.",
    )
    @click.option("--speculate", metavar="HOW", help='Guess tokens ahead: "lookup", or a smaller model that guesses.')
    @click.option(
        "--max-waiting",
        type=click.IntRange(min=0),
        default=MAX_WAITING,
        show_default=True,
        help="Answers that may wait beyond those being written; more are refused with 503.",
    )
    @click.option(
        "--adapter", "adapters", multiple=True, help="NAME=SOURCE: a LoRA adapter to serve as NAME; repeatable."
    )
    def serve(
        store: Store,
        as_json: bool,
        models: tuple[str, ...],
        host: str,
        port: int,
        api_key: str | None,
        replicas: int,
        tensor_parallel: int,
        kv_dtype: str | None,
        speculate: str | None,
        max_waiting: int,
        adapters: tuple[str, ...],
    ) -> dict[str, Any]:
        """Serve models over the OpenAI protocol, with a chat page at /."""
        from danlu.serve.server import serve_models

        pairs = _pairs(adapters)
        if pairs and len(models) > 1:
            raise UserError("--adapter needs to know its model", "serve one model with adapters at a time")
        paths = {_served_name(spec): store.resolve(spec, "model").path for spec in models}
        if len(paths) < len(models):
            raise UserError(
                "two of the models would have the same name on the server", "name them apart with danlu import"
            )
        found = {name: store.resolve(source, "adapter").path for name, source in pairs.items()}
        options: dict[str, Any] = {
            "tensor_parallel": tensor_parallel,
            "kv_dtype": kv_dtype,
            "speculate": drafter(store, speculate),
            "adapters": found,
        }
        serve_models(
            paths, host=host, port=port, api_key=api_key, max_waiting=max_waiting, replicas=replicas, options=options
        )
        return {"served": [*paths, *found]}

    @command(main, "eval")
    @click.argument("model")
    @click.option("--task", required=True, help="What to measure: perplexity, python, poems.")
    @click.option(
        "--data", type=click.Path(path_type=Path), help="A file, a folder or a corpus artifact to measure on."
    )
    def evaluate(store: Store, as_json: bool, model: str, task: str, data: Path | None) -> dict[str, Any]:
        """Measure a model on one task, beside a trivial baseline."""
        from danlu.evaluate.tasks import run_task

        found = store.resolve(model, "model")
        result = run_task(task, found, data=data, store=store)
        if not as_json:
            rows = [(key, _number(value)) for key, value in result["metrics"].items()]
            rows += [
                (f"{name}: {k}", _number(v))
                for name, row in result.get("baselines", {}).items()
                for k, v in row.items()
            ]
            print_table(("metric", "value"), rows, right=(1,))
        return {"model": found.id} | result

    @command(main)
    @click.argument("model")
    @click.option("--method", default="?", help="rtn, gptq, awq, wanda, channels, vocabulary, ...; without it a list.")
    @click.option("--bits", type=int, help="Of a weight, when quantising; default: the first that the method knows.")
    @click.option("--share", type=float, help="That goes, when pruning; default: the method's own.")
    @click.option("--calibration", metavar="CORPUS", help="Text that shows what the model is fed: gptq, wanda, ....")
    @click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting of the stage.")
    @click.option("--name", help="Name of the smaller model in the store (default: MODEL-METHOD, with the bits).")
    def compress(
        store: Store,
        as_json: bool,
        model: str,
        method: str,
        bits: int | None,
        share: float | None,
        calibration: str | None,
        settings: tuple[str, ...],
        name: str | None,
    ) -> dict[str, Any]:
        """Make a model smaller."""
        from danlu.compress.methods import needs_text, stage_for, summaries
        from danlu.core.progress import TerminalView
        from danlu.core.run import new_run_log, run_stage
        from danlu.core.store import check_name

        if method == "?":
            if bits is not None or share is not None or calibration is not None or settings or name is not None:
                raise UserError("which method?", "--method METHOD; without any option this lists them")
            if not as_json:
                rows = [(name, "text" if needs_text(name) else "", what) for name, what in summaries().items()]
                print_table(("method", "needs", "what it does"), rows)
                click.echo("text: --calibration CORPUS. What each costs and which to take: docs/compress.md")
            return {"methods": summaries()}
        stage, values = stage_for(method, bits=bits, share=share, text=calibration)
        values = _with_settings({"model": model, **values}, nested_settings(settings), method)
        name = _smaller_name(model, method, values.get("bits")) if name is None else name
        check_name(name)
        events = new_run_log(store, "compress")
        with TerminalView() as view:
            events.subscribe(view)
            artifact = run_stage(stage, values, store, events, name)
        if not as_json:
            click.echo(f"{name} is {artifact.id}: {_smaller(store.resolve(model, 'model'), artifact)}")
            click.echo(f"what it lost: danlu eval {name} --task perplexity --data CORPUS")
        return {"id": artifact.id, "name": name, "path": str(artifact.path), "metrics": artifact.manifest.metrics}


def _read_standard_input() -> str:
    if sys.stdin.isatty():
        raise UserError("there is no prompt", 'write --prompt "TEXT" or pipe a text in')
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start})", "convert it first") from None


def _checked(text: str) -> str:
    """`text` itself. Bytes that were no UTF-8 reach us as lone surrogates, which no tokenizer takes: UserError."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("the text is not UTF-8", "convert it first")
    return text


def _lines() -> Any:
    """Lines of a person at a terminal, or of a pipe."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if interactive else "")
        except (EOFError, KeyboardInterrupt) as end:
            click.echo()
            if isinstance(end, KeyboardInterrupt):
                raise
            return
        if not line.strip():
            if interactive:
                return
            continue
        yield line


def _answer(engine: Any, messages: list[dict[str, str]], sampling: Any, adapter: str | None) -> str:
    """Stream one answer to the terminal; Ctrl-C ends the answer, not the conversation."""
    parts: list[str] = []
    with suppress(KeyboardInterrupt), closing(engine.stream(messages, sampling, adapter)) as stream:
        for delta in stream:
            parts.append(delta.text)
            click.echo(delta.text, nl=False)
    click.echo("\n")
    return "".join(parts)


def _pairs(adapters: tuple[str, ...]) -> dict[str, str]:
    """`--adapter NAME=SOURCE`, repeated, as a mapping."""
    pairs: dict[str, str] = {}
    for given in adapters:
        name, equals, source = given.partition("=")
        if not (name and equals and source):
            raise UserError(f'--adapter "{given}" is not NAME=SOURCE', "for example --adapter poet=adapters/poet")
        if name in pairs:
            raise UserError(f'two adapters are named "{name}"')
        pairs[name] = source
    return pairs


def _served_name(spec: str) -> str:
    """The name clients use: the given one, or the last part of a path."""
    return Path(spec).stem if "/" in spec or spec.endswith(".gguf") else spec


def _with_settings(options: dict[str, Any], settings: dict[str, Any], method: str) -> dict[str, Any]:
    """What the options say and `--set` adds. Raises UserError where both say something and differ."""
    for key, value in settings.items():
        if key in options and value != options[key]:
            raise UserError(
                f"{method} is to have {key} = {options[key]}, and --set {key}={value}", "say it once, without --set"
            )
    return settings | options


def _smaller_name(model: str, method: str, bits: int | None) -> str:
    """chat, gptq, 4: chat-gptq4."""
    base = re.sub(r"[^\w.-]", "-", _served_name(model).partition("@")[0]).lstrip("-_.")
    return f"{base}-{method.replace('+', '-')}{bits or ''}"


def _smaller(before: Artifact, after: Artifact) -> str:
    """What became of the files of the weights."""
    from danlu.core.progress import human_bytes
    from danlu.evaluate.compare import weight_bytes

    old, new = weight_bytes(before), weight_bytes(after)
    zeros = after.manifest.metrics.get("zeros", 0)
    told = f"; {zeros:.0%} of the weights are 0, which take as much room as others" if zeros > 0.01 else ""
    change = f"{1 - new / old:.0%} smaller" if new <= old else f"{new / old:.1f} times as many"
    return f"weights of {human_bytes(old)} in {human_bytes(new)}, {change}{told}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
